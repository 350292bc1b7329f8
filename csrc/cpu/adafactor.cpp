// Adafactor by panels of rows: squares, the size of the update, the update.
#include "adafactor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "pool.h"

namespace anefast {
namespace {

constexpr int64_t PANEL = 65536; // values, as far as whole rows allow

typedef float Four __attribute__((vector_size(16)));

Four load(const float *p) {
    Four v;
    memcpy(&v, p, sizeof v);
    return v;
}

void store(float *p, Four v) { memcpy(p, &v, sizeof v); }

float sum(Four v) { return (v[0] + v[1]) + (v[2] + v[3]); }

struct Panel {
    const FactoredTensor *tensor;
    int64_t first, rows;
    std::vector<float> column; // sums of squares of its rows
    double weights, updates;   // sums of squares
};

struct Scale { // of a tensor: value (i, j) of the update is grad * factor * min(row[i] * column[j], most)
    std::vector<float> row, column;
    double weights, updates;
};

// The gradient's squares by rows, into `row`, and by columns; the weights' in all.
void square(Panel &p, float factor, std::vector<float> &row) {
    const int64_t columns = p.tensor->columns;
    p.column.assign(columns, 0.0f);
    float *const column = p.column.data();
    p.weights = 0;
    for (int64_t r = p.first; r < p.first + p.rows; ++r) {
        const float *const g = p.tensor->grad + r * columns, *const w = p.tensor->weight + r * columns;
        Four grads{}, weights{};
        int64_t j = 0;
        for (; j + 4 <= columns; j += 4) {
            const Four grad = load(g + j) * factor, weight = load(w + j), squared = grad * grad;
            grads += squared;
            weights += weight * weight;
            store(column + j, load(column + j) + squared);
        }
        for (int64_t lane = 0; j < columns; ++j, ++lane) {
            const float grad = g[j] * factor;
            grads[lane] += grad * grad;
            weights[lane] += w[j] * w[j];
            column[j] += grad * grad;
        }
        row[r] = sum(grads);
        p.weights += sum(weights);
    }
}

// Calls use(j, the update's values from column j on, how many there are) along row r.
template <class Use>
void along(const FactoredTensor &t, const Scale &scale, int64_t r, const FactoredRule &rule, const Use &use) {
    const float *const g = t.grad + r * t.columns, *const column = scale.column.data();
    const float row = scale.row[r], most = 1.0f / rule.epsilon;
    const Four limit = Four{} + most;
    int64_t j = 0;
    for (; j + 4 <= t.columns; j += 4) {
        const Four by = load(column + j) * row;
        use(j, load(g + j) * rule.factor * (by < limit ? by : limit), 4);
    }
    if (const int64_t left = t.columns - j) {
        Four value{};
        for (int64_t k = 0; k < left; ++k) value[k] = g[j + k] * rule.factor * std::min(column[j + k] * row, most);
        use(j, value, left);
    }
}

void mix(float *mean, const std::vector<float> &now, float fresh) {
    for (size_t i = 0; i < now.size(); ++i) mean[i] = (1.0f - fresh) * mean[i] + fresh * now[i];
}

// The new means of a tensor, and what they make of its gradient. `scale.row` holds the rows' sums of squares.
void take(const FactoredTensor &t, const Panel *panels, int64_t count, const FactoredRule &rule, Scale &scale) {
    std::vector<double> sums(t.columns);
    scale.weights = 0;
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < t.columns; ++j) sums[j] += panels[i].column[j];
        scale.weights += panels[i].weights;
    }
    scale.column.resize(t.columns);
    for (int64_t j = 0; j < t.columns; ++j) scale.column[j] = static_cast<float>(sums[j] / t.rows);
    for (float &of_row : scale.row) of_row /= t.columns;
    mix(t.row, scale.row, rule.fresh);
    mix(t.column, scale.column, rule.fresh);
    double mean = 0;
    for (int64_t i = 0; i < t.rows; ++i) mean += t.row[i];
    mean = std::max<double>(mean / t.rows, rule.epsilon);
    for (int64_t i = 0; i < t.rows; ++i) scale.row[i] = static_cast<float>(std::sqrt(mean / t.row[i]));
    for (int64_t j = 0; j < t.columns; ++j)
        scale.column[j] = static_cast<float>(1.0 / std::sqrt(static_cast<double>(t.column[j])));
}

void apply(const Panel &p, const Scale &scale, const FactoredRule &rule) {
    const FactoredTensor &t = *p.tensor;
    const double size = static_cast<double>(t.rows) * t.columns;
    const double rate = std::max<double>(rule.least, std::sqrt(scale.weights / size)) * std::min(t.rate, rule.most);
    const float by = static_cast<float>(rate / std::max(1.0, std::sqrt(scale.updates / size)));
    const float keep = static_cast<float>(1.0 - static_cast<double>(t.rate) * t.decay);
    for (int64_t r = p.first; r < p.first + p.rows; ++r) {
        float *const w = t.weight + r * t.columns;
        along(t, scale, r, rule, [&](int64_t j, Four value, int64_t count) {
            if (count == 4) store(w + j, load(w + j) * keep - value * by);
            else
                for (int64_t k = 0; k < count; ++k) w[j + k] = w[j + k] * keep - value[k] * by;
        });
    }
}

} // namespace

void adafactor(const FactoredTensor *tensors, int64_t count, const FactoredRule &rule) {
    std::vector<Panel> panels;
    std::vector<Scale> scales(count);
    std::vector<int64_t> begins{0};
    for (int64_t t = 0; t < count; ++t) {
        scales[t].row.resize(tensors[t].rows);
        const int64_t rows = std::max<int64_t>(1, PANEL / std::max<int64_t>(1, tensors[t].columns));
        for (int64_t first = 0; first < tensors[t].rows; first += rows)
            panels.push_back({&tensors[t], first, std::min(rows, tensors[t].rows - first), {}, 0, 0});
        begins.push_back(panels.size());
    }
    Pool &pool = Pool::shared();
    const auto scale_of = [&](const Panel &p) -> Scale & { return scales[p.tensor - tensors]; };
    pool.parallel(panels.size(), [&](int64_t i) { square(panels[i], rule.factor, scale_of(panels[i]).row); });
    pool.parallel(count, [&](int64_t t) {
        take(tensors[t], panels.data() + begins[t], begins[t + 1] - begins[t], rule, scales[t]);
    });
    pool.parallel(panels.size(), [&](int64_t i) {
        Panel &p = panels[i];
        p.updates = 0;
        for (int64_t r = p.first; r < p.first + p.rows; ++r) {
            Four squares{};
            along(*p.tensor, scale_of(p), r, rule, [&](int64_t, Four value, int64_t) { squares += value * value; });
            p.updates += sum(squares);
        }
    });
    for (Scale &scale : scales) scale.updates = 0;
    for (const Panel &p : panels) scale_of(p).updates += p.updates;
    pool.parallel(panels.size(), [&](int64_t i) { apply(panels[i], scale_of(panels[i]), rule); });
}

} // namespace anefast
