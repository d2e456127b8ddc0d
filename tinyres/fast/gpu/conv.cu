// The windows of any kernel, one thread for each unit of the result: x (N, H, W, units) -> out (N, OH, OW, KH, KW,
// units). A unit is the longest word, of 16, 8, 4 or 2 bytes, of which a pixel's channels are a multiple, so that
// memory is read and written in long words whatever the type of the numbers. x_n, x_h, x_w: the strides from image
// to image, row to row and pixel to pixel of x, in units.
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
