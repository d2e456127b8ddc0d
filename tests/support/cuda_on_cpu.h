// Enough of CUDA to run a kernel without block synchronisation on a CPU: one thread after another.
#define __global__
#define __device__
#define __restrict__
struct Index { unsigned x, y; };
static Index threadIdx, blockIdx, blockDim = {4, 2}, gridDim = {3, 1};
struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
#define RUN(...) \
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) \
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) __VA_ARGS__
#define RUN_2D(...) for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++) RUN(__VA_ARGS__)
