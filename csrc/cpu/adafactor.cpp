// Adafactor by panels of rows. The loops along rows are in adafactor_loops.h, compiled for AVX2 besides.
//
// The update's size comes before the update, and the columns' means before its size. But with means r of the rows and c
// of the columns it is, but for a factor, the sum over j of (the sum over i of g_ij^2 / r_i) / c_j, as long as no
// product of means is below the least. A row's mean is known once the row was read, so the inner sums are made from the
// cache, and memory is read twice and not three times.
#include "adafactor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "pool.h"
#include "scratch.h"

namespace anefast {
namespace {

constexpr int64_t PANEL = 262144;  // values, as far as whole rows allow: each panel has sums of its own for all columns
constexpr int64_t GROUP = 1 << 21; // values of tensors that are updated together, whose second pass meets a warm cache
constexpr int LANES = 16;          // running sums of a row, and the values of a cache line
constexpr int BLOCK = 4;           // rows that are weighed at once
constexpr int64_t AHEAD = 512;     // values: the hardware looks ahead too, but never past a page

struct Row {
    float *weight;
    const float *grad;
    int64_t columns;
    float factor, by, most; // value j of the update is factor * grad * min(by * column[j], most)
};

struct Loops {
    void (*square)(const Row &, float *column, float &grads, float &weights);
    void (*weigh)(const float *const *grad, const float *weight, int64_t columns, float factor, float *column);
    float (*size)(const Row &, const float *column);
    void (*apply)(const Row &, const float *column, float keep, float rate);
};

} // namespace
} // namespace anefast

#define LOOPS_FILE "adafactor_loops.h"
#include "plain_or_avx2.h"

namespace anefast {
namespace {

struct Panel {
    int64_t tensor, first, rows;
    float *squares, *weighed; // by columns: sums over its rows, plain and each by its row's mean
    double weights, updates;  // sums of squares
};

struct Scale { // of a tensor: what makes the update of the gradient
    std::vector<float> row, column;
    double weights, updates; // sums of squares
    bool is_known;           // whether `updates` is known without a pass for it
};

thread_local Scratch panel_sums;

float mixed(float mean, float now, float fresh) { return (1.0f - fresh) * mean + fresh * now; }

// Adafactor of some tensors, pass by pass.
class Update {
  public:
    Update(const FactoredTensor *tensors, int64_t count, const FactoredRule &rule)
        : tensors(tensors), rule(rule), scales(count), begins{0} {
        int64_t floats = 0;
        for (int64_t t = 0; t < count; ++t) {
            scales[t].row.resize(tensors[t].rows);
            const int64_t rows = std::max<int64_t>(1, PANEL / std::max<int64_t>(1, tensors[t].columns));
            for (int64_t first = 0; first < tensors[t].rows; first += rows)
                panels.push_back({t, first, std::min(rows, tensors[t].rows - first), nullptr, nullptr, 0, 0});
            floats += 2 * tensors[t].columns * (static_cast<int64_t>(panels.size()) - begins[t]);
            begins.push_back(panels.size());
        }
        float *sums = panel_sums.get(floats);
        for (Panel &p : panels) {
            p.squares = sums, p.weighed = sums + tensors[p.tensor].columns;
            sums += 2 * tensors[p.tensor].columns;
        }
    }

    void run() {
        Pool &pool = Pool::shared();
        const int64_t count = panels.size();
        pool.parallel(count, [&](int64_t i) { square(panels[i]); });
        pool.parallel(scales.size(), [&](int64_t t) { take(t); });
        if (std::any_of(scales.begin(), scales.end(), [](const Scale &s) { return !s.is_known; })) {
            pool.parallel(count, [&](int64_t i) { measure(panels[i]); });
            for (const Panel &p : panels) scales[p.tensor].updates += p.updates;
        }
        // Backwards: what was read last is still in the cache.
        pool.parallel(count, [&](int64_t i) { apply(panels[count - 1 - i]); });
    }

  private:
    Row row_of(const Panel &p, int64_t r) const {
        const FactoredTensor &t = tensors[p.tensor];
        const int64_t at = r * t.columns;
        return {t.weight + at, t.grad + at, t.columns, rule.factor, scales[p.tensor].row[r], 1.0f / rule.epsilon};
    }

    // The gradient's squares by rows, into the tensor's `row`, whose means are then the new ones, and by columns; the
    // weights' in all.
    void square(Panel &p) {
        const FactoredTensor &t = tensors[p.tensor];
        std::fill_n(p.squares, t.columns, 0.0f);
        std::fill_n(p.weighed, t.columns, 0.0f);
        p.weights = 0;
        for (int64_t r = p.first, end = p.first + p.rows; r < end; r += BLOCK) {
            const float *grad[BLOCK];
            float by[BLOCK];
            for (int k = 0; k < BLOCK; ++k) {
                grad[k] = t.grad + std::min(r + k, end - 1) * t.columns;
                by[k] = r + k < end ? square_row(p, r + k) : 0.0f;
            }
            loops().weigh(grad, by, t.columns, rule.factor, p.weighed);
        }
    }

    // Gives what its squares are weighed by. Those of zeros count for nothing, whatever the mean.
    float square_row(Panel &p, int64_t r) {
        const FactoredTensor &t = tensors[p.tensor];
        float &grads = scales[p.tensor].row[r], weights;
        loops().square(row_of(p, r), p.squares, grads, weights);
        p.weights += weights;
        t.row[r] = mixed(t.row[r], grads / t.columns, rule.fresh);
        return grads > 0 ? 1.0f / t.row[r] : 0.0f;
    }

    // The new means of a tensor's columns, and what all means make of its gradient.
    void take(int64_t tensor) {
        const FactoredTensor &t = tensors[tensor];
        Scale &scale = scales[tensor];
        std::vector<double> squares(t.columns), weighed(t.columns);
        scale.weights = 0;
        for (int64_t i = begins[tensor]; i < begins[tensor + 1]; ++i) {
            const Panel &p = panels[i];
            for (int64_t j = 0; j < t.columns; ++j) squares[j] += p.squares[j];
            for (int64_t j = 0; j < t.columns; ++j) weighed[j] += p.weighed[j];
            scale.weights += p.weights;
        }
        double mean = 0;
        for (int64_t i = 0; i < t.rows; ++i) mean += t.row[i];
        mean = std::max<double>(mean / t.rows, rule.epsilon);
        float most_row = 0, most_column = 0; // where the gradient is not 0
        for (int64_t i = 0; i < t.rows; ++i) {
            const bool counts = scale.row[i] != 0;
            scale.row[i] = static_cast<float>(std::sqrt(mean / t.row[i]));
            if (counts) most_row = std::max(most_row, scale.row[i]);
        }
        scale.column.resize(t.columns);
        scale.updates = 0;
        for (int64_t j = 0; j < t.columns; ++j) {
            t.column[j] = mixed(t.column[j], static_cast<float>(squares[j] / t.rows), rule.fresh);
            scale.column[j] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.column[j])));
            if (squares[j] == 0) continue;
            most_column = std::max(most_column, scale.column[j]);
            scale.updates += mean * weighed[j] / t.column[j];
        }
        scale.is_known = std::isfinite(scale.updates) && most_row * most_column <= 1.0f / rule.epsilon;
        if (!scale.is_known) scale.updates = 0;
    }

    // The sum of squares of the update, value by value.
    void measure(Panel &p) {
        p.updates = 0;
        if (scales[p.tensor].is_known) return;
        for (int64_t r = p.first; r < p.first + p.rows; ++r)
            p.updates += loops().size(row_of(p, r), scales[p.tensor].column.data());
    }

    void apply(const Panel &p) {
        const FactoredTensor &t = tensors[p.tensor];
        const Scale &scale = scales[p.tensor];
        const double size = static_cast<double>(t.rows) * t.columns;
        const double rate = std::max<double>(rule.least, std::sqrt(scale.weights / size)) * std::min(t.rate, rule.most);
        const float by = static_cast<float>(rate / std::max(1.0, std::sqrt(scale.updates / size)));
        const float keep = static_cast<float>(1.0 - static_cast<double>(t.rate) * t.decay);
        for (int64_t r = p.first; r < p.first + p.rows; ++r) loops().apply(row_of(p, r), scale.column.data(), keep, by);
    }

    const FactoredTensor *const tensors;
    const FactoredRule &rule;
    std::vector<Scale> scales;
    std::vector<int64_t> begins; // the first panel of each tensor, and their number
    std::vector<Panel> panels;
};

} // namespace

void adafactor(const FactoredTensor *tensors, int64_t count, const FactoredRule &rule) {
    for (int64_t first = 0, end = 0; first < count; first = end) {
        int64_t values = 0;
        do values += tensors[end].rows * tensors[end].columns;
        while (++end < count && values + tensors[end].rows * tensors[end].columns <= GROUP);
        Update(tensors + first, end - first, rule).run();
    }
}

} // namespace anefast
