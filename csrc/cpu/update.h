// One update of all weights of a model at once by an elementwise rule, and the norm of their gradients.
//
// All are bound by memory: each array is read, and written, once, in panels of contiguous values handed out to the
// threads of the pool. Results do not depend on the number of threads or on the instruction set, and one tensor's
// update equals the NumPy reference of anefast/optim/ to the byte. When to update, which rule, and which tensors decay,
// is anefast/optim/ too.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace anefast {

enum class Kind { adamw, lion, sgd };

struct UpdateRule {
    Kind kind;
    float factor;        // what the accumulated gradient is multiplied by first: loss scale, tokens and clipping in one
    float beta1, beta2;  // sgd: beta1 is the momentum, 0 for none
    float epsilon;       // adamw alone
    double bias1, bias2; // adamw alone: 1 - beta ** step
    bool nesterov;       // sgd alone
    int states() const { return kind == Kind::adamw ? 2 : kind == Kind::lion || beta1 != 0; }
};

struct Tensor { // fp32, `size` contiguous values each
    float *weight;
    float *state[2]; // as many as the rule has: mean and square; momentum
    const float *grad;
    int64_t size;
    float rate, decay; // learning rate, decoupled weight decay
};

// One update. Gradients are read only.
void update(const Tensor *tensors, int64_t count, const UpdateRule &rule);

// A gradient that is never stored: a panel of rows at a time is computed, on any thread that needs it.
struct FlowingGrad {
    int64_t rows, columns;
    // What its panels have in common: so many floats, written in so many pieces before the first panel is made.
    int64_t shared_floats, pieces;
    std::function<void(int64_t piece, float *shared)> share;
    std::function<void(int64_t first, int64_t rows, const float *shared, float *out)> make;
};

// One update whose gradients are computed a panel of rows at a time; `grad` of the tensors is not read.
// Returns the gradients' sum of squares, panel by panel in order.
double update_flowing(const Tensor *tensors, const FlowingGrad *grads, int64_t count, const UpdateRule &rule);

// averages += part * (values - averages), of `count` tensors.
void average(float *const *averages, const float *const *values, const int64_t *sizes, int64_t count, float part);

// Sum of squares in double of `count` tensors; panel by panel in order, in each panel eight running sums.
double squared_norm(const float *const *tensors, const int64_t *sizes, int64_t count);

// Those sums of the panels themselves, each of UPDATE_PANEL values or of a tensor's last ones.
constexpr int64_t UPDATE_PANEL = 32768; // some 100 us of one thread
std::vector<double> squares(const float *const *tensors, const int64_t *sizes, int64_t count);

} // namespace anefast
