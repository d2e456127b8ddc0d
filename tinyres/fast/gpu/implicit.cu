// Implicit GEMM: a 3 x 3 convolution, or one of its gradients, as one matrix product on tensor cores. Its
// left factor is the matrix of columns of tinyres/conv.py, of which only tiles ever exist, in shared memory:
//
//     FORWARD            out (pixels, O)    = columns of x (pixels, 9C) @ w (9C, O)
//     INPUT_GRADIENT     grad_x (pixels, C) = columns of g (pixels, 9O) @ w, rotated and transposed, (9O, C)
//     KERNEL_GRADIENT    grad_w (9C, O)     = columns of x, transposed, (9C, pixels) @ g (pixels, O)
//
// A block of four warps computes a tile of BM x BN results. It walks along the inner dimension in steps of BK
// numbers: to the right in the matrix of columns or, for the kernel's gradient, down. At each step it multiplies
// two tiles that are in shared memory, while the tiles of the next two steps are on their way there.

// What a GPU has and C++ lacks. On a CPU, functions of the same names must be defined before this file.
#ifdef __CUDACC_RTC__
#include <cuda_fp16.h>

// Copy 16 bytes, or zeros unless `inside`, to shared memory while the thread goes on.
__device__ void copy_16_bytes(void* to, const void* from, bool inside) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::
                 "r"((unsigned)__cvta_generic_to_shared(to)), "l"(from), "r"(inside ? 16 : 0) : "memory");
}

// The copies since the last call form a group.
__device__ void end_group_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Wait for this thread's copies, except for those of the last GROUPS groups.
template <int GROUPS> __device__ void wait_for_copies_but() {
    asm volatile("cp.async.wait_group %0;" :: "n"(GROUPS) : "memory");
}

// A warp reads four matrices of 8 rows of 16 bytes; `row` is the address of row lane % 8 of matrix lane / 8.
// Of each matrix, lane i gets 4 bytes of row i / 4, from byte i % 4 * 4 on; transposed, which works for float16,
// it gets number i % 4 * 2 of column i / 4 and the next one.
#define LOAD(HOW) asm volatile("ldmatrix.sync.aligned.m8n8.x4" HOW ".shared.b16 {%0, %1, %2, %3}, [%4];" \
    : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory")
template <bool TRANSPOSED> __device__ void load_four(unsigned (&out)[4], const void* row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    if (TRANSPOSED) LOAD(".trans"); else LOAD("");
}

// A warp on its tensor core: c (16, 8) += a (16, 32 bytes) @ b (32 bytes, 8), where 32 bytes are 16 numbers of
// float16 or 8 of TF32. Lane i has rows i / 4 and i / 4 + 8 of c, in column i % 4 * 2 and the next one.
#define MULTIPLY(TYPES) asm("mma.sync.aligned." TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
    "{%0, %1, %2, %3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
template <typename Number>
__device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    if (sizeof(Number) == 2) MULTIPLY("m16n8k16.row.col.f32.f16.f16.f32");
    else MULTIPLY("m16n8k8.row.col.f32.tf32.tf32.f32");
}

// The nearest number with 10 bits after the point; tensor cores would cut the others off.
__device__ unsigned round_to_tf32(unsigned number) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(number) : "f"(__uint_as_float(number)));
    return number;
}
#endif

enum { FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT };
constexpr int THREADS = 128, BM = 128, STAGES = 3;

// The number of a pixel as (image, h, w), or of a column as (kh, kw, c). Adding is cheaper than dividing.
struct Digits {
    int high, middle, low;
    __device__ Digits(int number = 0, int middles = 1, int lows = 1)
        : high(number / lows / middles), middle(number / lows % middles), low(number % lows) {}
    __device__ void add(const Digits& other, int middles, int lows) {
        low += other.low;
        int carry = low >= lows;
        low -= carry * lows;
        middle += other.middle + carry;
        carry = middle >= middles;
        middle -= carry * middles;
        high += other.high + carry;
    }
};

// A tile of a factor in shared memory: OUTER rows of the left factor, or columns of the right one, by BK places
// of the inner dimension. INNER_CONTIGUOUS: the inner dimension is the one that is contiguous in memory.
template <typename Number, bool LEFT, int OUTER, bool INNER_CONTIGUOUS>
struct Tile {
    static constexpr int VECTOR = 16 / sizeof(Number), BK = 4 * VECTOR, DEPTH = 2 * VECTOR;
    static constexpr int ROWS = INNER_CONTIGUOUS ? OUTER : BK, COLUMNS = INNER_CONTIGUOUS ? BK : OUTER;
    // a row is longer than its numbers need, so that what a warp reads at once lies in different memory banks
    static constexpr int PITCH = COLUMNS + (INNER_CONTIGUOUS ? VECTOR : 8), SIZE = ROWS * PITCH;
    // a thread copies 16 bytes COPIES times, each time APART rows further down
    static constexpr int VECTORS = COLUMNS / VECTOR, APART = THREADS / VECTORS, COPIES = ROWS / APART;

    static __device__ int row(int copy) { return threadIdx.x / VECTORS + copy * APART; }
    static __device__ int column() { return threadIdx.x % VECTORS * VECTOR; }

    // A register, 4 bytes in each lane, holds 8 places of the outer by VECTOR places of the inner dimension for
    // the tensor core. Four such pieces are 16 by DEPTH: one operand of the left factor, or two operands of the
    // right one, of two pieces each.
    static __device__ int outer_of(int piece) { return (LEFT ? piece % 2 : piece / 2) * 8; }
    static __device__ int inner_of(int piece) { return (LEFT ? piece / 2 : piece % 2) * VECTOR; }
    static __device__ void load(unsigned (&out)[4], const Number* tile, int outer, int inner) {
        int lane = threadIdx.x % 32, row = lane % 8;
        int from_outer = outer + outer_of(lane / 8), from_inner = inner + inner_of(lane / 8);
        if (INNER_CONTIGUOUS)
            load_four<false>(out, tile + (from_outer + row) * PITCH + from_inner);
        else if (sizeof(Number) == 2)
            load_four<true>(out, tile + (from_inner + row) * PITCH + from_outer);
        else
            for (int i = 0; i < 4; i++)
                out[i] = *(const unsigned*)(tile + (inner + inner_of(i) + lane % 4) * PITCH
                                                 + outer + outer_of(i) + lane / 4);
        for (int i = 0; i < 4; i++)
            if (sizeof(Number) == 4) out[i] = round_to_tf32(out[i]);
    }
};

// image (N, H, W, C): the one whose columns are cut, x or g. matrix: the right factor as it is in memory.
// out: the result, (pixels, columns) or, for a kernel's gradient, (9C, columns) for each of gridDim.y parts of
// the pixels, which take `steps` steps each. The pixels are those of N images (OH, OW). Pixel (h, w) and place
// (kh, kw) of the kernel meet at pixel (h stride + kh - 1, w stride + kw - 1) of the image. If that image is
// the gradient of a convolution with stride 2 (skip = 1), they meet at half of both numbers, if both are even.
template <typename Number, typename Result, int BN, int PRODUCT>
__global__ void __launch_bounds__(THREADS) implicit_gemm(
        const Number* __restrict__ image, const Number* __restrict__ matrix, Result* __restrict__ out,
        int N, int H, int W, int C, int OH, int OW, int columns, int stride, int skip, int steps) {
    constexpr bool DOWN = PRODUCT == KERNEL_GRADIENT, ROTATED = PRODUCT == INPUT_GRADIENT;
    typedef Tile<Number, true, BM, !DOWN> Left;
    typedef Tile<Number, false, BN, ROTATED> Right;
    constexpr int BK = Left::BK, WM = BM / 2, WN = BN / 2;  // a warp computes WM x WN results
    extern __shared__ uint4 shared_memory[];
    Number* tiles = (Number*)shared_memory;

    int tiles_across = (columns + BN - 1) / BN, rows = DOWN ? 9 * C : N * OH * OW;
    int first_row = blockIdx.x / tiles_across * BM, first_column = blockIdx.x % tiles_across * BN;
    int first_step = DOWN ? blockIdx.y * steps : 0;

    // where this thread's vectors of the next tiles come from
    Digits pixel[Left::COPIES], column((DOWN ? first_row : 0) + Left::column(), 3, C);
    for (int i = 0; i < Left::COPIES; i++)
        pixel[i] = Digits((DOWN ? first_step * BK : first_row) + Left::row(i), OH, OW);
    const Digits ahead = DOWN ? Digits(BK, OH, OW) : Digits(BK, 3, C);

    auto copy_tiles = [&](int step) {
        Number* left = tiles + step % STAGES * (Left::SIZE + Right::SIZE);
        for (int i = 0; i < Left::COPIES; i++) {
            int h = pixel[i].middle * stride + column.high - 1, w = pixel[i].low * stride + column.middle - 1;
            bool inside = pixel[i].high < N && column.high < 3 && !((h | w) & skip)
                && unsigned(h >> skip) < unsigned(H) && unsigned(w >> skip) < unsigned(W);
            int from = ((pixel[i].high * H + (h >> skip)) * W + (w >> skip)) * C + column.low;
            copy_16_bytes(left + Left::row(i) * Left::PITCH + Left::column(),
                          image + (inside ? from : 0), inside);
        }
        for (int i = 0; i < Right::COPIES; i++) {
            int row = Right::row(i), from;
            bool inside;
            if (ROTATED) {  // a row of this tile is a channel of the result; `column` runs along it
                int rotated = 8 - 3 * column.high - column.middle;
                inside = first_column + row < columns && column.high < 3;
                from = (rotated * columns + first_column + row) * C + column.low;
            } else {
                int inner = (first_step + step) * BK + row;
                inside = first_column + Right::column() < columns && inner < (DOWN ? N * OH * OW : 9 * C);
                from = inner * columns + first_column + Right::column();
            }
            copy_16_bytes(left + Left::SIZE + row * Right::PITCH + Right::column(),
                          matrix + (inside ? from : 0), inside);
        }
        if (DOWN)
            for (int i = 0; i < Left::COPIES; i++) pixel[i].add(ahead, OH, OW);
        else
            column.add(ahead, 3, C);
    };

    float sums[WM / 16][WN / 8][4] = {};
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int warp_row = warp / 2 * WM, warp_column = warp % 2 * WN;
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps) copy_tiles(step);
        end_group_of_copies();
    }
    for (int step = 0; step < steps; step++) {
        wait_for_copies_but<STAGES - 2>();
        __syncthreads();  // the tiles of this step have arrived, and no thread reads those of the step before
        if (step + STAGES - 1 < steps) copy_tiles(step + STAGES - 1);
        end_group_of_copies();
        const Number* left = tiles + step % STAGES * (Left::SIZE + Right::SIZE), *right = left + Left::SIZE;
        for (int inner = 0; inner < BK; inner += Left::DEPTH) {
            unsigned a[WM / 16][4], b[4];
            for (int i = 0; i < WM / 16; i++) Left::load(a[i], left, warp_row + 16 * i, inner);
            for (int j = 0; j < WN / 8; j += 2) {
                Right::load(b, right, warp_column + 8 * j, inner);
                for (int i = 0; i < WM / 16; i++) {
                    multiply<Number>(sums[i][j], a[i], b[0], b[1]);
                    multiply<Number>(sums[i][j + 1], a[i], b[2], b[3]);
                }
            }
        }
    }

    // each warp lays out its results 16 rows at a time and stores 16 bytes in each lane
    constexpr int VECTOR = 16 / sizeof(Result), PITCH = WN + 8;
    struct alignas(16) Vector { Result number[VECTOR]; };
    float* strip = (float*)shared_memory + warp * 16 * PITCH;
    out += size_t(blockIdx.y) * rows * columns;
    __syncthreads();  // no thread reads the last tiles any more
    for (int i = 0; i < WM / 16; i++) {
        for (int j = 0; j < WN / 8; j++)
            for (int k = 0; k < 4; k++)
                strip[(lane / 4 + k / 2 * 8) * PITCH + 8 * j + lane % 4 * 2 + k % 2] = sums[i][j][k];
        __syncwarp();
        for (int v = lane; v < 16 * WN / VECTOR; v += 32) {
            int row = v / (WN / VECTOR), place = v % (WN / VECTOR) * VECTOR;
            int to_row = first_row + warp_row + 16 * i + row, to_column = first_column + warp_column + place;
            Vector vector;
            for (int k = 0; k < VECTOR; k++) vector.number[k] = Result(strip[row * PITCH + place + k]);
            if (to_row < rows && to_column < columns)
                *(Vector*)(out + size_t(to_row) * columns + to_column) = vector;
        }
        __syncwarp();
    }
}
