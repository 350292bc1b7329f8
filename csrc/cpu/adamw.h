// AdamW over all weights of a model at once, and the norm of their gradients.
//
// Both are bound by memory: each array is read, and written, once, in panels of contiguous values handed out to the
// threads of the pool. Results do not depend on the number of threads or on the instruction set, and one tensor's
// update equals the plain loop of anefast/optim/_fused.pyx to the byte. When to update, and which tensors decay,
// is anefast/optim/adamw.py.
#pragma once

#include <cstdint>
#include <functional>

namespace anefast {

struct AdamTensor { // fp32, `size` contiguous values each
    float *weight, *mean, *square;
    const float *grad;
    int64_t size;
    float decay; // decoupled weight decay
};

struct AdamRule {
    float factor; // what the accumulated gradient is multiplied by first: loss scale, tokens and clipping in one
    float rate, beta1, beta2, epsilon;
    double bias1, bias2; // 1 - beta ** step
};

// One update. Gradients are read only.
void adamw(const AdamTensor *tensors, int64_t count, const AdamRule &rule);

// A gradient that is never stored but made a panel of rows at a time, on whatever threads ask.
struct FlowingGrad {
    int64_t rows, columns;
    // What its panels have in common: so many floats, written in so many pieces before the first panel is made.
    int64_t shared_floats, pieces;
    std::function<void(int64_t piece, float *shared)> share;
    std::function<void(int64_t first, int64_t rows, const float *shared, float *out)> make;
};

// One update by gradients made a panel of rows at a time, where they are used; `grad` of the tensors is not read.
// Returns the gradients' sum of squares, panel by panel in order.
double adamw_flowing(const AdamTensor *tensors, const FlowingGrad *grads, int64_t count, const AdamRule &rule);

// Sum of squares in double of `count` tensors; panel by panel in order, in each panel eight running sums.
double squared_norm(const float *const *tensors, const int64_t *sizes, int64_t count);

} // namespace anefast
