// What stands between the matrix products of a residual block, one thread for each 16 bytes of an image's row.
// Stacks and partial sums are as in gpu_block.py: (N, H, W, 3, units), where a unit is WIDTH channels. Sums are
// in a fixed order, and no thread writes where another one does: same input, same bytes.

#ifdef __CUDACC_RTC__
#include <cuda_fp16.h>
#endif

template <typename Number, unsigned WIDTH>
struct alignas(sizeof(Number) * WIDTH) Unit { Number number[WIDTH]; };

// An image row for each block, or more; no division but the one by H.
#define FOR_EACH_UNIT \
    for (unsigned row = blockIdx.x, h = row % H; row < rows; row += gridDim.x, h = row % H) \
        for (unsigned w = threadIdx.y; w < W; w += blockDim.y) \
            for (unsigned unit = threadIdx.x; unit < units; unit += blockDim.x)

// Write a pixel wherever a stack has it: as the middle of its own three, and as a neighbour of two others; and
// zeros where its own three reach over the border. Stacks of gradients (BACKWARD) hold, from first to last, the
// pixel below, itself and the one above; stacks of images the one to the left, itself and the one to the right.
template <bool BACKWARD, typename Value>
__device__ void put(Value* stack, Value value, unsigned row, unsigned h, unsigned H, unsigned w, unsigned W,
                    unsigned unit, unsigned units) {
    unsigned here = (row * W + w) * 3 * units + unit, next = 3 * units * (BACKWARD ? W : 1);
    bool first = BACKWARD ? h == 0 : w == 0, last = BACKWARD ? h == H - 1 : w == W - 1;
    // to the pixel after it, this one is the pixel before, which comes last in stacks of gradients
    unsigned before = BACKWARD ? 2 * units : 0, after = BACKWARD ? 0 : 2 * units;
    Value zero = {};
    stack[here + units] = value;
    if (first) stack[here + before] = zero; else stack[here - next + after] = value;
    if (last) stack[here + after] = zero; else stack[here + next + before] = value;
}

// A stack of an image (N, H, W, units), or of its relu.
template <typename Number, unsigned WIDTH, bool BACKWARD>
__global__ void stack_image(const Number* __restrict__ image, Number* __restrict__ stack, unsigned rows,
                            unsigned H, unsigned W, unsigned units, unsigned relu) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        Value value = ((const Value*)image)[(row * W + w) * units + unit];
        for (unsigned j = 0; j < WIDTH; j++)
            if (relu && value.number[j] < Number(0)) value.number[j] = Number(0);
        put<BACKWARD>((Value*)stack, value, row, h, H, w, W, unit, units);
    }
}

// A stack of the image whose pixels are sums of three partial ones: forward, of the rows above, here and below;
// backward, of the columns to the right, here and to the left. Then, by `then`: 0 nothing more; 1 relu; 2 the
// pixel of `other` is added; 3 it is kept where the pixel of `other` is positive. Pixels of `other` are
// other_step units apart, the first at other_start.
template <typename Number, typename Sum, unsigned WIDTH, bool BACKWARD>
__global__ void combine(const Number* __restrict__ partial, const Number* __restrict__ other,
                        Number* __restrict__ stack, unsigned rows, unsigned H, unsigned W, unsigned units,
                        unsigned other_step, unsigned other_start, unsigned then) {
    typedef Unit<Number, WIDTH> Value;
    FOR_EACH_UNIT {
        unsigned pixel = row * W + w, step = BACKWARD ? 1 : W;
        bool first = BACKWARD ? w == 0 : h == 0, last = BACKWARD ? w == W - 1 : h == H - 1;
        Sum sum[WIDTH] = {};
        Value beside = {};
        for (unsigned i = 0; i < 3; i++) {
            bool before = BACKWARD ? i == 2 : i == 0, after = BACKWARD ? i == 0 : i == 2;
            if ((before && first) || (after && last)) continue;
            unsigned from = before ? pixel - step : after ? pixel + step : pixel;
            Value part = ((const Value*)partial)[(from * 3 + i) * units + unit];
            for (unsigned j = 0; j < WIDTH; j++) sum[j] += Sum(part.number[j]);
        }
        if (then > 1) beside = ((const Value*)other)[pixel * other_step + other_start + unit];
        Value value;
        for (unsigned j = 0; j < WIDTH; j++) {
            Sum b = Sum(beside.number[j]);
            bool keep = then == 1 ? !(sum[j] < Sum(0)) : then != 3 || b > Sum(0);  // a nan stays one
            value.number[j] = Number(keep ? then == 2 ? sum[j] + b : sum[j] : Sum(0));
        }
        put<BACKWARD>((Value*)stack, value, row, h, H, w, W, unit, units);
    }
}
