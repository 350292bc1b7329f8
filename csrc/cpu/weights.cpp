// Panels of rows of all weights, one task each.
#include "weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include "../half.h"
#include "pool.h"

namespace anefast {
namespace {

constexpr int64_t PANEL = 32768;          // values of a task, some 10 us of one thread
constexpr float ROUNDS_TO_INF = 65520.0f; // the smallest float that fp16 rounds to infinity

struct Panel {
    int64_t weight, first, rows;
};

int64_t count_lost(const float *x, int64_t n) {
    int32_t lost = 0;
    for (int64_t i = 0; i < n; ++i) lost += !(std::fabs(x[i]) < ROUNDS_TO_INF);
    return lost;
}

} // namespace

void round_weights(const RoundedWeight *weights, int64_t count, int64_t *lost) {
    std::vector<Panel> panels;
    for (int64_t w = 0; w < count; ++w) {
        const int64_t rows = std::max<int64_t>(1, PANEL / std::max<int64_t>(1, weights[w].columns));
        for (int64_t first = 0; first < weights[w].rows; first += rows)
            panels.push_back({w, first, std::min(rows, weights[w].rows - first)});
    }
    const std::unique_ptr<std::atomic<int64_t>[]> sums(new std::atomic<int64_t>[count]());
    Pool::shared().parallel(static_cast<int64_t>(panels.size()), [&](int64_t i) {
        const Panel &p = panels[i];
        const RoundedWeight &w = weights[p.weight];
        const float *const from = w.from + p.first * w.columns;
        if (const int64_t n = count_lost(from, p.rows * w.columns)) sums[p.weight] += n;
        if (w.transposed) half_from_floats_transposed(from, w.columns, w.to + p.first, w.rows, p.rows, w.columns);
        else half_from_floats(from, w.to + p.first * w.columns, p.rows * w.columns);
    });
    for (int64_t w = 0; w < count; ++w) lost[w] = sums[w];
}

} // namespace anefast
