// The mean of softmax cross-entropy over a batch of logits (N, classes), its gradient of the same shape, and the
// fraction of rows whose largest logit is not that of the label. One block, one thread for each row; what threads
// have added up is added up in their order: same input, same bytes.
template <typename Number>
__global__ void cross_entropy(const Number* __restrict__ logits, const long long* __restrict__ labels,
                              Number* __restrict__ gradient, Number* __restrict__ loss,
                              double* __restrict__ error, unsigned N, unsigned classes) {
    extern __shared__ double sums[];  // of losses, then of errors
    double losses = 0, errors = 0;
    for (unsigned n = threadIdx.x; n < N; n += blockDim.x) {
        const Number* row = logits + n * classes;
        // on a GPU labels are not checked, and CuPy counts those out of range around the classes
        unsigned label = unsigned((labels[n] % (long long)classes + classes) % classes), best = 0;
        for (unsigned c = 1; c < classes; c++)
            if (row[c] > row[best]) best = c;
        Number total = 0, largest = row[best];
        for (unsigned c = 0; c < classes; c++) total += exp(row[c] - largest);
        Number log_total = log(total);
        losses += log_total - (row[label] - largest);
        errors += best != labels[n];
        for (unsigned c = 0; c < classes; c++)
            gradient[n * classes + c] = (exp(row[c] - largest - log_total) - Number(c == label)) / Number(N);
    }
    sums[threadIdx.x] = losses;
    sums[blockDim.x + threadIdx.x] = errors;
    __syncthreads();
    if (threadIdx.x) return;
    for (unsigned i = 1; i < blockDim.x; i++) {
        losses += sums[i];
        errors += sums[blockDim.x + i];
    }
    *loss = Number(losses / N);
    *error = errors / N;
}
