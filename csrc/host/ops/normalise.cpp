// softmax and layer_norm: fp32 (or wider) inside, rounded once.
#include <algorithm>
#include <vector>

#include "../../cpu/exp_sum.h"
#include "../../cpu/pool.h"
#include "../../cpu/vecmath.h"
#include "convert.h"
#include "registry.h"

namespace anefast::host {

namespace {

constexpr size_t COLUMNS = 64; // two cache lines of halves

// x seen as (outer, n, inner) around the normalised axes.
struct Folded {
    size_t outer = 1, n = 1, inner = 1;
};

// Work is cut into (outer, columns) where inner > 1, else into groups of rows.
void parallel_turns(size_t total, size_t turns, const std::function<void(int64_t)> &body) {
    if (total >= WORTH_WAKING) return Pool::shared().parallel(static_cast<int64_t>(turns), body);
    for (size_t i = 0; i < turns; i++) body(static_cast<int64_t>(i));
}

// NaN where there is one. Eight running maxima: a lone one would wait for itself.
float largest(const float *x, size_t n) {
    typedef float F __attribute__((vector_size(16)));
    typedef int32_t I __attribute__((vector_size(16)));
    const float least = -std::numeric_limits<float>::infinity();
    F low = {least, least, least, least}, high = low;
    auto join = [](F top, F v) {
        const I take = (v > top) | (v != v);
        return reinterpret_cast<F>((reinterpret_cast<I>(v) & take) | (reinterpret_cast<I>(top) & ~take));
    };
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        F a, b;
        std::memcpy(&a, x + i, sizeof a);
        std::memcpy(&b, x + i + 4, sizeof b);
        low = join(low, a);
        high = join(high, b);
    }
    low = join(low, high);
    float top = least;
    for (size_t j = 0; j < 4; j++) top = (low[j] > top || low[j] != low[j]) ? low[j] : top;
    for (; i < n; i++) top = (x[i] > top || x[i] != x[i]) ? x[i] : top;
    return top;
}

struct Softmax {
    Folded shape;
    Ref x, y;
    size_t element;
    Load<float> load;
    Store<float> store;

    void row(const uint8_t *from, uint8_t *to, float *e) const {
        const size_t n = shape.n;
        load(from, e, n);
        const float top = largest(e, n);
        for (size_t i = 0; i < n; i++) e[i] -= top;
        exp_floats(e, e, static_cast<int64_t>(n));
        int64_t sum = 0;
        for (size_t i = 0; i < n; i++) sum += exp_units(e[i]);
        const float total = exp_total(sum, top);
        for (size_t i = 0; i < n; i++) e[i] /= total;
        store(e, to, n);
    }

    // `m` neighbouring columns at once, three passes down: exp is computed twice rather than kept.
    void columns(const uint8_t *from, uint8_t *to, size_t m) const {
        float block[COLUMNS], top[COLUMNS], total[COLUMNS];
        int64_t sum[COLUMNS] = {};
        const size_t stride = shape.inner * element;
        load(from, top, m);
        for (size_t r = 1; r < shape.n; r++) {
            load(from + r * stride, block, m);
            for (size_t i = 0; i < m; i++) top[i] = (block[i] > top[i] || block[i] != block[i]) ? block[i] : top[i];
        }
        auto exps = [&](size_t r) {
            load(from + r * stride, block, m);
            for (size_t i = 0; i < m; i++) block[i] -= top[i];
            exp_floats(block, block, static_cast<int64_t>(m));
        };
        for (size_t r = 0; r < shape.n; r++) {
            exps(r);
            for (size_t i = 0; i < m; i++) sum[i] += exp_units(block[i]);
        }
        for (size_t i = 0; i < m; i++) total[i] = exp_total(sum[i], top[i]);
        for (size_t r = 0; r < shape.n; r++) {
            exps(r);
            for (size_t i = 0; i < m; i++) block[i] /= total[i];
            store(block, to + r * stride, m);
        }
    }

    void run(const Frame &f) const {
        const uint8_t *from = f.at(x);
        uint8_t *to = f.at(y);
        const size_t total = shape.outer * shape.n * shape.inner;
        if (shape.inner == 1) {
            const size_t group = std::max<size_t>(1, GRAIN / 2 / shape.n);
            parallel_turns(total, (shape.outer + group - 1) / group, [&](int64_t i) {
                std::vector<float> e(shape.n);
                const size_t begin = static_cast<size_t>(i) * group, end = std::min(begin + group, shape.outer);
                for (size_t r = begin; r < end; r++)
                    row(from + r * shape.n * element, to + r * shape.n * element, e.data());
            });
            return;
        }
        const size_t per = (shape.inner + COLUMNS - 1) / COLUMNS;
        parallel_turns(total, shape.outer * per, [&](int64_t i) {
            const size_t o = static_cast<size_t>(i) / per, c = static_cast<size_t>(i) % per * COLUMNS;
            const size_t at = (o * shape.n * shape.inner + c) * element;
            columns(from + at, to + at, std::min(COLUMNS, shape.inner - c));
        });
    }
};

Runnable softmax(const Builder &b) {
    const mil::Type &type = b.type("x");
    if (!is_float(type.dtype)) b.refuse("expected fp16 or fp32");
    Softmax s;
    const size_t axis = b.axis(type.shape.size(), -1);
    for (size_t i = 0; i < type.shape.size(); i++)
        (i < axis ? s.shape.outer : i == axis ? s.shape.n : s.shape.inner) *= static_cast<size_t>(type.shape[i]);
    if (s.shape.n > static_cast<size_t>(EXPS_MOST)) b.refuse("expected an axis of at most 262,144 elements");
    s.x = b.at("x");
    s.y = b.at(b.result());
    s.element = mil::bytes_of(type.dtype);
    s.load = loader<float>(type.dtype);
    s.store = storer<float>(type.dtype);
    return [s](const Frame &f) { s.run(f); };
}

struct LayerNorm {
    Folded shape;
    Ref x, y, gamma, beta;
    bool has_gamma, has_beta;
    double epsilon;
    size_t element;
    Load<double> load;
    Store<double> store;

    void columns(const Frame &f, const uint8_t *from, uint8_t *to, size_t m) const {
        double block[COLUMNS], mean[COLUMNS] = {}, scale[COLUMNS] = {};
        const size_t stride = shape.inner * element;
        const auto n = static_cast<double>(shape.n);
        for (size_t r = 0; r < shape.n; r++) {
            load(from + r * stride, block, m);
            for (size_t i = 0; i < m; i++) mean[i] += block[i];
        }
        for (size_t i = 0; i < m; i++) mean[i] /= n;
        for (size_t r = 0; r < shape.n; r++) {
            load(from + r * stride, block, m);
            for (size_t i = 0; i < m; i++) scale[i] += (block[i] - mean[i]) * (block[i] - mean[i]);
        }
        for (size_t i = 0; i < m; i++) scale[i] = 1 / std::sqrt(scale[i] / n + epsilon);
        for (size_t r = 0; r < shape.n; r++) {
            double g = 1, h = 0;
            if (has_gamma) load(f.at(gamma) + r * element, &g, 1);
            if (has_beta) load(f.at(beta) + r * element, &h, 1);
            load(from + r * stride, block, m);
            for (size_t i = 0; i < m; i++) block[i] = (block[i] - mean[i]) * scale[i] * g + h;
            store(block, to + r * stride, m);
        }
    }

    void run(const Frame &f) const {
        const size_t per = (shape.inner + COLUMNS - 1) / COLUMNS;
        parallel_turns(shape.outer * shape.n * shape.inner, shape.outer * per, [&](int64_t i) {
            const size_t o = static_cast<size_t>(i) / per, c = static_cast<size_t>(i) % per * COLUMNS;
            const size_t at = (o * shape.n * shape.inner + c) * element;
            columns(f, f.at(x) + at, f.at(y) + at, std::min(COLUMNS, shape.inner - c));
        });
    }
};

Runnable layer_norm(const Builder &b) {
    const mil::Type &type = b.type("x");
    if (!is_float(type.dtype)) b.refuse("expected fp16 or fp32");
    const std::vector<bool> is = b.axes(type.shape.size());
    LayerNorm l{};
    l.shape = {};
    int place = 0; // 0 before, 1 inside, 2 after the normalised axes
    for (size_t i = 0; i < is.size(); i++) {
        const auto n = static_cast<size_t>(type.shape[i]);
        if (is[i] && place == 2 && n > 1) b.refuse("expected axes side by side");
        if (is[i]) place = std::max(place, 1);
        else if (place == 1) place = 2;
        (is[i] ? l.shape.n : place == 0 ? l.shape.outer : l.shape.inner) *= n;
    }
    l.x = b.at("x");
    l.y = b.at(b.result());
    l.has_gamma = b.has("gamma");
    l.has_beta = b.has("beta");
    for (const char *name : {"gamma", "beta"})
        if (b.has(name) && (b.type(name).elements() != l.shape.n || b.type(name).dtype != type.dtype))
            b.refuse(std::string("expected ") + name + " to have the dtype of x and the lengths of its axes");
    if (l.has_gamma) l.gamma = b.at("gamma");
    if (l.has_beta) l.beta = b.at("beta");
    l.epsilon = b.has("epsilon") ? b.constant("epsilon") : 1e-5;
    l.element = mil::bytes_of(type.dtype);
    l.load = loader<double>(type.dtype);
    l.store = storer<double>(type.dtype);
    return [l](const Frame &f) { l.run(f); };
}

} // namespace

void add_normalisers(Table &t) {
    using namespace declare;
    t.add({"softmax", 15, FLOAT, FLOAT, {in("x"), may("axis", Role::integer)}, rules::softmax}, {softmax});
    t.add({"layer_norm",
           15,
           FLOAT,
           FLOAT,
           {in("x"), may("axes", Role::ints), may_weight("gamma"), may_weight("beta"), may("epsilon", Role::scalar)},
           rules::layer_norm},
          {layer_norm});
}

} // namespace anefast::host
