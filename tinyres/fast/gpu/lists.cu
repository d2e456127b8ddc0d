// What is done to all arrays of a list in one launch, one array in each row of blocks. No two threads write
// to the same place, but for the flag of find_not_finite, to which all write the same.

#ifdef __CUDACC_RTC__
#include <cuda_fp16.h>
#endif

// Addresses and lengths, handed over with the arguments, 4096 bytes at most, which a captured graph keeps.
struct Table { unsigned long long numbers[480]; };

#define FOR_EACH_ARRAY for (unsigned array = blockIdx.y; array < arrays; array += gridDim.y)
#define FOR_EACH_NUMBER(count) \
    for (unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)

// table: for each parameter the addresses of weight, gradient and velocity, and how many numbers each has.
// Nothing is moved if skip, unless null, points to another number than 0.
template <typename Number>
__global__ void sgd(const Table table, unsigned arrays, Number lr, Number momentum, Number weight_decay,
                    const unsigned* __restrict__ skip) {
    if (skip && *skip) return;
    FOR_EACH_ARRAY {
        const unsigned long long* row = table.numbers + 4 * array;
        Number* weight = (Number*)row[0];
        const Number* gradient = (const Number*)row[1];
        Number* velocity = (Number*)row[2];
        FOR_EACH_NUMBER(row[3]) {
            Number w = weight[i], v = momentum * velocity[i] + gradient[i] + weight_decay * w;
            velocity[i] = v;
            weight[i] = w - lr * v;
        }
    }
}

// table: for each array the addresses of source and target, and how many numbers each has.
// target = source / scale, or source if scale is null.
template <typename From, typename To>
__global__ void convert(const Table table, unsigned arrays, const float* __restrict__ scale) {
    float divisor = scale ? *scale : 1.0f;
    FOR_EACH_ARRAY {
        const unsigned long long* row = table.numbers + 3 * array;
        const From* source = (const From*)row[0];
        To* target = (To*)row[1];
        FOR_EACH_NUMBER(row[2]) target[i] = To(float(source[i]) / divisor);
    }
}

// table: for each array its address, and how many numbers it has. flag becomes 1 if one of them is infinite or
// not a number, and stays as it is otherwise.
template <typename Number>
__global__ void find_not_finite(const Table table, unsigned arrays, unsigned* flag) {
    FOR_EACH_ARRAY {
        const unsigned long long* row = table.numbers + 2 * array;
        const Number* numbers = (const Number*)row[0];
        FOR_EACH_NUMBER(row[1]) if (!(numbers[i] - numbers[i] == Number(0))) *flag = 1;
    }
}
