// AdamW by panels: which panel is whose. The loops are in adamw_loops.h, compiled for AVX2 besides.
#include "adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../isa.h"
#include "pool.h"
#include "scratch.h"

namespace anefast {
namespace {

constexpr int64_t PANEL = 32768; // values: some 100 us of one thread
constexpr int64_t LINE = 16;     // values of a cache line
constexpr int64_t AHEAD = 512;   // values: the hardware looks ahead too, but never past a page

struct Constants {
    float factor, keep, rate, beta1, rest1, beta2, rest2, correct, epsilon;
};

struct Loops {
    void (*update)(float *, const float *, float *, float *, int64_t, const Constants &);
    double (*square)(const float *, int64_t);
};

namespace plain {
#include "adamw_loops.h"
}

} // namespace
} // namespace anefast

#if defined(__x86_64__)

// avx2 without fma: the bits are those of the plain loops.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
namespace anefast {
namespace {
namespace avx2 {
#include "adamw_loops.h"
}
} // namespace
} // namespace anefast
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif

namespace anefast {
namespace {

const Loops &loops() {
    static const Loops &chosen = []() -> const Loops & {
#if defined(__x86_64__)
        if (isa_allowed() >= ISA_AVX2)
            return avx2::LOOPS;
#endif
        return plain::LOOPS;
    }();
    return chosen;
}

struct Panel {
    int64_t tensor, first, count;
};

Constants constants(const AdamRule &rule) {
    Constants c{};
    c.factor = rule.factor;
    c.rate = static_cast<float>(rule.rate / rule.bias1);
    c.beta1 = rule.beta1, c.rest1 = static_cast<float>(1.0 - rule.beta1);
    c.beta2 = rule.beta2, c.rest2 = static_cast<float>(1.0 - rule.beta2);
    c.correct = static_cast<float>(1.0 / std::sqrt(rule.bias2));
    c.epsilon = rule.epsilon;
    return c;
}

// `count` values of a tensor from `first` on, by a gradient that begins there.
void update_part(const AdamTensor &t, int64_t first, int64_t count, const float *grad, const AdamRule &rule, Constants c) {
    c.keep = static_cast<float>(1.0 - static_cast<double>(rule.rate) * t.decay);
    loops().update(t.weight + first, grad, t.mean + first, t.square + first, count, c);
}

thread_local Scratch gradient_scratch;

template <class Size> std::vector<Panel> panels_of(int64_t count, const Size &size) {
    std::vector<Panel> panels;
    for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < size(t); i += PANEL)
            panels.push_back({t, i, std::min(PANEL, size(t) - i)});
    return panels;
}

} // namespace

void adamw(const AdamTensor *tensors, int64_t count, const AdamRule &rule) {
    const std::vector<Panel> panels = panels_of(count, [&](int64_t t) { return tensors[t].size; });
    const Constants c = constants(rule);
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        const AdamTensor &t = tensors[p.tensor];
        update_part(t, p.first, p.count, t.grad + p.first, rule, c);
    });
}

double adamw_flowing(const AdamTensor *tensors, const FlowingGrad *grads, int64_t count, const AdamRule &rule) {
    constexpr int64_t ROWS_LEAST = 192; // each panel packs an operand for itself: less, and packing is what takes time
    std::vector<Panel> panels; // in rows
    for (int64_t t = 0; t < count; ++t) {
        const int64_t rows = std::max(ROWS_LEAST, PANEL / std::max<int64_t>(1, grads[t].columns));
        for (int64_t first = 0; first < grads[t].rows; first += rows)
            panels.push_back({t, first, std::min(rows, grads[t].rows - first)});
    }
    const Constants c = constants(rule);
    std::vector<double> sums(panels.size());
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        const int64_t columns = grads[p.tensor].columns, values = p.count * columns;
        float *const grad = gradient_scratch.get(values);
        grads[p.tensor].make(p.first, p.count, grad);
        sums[i] = loops().square(grad, values);
        update_part(tensors[p.tensor], p.first * columns, values, grad, rule, c);
    });
    double total = 0;
    for (double sum : sums)
        total += sum;
    return total;
}

double squared_norm(const float *const *tensors, const int64_t *sizes, int64_t count) {
    const std::vector<Panel> panels = panels_of(count, [&](int64_t t) { return sizes[t]; });
    std::vector<double> sums(panels.size());
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        sums[i] = loops().square(tensors[p.tensor] + p.first, p.count);
    });
    double total = 0;
    for (double sum : sums)
        total += sum;
    return total;
}

} // namespace anefast
