// The copies between images and matrices of windows, one thread for each unit of the result. A unit is the
// longest word, of 16, 8, 4 or 2 bytes, of which a pixel's channels are a multiple, so that memory is read and
// written in long words whatever the type of the numbers. No two threads write to the same place: same input,
// same bytes.
//
// Shapes are those of tinyres/conv.py and of conv.py beside this file, with `units` in place of the channels.

#ifdef __CUDACC_RTC__
#include <cuda_fp16.h>
#endif

// Every pixel with the one above it and the one below it, and one pixel of zeros at the start of each row:
// x (N, H, W, units) -> out (pixels, 3, units), of which N H (W + 1) pixels are those of the image and the
// rest are zeros.
template <typename Unit>
__global__ void stack_neighbors(const Unit* __restrict__ x, Unit* __restrict__ out, unsigned H, unsigned W,
                                unsigned units, unsigned image_pixels, unsigned total) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned unit = i % units, which = i / units % 3, pixel = i / units / 3;
        unsigned column = pixel % (W + 1), row = pixel / (W + 1);
        int h = int(row % H) + int(which) - 1;
        bool inside = pixel < image_pixels && column > 0 && h >= 0 && h < int(H);
        Unit zero = {};
        out[i] = inside ? x[((row + which - 1) * W + column - 1) * units + unit] : zero;
    }
}

// One pixel of zeros at the end of each row: x (N H, W, units) -> out (pixels, units), with zeros beyond the
// image.
template <typename Unit>
__global__ void add_edge(const Unit* __restrict__ x, Unit* __restrict__ out, unsigned W, unsigned units,
                         unsigned image_pixels, unsigned total) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned unit = i % units, pixel = i / units, column = pixel % (W + 1), row = pixel / (W + 1);
        Unit zero = {};
        out[i] = pixel < image_pixels && column < W ? x[(row * W + column) * units + unit] : zero;
    }
}

// The windows of any kernel: x (N, H, W, units) -> out (N, OH, OW, KH, KW, units). x_n, x_h, x_w: the strides
// from image to image, row to row and pixel to pixel of x, in units.
template <typename Unit>
__global__ void cut_columns(const Unit* __restrict__ x, Unit* __restrict__ out, unsigned x_n, unsigned x_h,
                            unsigned x_w, unsigned H, unsigned W, unsigned units, unsigned KH, unsigned KW,
                            unsigned OH, unsigned OW, unsigned stride_h, unsigned stride_w,
                            unsigned padding_h, unsigned padding_w, unsigned total) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned unit = i % units, rest = i / units;
        unsigned kw = rest % KW, kh = rest / KW % KH;
        rest = rest / KW / KH;
        unsigned ow = rest % OW, oh = rest / OW % OH, n = rest / OW / OH;
        int h = int(oh * stride_h + kh) - int(padding_h), w = int(ow * stride_w + kw) - int(padding_w);
        Unit zero = {};
        bool inside = h >= 0 && h < int(H) && w >= 0 && w < int(W);
        out[i] = inside ? x[n * x_n + h * x_h + w * x_w + unit] : zero;
    }
}

// The transpose of cut_columns: columns (N, OH, OW, KH, KW, C) -> x (N, H, W, C). Each pixel is the sum of its
// copies in all windows, which one thread reads in a fixed order.
template <typename Number, typename Sum>
__global__ void gather_columns(const Number* __restrict__ columns, Number* __restrict__ x, unsigned H,
                               unsigned W, unsigned C, unsigned KH, unsigned KW, unsigned OH, unsigned OW,
                               unsigned stride_h, unsigned stride_w, unsigned padding_h, unsigned padding_w,
                               unsigned total) {
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < total; i += gridDim.x * blockDim.x) {
        unsigned c = i % C, w = i / C % W, h = i / C / W % H, n = i / C / W / H;
        Sum sum = 0;
        for (unsigned kh = 0; kh < KH; kh++) {
            int above = int(h + padding_h) - int(kh);
            if (above < 0 || above % int(stride_h) || above / int(stride_h) >= int(OH)) continue;
            for (unsigned kw = 0; kw < KW; kw++) {
                int left = int(w + padding_w) - int(kw);
                if (left < 0 || left % int(stride_w) || left / int(stride_w) >= int(OW)) continue;
                unsigned window = (n * OH + above / stride_h) * OW + left / stride_w;
                sum += Sum(columns[((window * KH + kh) * KW + kw) * C + c]);
            }
        }
        x[i] = Number(sum);
    }
}
