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

template <bool BACKWARD, typename Value>
__device__ void put(Value* out, Value value, unsigned row, unsigned h, unsigned H, unsigned w, unsigned W,
                    unsigned pitch, unsigned unit, unsigned units) {
    if (BACKWARD) put_stacked(out, value, row, h, H, w, W, unit, units);
    else put_padded(out, value, row, w, W, pitch, unit, units);
}

// An image, or its relu, padded or, if BACKWARD, stacked. x_n, x_h, x_w: the strides from image to image, row to
// row and pixel to pixel of x, in units.
template <typename Number, unsigned WIDTH, bool BACKWARD>
__global__ void lay_out(const Number* __restrict__ x, Number* __restrict__ out, unsigned rows, unsigned H,
                        unsigned W, unsigned pitch, unsigned units, unsigned x_n, unsigned x_h, unsigned x_w,
                        unsigned relu) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        Value value = ((const Value*)x)[row / H * x_n + h * x_h + w * x_w + unit];
        for (unsigned j = 0; j < WIDTH; j++)
            if (relu && value.number[j] < Number(0)) value.number[j] = Number(0);
        put<BACKWARD>((Value*)out, value, row, h, H, w, W, pitch, unit, units);
    }
}

// The image whose pixels are sums of three partial sums each, (rows, W, 3, units), with partial_h units from row
// to row and partial_w from pixel to pixel. Forward, these are of the rows above, here and below, and the image is
// padded; if BACKWARD, they are of the columns to the right, here and to the left, and it is stacked. `then` says what follows: 0 nothing; 1 relu; 2 the pixel of `other` is
// added; 3 the sum is kept where the pixel of `other` is positive. Rows of `other` are other_row units apart,
// pixels other_step units, and the first pixel is at other_start. In the same launch, a kernel's gradient: total
// (count) is the sum of chunks (number, count), if there are any.
template <typename Number, typename Sum, unsigned WIDTH, bool BACKWARD>
__global__ void combine(const Number* __restrict__ partial, const Number* __restrict__ other,
                        Number* __restrict__ out, const Sum* __restrict__ chunks, Number* __restrict__ total,
                        unsigned rows, unsigned H, unsigned W, unsigned pitch, unsigned units,
                        unsigned partial_h, unsigned partial_w, unsigned other_row, unsigned other_step,
                        unsigned other_start, unsigned then, unsigned number, unsigned count) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        unsigned pixel = row * partial_h + w * partial_w + unit, step = BACKWARD ? partial_w : partial_h;
        bool first = BACKWARD ? w == 0 : h == 0, last = BACKWARD ? w == W - 1 : h == H - 1;
        Sum sum[WIDTH] = {};
        Value other_value = {};
        for (unsigned i = 0; i < 3; i++) {
            bool before = BACKWARD ? i == 2 : i == 0, after = BACKWARD ? i == 0 : i == 2;
            if ((before && first) || (after && last)) continue;
            unsigned from = before ? pixel - step : after ? pixel + step : pixel;
            Value part = ((const Value*)partial)[from + i * units];
            for (unsigned j = 0; j < WIDTH; j++) sum[j] += Sum(part.number[j]);
        }
        if (then > 1)
            other_value = ((const Value*)other)[row * other_row + w * other_step + other_start + unit];
        Value value;
        for (unsigned j = 0; j < WIDTH; j++) {
            Sum b = Sum(other_value.number[j]);
            bool keep = then == 1 ? !(sum[j] < Sum(0)) : then != 3 || b > Sum(0);  // NaN stays NaN
            value.number[j] = Number(keep ? then == 2 ? sum[j] + b : sum[j] : Sum(0));
        }
        put<BACKWARD>((Value*)out, value, row, h, H, w, W, pitch, unit, units);
    }
    unsigned threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (unsigned i = blockIdx.x * threads + thread; i < count; i += gridDim.x * threads) {
        Sum sum = 0;
        for (unsigned j = 0; j < number; j++) sum += chunks[j * count + i];
        total[i] = Number(sum);
    }
}
