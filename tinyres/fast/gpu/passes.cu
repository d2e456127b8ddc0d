// The passes between the matrix products of a residual block, one thread for each 16 bytes of an image's row.
// Layouts are those of passes.py; a unit is WIDTH channels. Sums are added up in a fixed order, and no two
// threads write to the same place: same input, same bytes.

#ifdef __CUDACC_RTC__
#include <cuda_fp16.h>
#endif

template <typename Number, unsigned WIDTH>
struct alignas(sizeof(Number) * WIDTH) Unit { Number number[WIDTH]; };

// One or more rows of images for each block; the only division is by H.
#define FOR_EACH_UNIT \
    for (unsigned row = blockIdx.x, h = row % H; row < rows; row += gridDim.x, h = row % H) \
        for (unsigned w = threadIdx.y; w < W; w += blockDim.y) \
            for (unsigned unit = threadIdx.x; unit < units; unit += blockDim.x)

// Write a pixel of padded images, (1 + rows pitch, units), and the zeros next to it.
template <typename Value>
__device__ void put_padded(Value* out, Value value, unsigned row, unsigned w, unsigned W, unsigned pitch,
                           unsigned unit, unsigned units) {
    Value zero = {}, *line = out + (1 + row * pitch) * units + unit;
    line[w * units] = value;
    if (row == 0 && w == 0) out[unit] = zero;
    if (w == W - 1)
        for (unsigned edge = W; edge < pitch; edge++) line[edge * units] = zero;
}

// Write a pixel wherever a stack of gradients, (rows, W, 3, units), has it: in the middle of its own three, first
// in the three of the pixel above, last in those of the pixel below; and zeros where its own cross the border.
template <typename Value>
__device__ void put_stacked(Value* stack, Value value, unsigned row, unsigned h, unsigned H, unsigned w,
                            unsigned W, unsigned unit, unsigned units) {
    Value zero = {}, *here = stack + (row * W + w) * 3 * units + unit;
    unsigned next = 3 * units * W;
    here[units] = value;
    if (h == 0) here[2 * units] = zero; else *(here - next) = value;
    if (h == H - 1) here[0] = zero; else here[next + 2 * units] = value;
}

template <bool STACKED, typename Value>
__device__ void put(Value* out, Value value, unsigned row, unsigned h, unsigned H, unsigned w, unsigned W,
                    unsigned pitch, unsigned unit, unsigned units) {
    if (STACKED) put_stacked(out, value, row, h, H, w, W, unit, units);
    else put_padded(out, value, row, w, W, pitch, unit, units);
}

// An image, or its relu, padded or, if STACKED, stacked. x_n, x_h, x_w: the strides from image to image, row to
// row and pixel to pixel of x, in units.
template <typename Number, unsigned WIDTH, bool STACKED>
__global__ void lay_out(const Number* __restrict__ x, Number* __restrict__ out, unsigned rows, unsigned H,
                        unsigned W, unsigned pitch, unsigned units, unsigned x_n, unsigned x_h, unsigned x_w,
                        unsigned relu) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        Value value = ((const Value*)x)[row / H * x_n + h * x_h + w * x_w + unit];
        for (unsigned j = 0; j < WIDTH; j++)
            if (relu && value.number[j] < Number(0)) value.number[j] = Number(0);
        put<STACKED>((Value*)out, value, row, h, H, w, W, pitch, unit, units);
    }
}

// A kernel's gradient: total (count) is the sum of chunks (number, count), if there are any.
template <typename Number, typename Sum>
__device__ void add_up(const Sum* __restrict__ chunks, Number* __restrict__ total, unsigned number,
                       unsigned count) {
    unsigned threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (unsigned i = blockIdx.x * threads + thread; i < count; i += gridDim.x * threads) {
        Sum sum = 0;
        for (unsigned j = 0; j < number; j++) sum += chunks[j * count + i];
        total[i] = Number(sum);
    }
}

// The image whose pixels are sums of three partial sums each, (rows, W, 3, units). Forward, these are of the rows
// above, here and below, and the image is padded; if STACKED, they are of the columns to the right, here and to
// the left, and it is stacked.
// `then` says what follows: 0 `other` is added; 1 relu; 2 the sum is kept where `other` is positive.
// `other` is an image of other_units units, of which `shift` is added to the place of ours: the mean over pool x
// pool of its pixels, other_row pixels from row to row and other_step from pixel to pixel; 0 where it has no unit.
template <typename Number, typename Sum, unsigned WIDTH, bool STACKED>
__global__ void combine(const Number* __restrict__ partial, const Number* __restrict__ other,
                        Number* __restrict__ out, const Sum* __restrict__ chunks, Number* __restrict__ total,
                        unsigned rows, unsigned H, unsigned W, unsigned pitch, unsigned units,
                        unsigned other_row, unsigned other_step, unsigned other_units, unsigned shift,
                        unsigned pool, unsigned number, unsigned count, unsigned then) {
    typedef Unit<Number, WIDTH> Value;
    Sum share = Sum(1) / Sum(pool * pool);
    FOR_EACH_UNIT {
        unsigned pixel = (row * W + w) * 3 * units + unit, step = (STACKED ? 3 : 3 * W) * units;
        bool first = STACKED ? w == 0 : h == 0, last = STACKED ? w == W - 1 : h == H - 1;
        Sum sum[WIDTH] = {}, beside[WIDTH] = {};
        for (unsigned i = 0; i < 3; i++) {
            bool before = STACKED ? i == 2 : i == 0, after = STACKED ? i == 0 : i == 2;
            if ((before && first) || (after && last)) continue;
            unsigned from = before ? pixel - step : after ? pixel + step : pixel;
            Value part = ((const Value*)partial)[from + i * units];
            for (unsigned j = 0; j < WIDTH; j++) sum[j] += Sum(part.number[j]);
        }
        for (unsigned i = 0; i < pool * pool && unit + shift < other_units; i++) {
            unsigned from = (row * pool + i / pool) * other_row + (w * pool + i % pool) * other_step + 1;
            Value value = ((const Value*)other)[from * other_units + unit + shift];
            for (unsigned j = 0; j < WIDTH; j++) beside[j] += share * Sum(value.number[j]);
        }
        Value value;
        for (unsigned j = 0; j < WIDTH; j++) {
            bool keep = then == 0 || (then == 1 ? !(sum[j] < Sum(0)) : beside[j] > Sum(0));  // NaN stays NaN
            value.number[j] = Number(keep ? then == 0 ? sum[j] + beside[j] : sum[j] : Sum(0));
        }
        put<STACKED>((Value*)out, value, row, h, H, w, W, pitch, unit, units);
    }
    add_up(chunks, total, number, count);
}

// The windows of any kernel, whose rows are those of the result: x (N, x_H, x_W, channels) -> out (rows, W, KH, KW,
// channels), in units of which a window has `units`. x_n, x_h, x_w as in lay_out.
template <typename Number, unsigned WIDTH, bool STACKED>
__global__ void cut(const Number* __restrict__ x, Number* __restrict__ out, unsigned rows, unsigned H, unsigned W,
                    unsigned pitch, unsigned units, unsigned x_n, unsigned x_h, unsigned x_w, unsigned x_H,
                    unsigned x_W, unsigned channels, unsigned KW, unsigned stride_h, unsigned stride_w,
                    unsigned padding_h, unsigned padding_w) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        unsigned kh = unit / channels / KW, kw = unit / channels % KW;
        int above = int(h * stride_h + kh) - int(padding_h), left = int(w * stride_w + kw) - int(padding_w);
        bool inside = above >= 0 && above < int(x_H) && left >= 0 && left < int(x_W);
        Value zero = {}, *place = (Value*)out + (row * W + w) * units + unit;
        *place = inside ? ((const Value*)x)[row / H * x_n + above * x_h + left * x_w + unit % channels] : zero;
    }
}

// The transpose of `cut`: columns (N, OH, OW, KH, KW, units) -> an image (rows, W, units), stacked or as it is. Each
// pixel is the sum of its copies in all windows, and of its share in the pixel of `other` to whose pool x pool it
// belongs, if there is any.
template <typename Number, typename Sum, unsigned WIDTH, bool STACKED>
__global__ void gather(const Number* __restrict__ columns, const Number* __restrict__ other,
                       Number* __restrict__ out, const Sum* __restrict__ chunks, Number* __restrict__ total,
                       unsigned rows, unsigned H, unsigned W, unsigned pitch, unsigned units,
                       unsigned other_row, unsigned other_step, unsigned other_units, unsigned shift,
                       unsigned pool, unsigned number, unsigned count, unsigned KH, unsigned KW, unsigned OH,
                       unsigned OW, unsigned stride_h, unsigned stride_w, unsigned padding_h,
                       unsigned padding_w) {
    typedef Unit<Number, WIDTH> Value;
    Sum share = Sum(1) / Sum(pool * pool);
    FOR_EACH_UNIT {
        Sum sum[WIDTH] = {};
        for (unsigned kh = 0; kh < KH; kh++) {
            int above = int(h + padding_h) - int(kh);
            if (above < 0 || above % int(stride_h) || above / int(stride_h) >= int(OH)) continue;
            for (unsigned kw = 0; kw < KW; kw++) {
                int left = int(w + padding_w) - int(kw);
                if (left < 0 || left % int(stride_w) || left / int(stride_w) >= int(OW)) continue;
                unsigned window = (row / H * OH + above / stride_h) * OW + left / stride_w;
                Value part = ((const Value*)columns)[((window * KH + kh) * KW + kw) * units + unit];
                for (unsigned j = 0; j < WIDTH; j++) sum[j] += Sum(part.number[j]);
            }
        }
        if (pool && unit + shift < other_units) {
            unsigned from = row / pool * other_row + w / pool * other_step + 1;
            Value value = ((const Value*)other)[from * other_units + unit + shift];
            for (unsigned j = 0; j < WIDTH; j++) sum[j] += share * Sum(value.number[j]);
        }
        Value value;
        for (unsigned j = 0; j < WIDTH; j++) value.number[j] = Number(sum[j]);
        if (STACKED) put_stacked((Value*)out, value, row, h, H, w, W, unit, units);
        else ((Value*)out)[(row * W + w) * units + unit] = value;
    }
    add_up(chunks, total, number, count);
}
