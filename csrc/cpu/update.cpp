// Updates by panels: which panel is whose. The loops are in update_loops.h, compiled for AVX2 besides.
#include "update.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "../round.h"
#include "pool.h"
#include "scratch.h"

namespace anefast {
namespace {

constexpr int64_t LINE = 16;   // values of a cache line
constexpr int64_t AHEAD = 512; // values: the hardware looks ahead too, but never past a page

struct Constants {
    float factor, keep, rate, beta1, rest1, beta2, rest2, correct, epsilon;
    bool nesterov;
};

using Loop = void (*)(float *weight, const float *grad, float *first, float *second, int64_t, const Constants &);

struct Loops {
    Loop adamw, lion, sgd, plain_sgd;
    void (*average)(float *, const float *, int64_t, float part);
    double (*square)(const float *, int64_t);
};

} // namespace
} // namespace anefast

#define LOOPS_FILE "update_loops.h"
#include "plain_or_avx2.h"

namespace anefast {
namespace {

struct Panel {
    int64_t tensor, first, count;
};

Loop loop_of(const UpdateRule &rule) {
    switch (rule.kind) {
    case Kind::adamw: return loops().adamw;
    case Kind::lion: return loops().lion;
    default: return rule.states() ? loops().sgd : loops().plain_sgd;
    }
}

Constants constants(const UpdateRule &rule) {
    Constants c{};
    c.factor = rule.factor;
    c.beta1 = rule.beta1, c.rest1 = static_cast<float>(1.0 - rule.beta1);
    c.beta2 = rule.beta2, c.rest2 = static_cast<float>(1.0 - rule.beta2);
    c.correct = static_cast<float>(1.0 / std::sqrt(rule.bias2));
    c.epsilon = rule.epsilon;
    c.nesterov = rule.nesterov;
    return c;
}

// `count` values of a tensor from `first` on, by a gradient that begins there.
void update_part(const Tensor &t, int64_t first, int64_t count, const float *grad, const UpdateRule &rule,
                 Constants c) {
    c.rate = static_cast<float>(t.rate / rule.bias1);
    c.keep = static_cast<float>(1.0 - static_cast<double>(t.rate) * t.decay);
    const int states = rule.states();
    loop_of(rule)(t.weight + first, grad, states > 0 ? t.state[0] + first : nullptr,
                  states > 1 ? t.state[1] + first : nullptr, count, c);
}

template <class Size> std::vector<Panel> panels_of(int64_t count, const Size &size) {
    std::vector<Panel> panels;
    for (int64_t t = 0; t < count; ++t)
        for (int64_t i = 0; i < size(t); i += UPDATE_PANEL)
            panels.push_back({t, i, std::min(UPDATE_PANEL, size(t) - i)});
    return panels;
}

thread_local Scratch gradient_scratch, shared_scratch[2];

// Tasks to be started in order by any threads: of each tensor the pieces of what its panels share, then the panels.
// What is shared lies in two places in turn, so that one is filled while the other is still used.
class Flowing {
  public:
    Flowing(const Tensor *tensors, const FlowingGrad *grads, int64_t count, const UpdateRule &rule)
        : tensors(tensors), grads(grads), rule(rule), c(constants(rule)), ends(count),
          done(new std::atomic<int64_t>[count]()) {
        constexpr int64_t ROWS = 96; // whole tiles of any kernels, and enough: each panel reads all that is shared
        int64_t floats = 0;
        for (int64_t t = 0; t < count; ++t) {
            const int64_t rows =
                std::max<int64_t>(1, UPDATE_PANEL / std::max<int64_t>(1, grads[t].columns) / ROWS) * ROWS;
            for (int64_t piece = 0; piece < grads[t].pieces; ++piece) tasks.push_back({t, piece, 0});
            for (int64_t first = 0; first < grads[t].rows; first += rows)
                tasks.push_back({t, first, std::min(rows, grads[t].rows - first)});
            ends[t] = grads[t].pieces + ceil_div(grads[t].rows, rows);
            floats = std::max(floats, grads[t].shared_floats);
        }
        for (int side = 0; side < 2; ++side) shared[side] = floats ? shared_scratch[side].get(floats) : nullptr;
    }

    double run() {
        std::vector<double> sums(tasks.size());
        Pool::shared().parallel(tasks.size(), [&](int64_t i) {
            const Panel &p = tasks[i];
            if (p.count == 0) share(p.tensor, p.first);
            else sums[i] = update_panel(p);
            done[p.tensor].fetch_add(1, std::memory_order_release);
        });
        double total = 0;
        for (double sum : sums) total += sum;
        return total;
    }

  private:
    void share(int64_t tensor, int64_t piece) {
        if (tensor >= 2) wait_until(done[tensor - 2], ends[tensor - 2]); // it read the same place
        grads[tensor].share(piece, shared[tensor % 2]);
    }

    double update_panel(const Panel &p) {
        const FlowingGrad &g = grads[p.tensor];
        wait_until(done[p.tensor], g.pieces);
        const int64_t values = p.count * g.columns;
        float *const grad = gradient_scratch.get(values);
        g.make(p.first, p.count, shared[p.tensor % 2], grad);
        update_part(tensors[p.tensor], p.first * g.columns, values, grad, rule, c);
        return loops().square(grad, values);
    }

    const Tensor *const tensors;
    const FlowingGrad *const grads;
    const UpdateRule &rule;
    const Constants c;
    std::vector<Panel> tasks;
    std::vector<int64_t> ends; // how many tasks each tensor has
    std::unique_ptr<std::atomic<int64_t>[]> done;
    float *shared[2];
};

} // namespace

void update(const Tensor *tensors, int64_t count, const UpdateRule &rule) {
    const std::vector<Panel> panels = panels_of(count, [&](int64_t t) { return tensors[t].size; });
    const Constants c = constants(rule);
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        const Tensor &t = tensors[p.tensor];
        update_part(t, p.first, p.count, t.grad + p.first, rule, c);
    });
}

double update_flowing(const Tensor *tensors, const FlowingGrad *grads, int64_t count, const UpdateRule &rule) {
    return Flowing(tensors, grads, count, rule).run();
}

void average(float *const *averages, const float *const *values, const int64_t *sizes, int64_t count, float part) {
    const std::vector<Panel> panels = panels_of(count, [&](int64_t t) { return sizes[t]; });
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        loops().average(averages[p.tensor] + p.first, values[p.tensor] + p.first, p.count, part);
    });
}

std::vector<double> squares(const float *const *tensors, const int64_t *sizes, int64_t count) {
    const std::vector<Panel> panels = panels_of(count, [&](int64_t t) { return sizes[t]; });
    std::vector<double> sums(panels.size());
    Pool::shared().parallel(panels.size(), [&](int64_t i) {
        const Panel &p = panels[i];
        sums[i] = loops().square(tensors[p.tensor] + p.first, p.count);
    });
    return sums;
}

double squared_norm(const float *const *tensors, const int64_t *sizes, int64_t count) {
    double total = 0;
    for (double sum : squares(tensors, sizes, count)) total += sum;
    return total;
}

} // namespace anefast
