// Reductions over any axes. Accumulated in double, so that sums of halves are exact up to thousands of
// them and no order can be told from another; rounded once.
#include <algorithm>
#include <functional>

#include "../../cpu/pool.h"
#include "convert.h"
#include "registry.h"

namespace anefast::host {

namespace {

enum class Kind { sum, mean, max, min, prod, l1, l2, sum_square, log_sum_exp, log_sum };

double map(Kind k, double x) {
    switch (k) {
    case Kind::l1: return std::fabs(x);
    case Kind::l2:
    case Kind::sum_square: return x * x;
    default: return x;
    }
}

double start(Kind k) {
    if (k == Kind::max) return -std::numeric_limits<double>::infinity();
    if (k == Kind::min) return std::numeric_limits<double>::infinity();
    return k == Kind::prod ? 1 : 0;
}

double finish(Kind k, double acc, double count) {
    switch (k) {
    case Kind::mean: return acc / count;
    case Kind::l2: return std::sqrt(acc);
    case Kind::log_sum: return std::log(acc);
    case Kind::max: return acc != acc ? std::numeric_limits<double>::quiet_NaN() : acc;
    default: return acc;
    }
}

struct Axis {
    size_t n, stride; // in elements of x
};

struct Reduction {
    Kind kind;
    Ref x, y;
    Load<double> load;
    Store<double> store;
    size_t x_element, y_element;
    std::vector<Axis> kept, reduced; // outermost first, merged where memory allows
    size_t outputs = 1, count = 1;
    bool rows = false; // the last kept axis is contiguous: whole rows are accumulated at once

    static size_t offset_of(const std::vector<Axis> &axes, size_t n, size_t index) {
        size_t offset = 0;
        for (size_t i = n; i-- > 0;) {
            offset += index % axes[i].n * axes[i].stride;
            index /= axes[i].n;
        }
        return offset;
    }

    // Calls body(offset) for every index of `axes`, row-major.
    template <class F> static void each(const std::vector<Axis> &axes, size_t base, F &&body) {
        size_t n = 1;
        for (const Axis &axis : axes) n *= axis.n;
        for (size_t i = 0; i < n; i++) body(base + offset_of(axes, axes.size(), i));
    }

    static void step(Kind k, const double *x, double *acc, size_t n) {
        switch (k) {
        case Kind::sum:
        case Kind::mean:
        case Kind::log_sum:
            for (size_t i = 0; i < n; i++) acc[i] += x[i];
            break;
        case Kind::l2:
        case Kind::sum_square:
            for (size_t i = 0; i < n; i++) acc[i] += x[i] * x[i];
            break;
        case Kind::max: // a NaN stays, and 0 is above -0
            for (size_t i = 0; i < n; i++)
                acc[i] = (x[i] > acc[i] || x[i] != x[i] || (x[i] == 0 && acc[i] == 0 && !std::signbit(x[i]))) ? x[i]
                                                                                                              : acc[i];
            break;
        case Kind::min:
            for (size_t i = 0; i < n; i++) acc[i] = (x[i] < acc[i] || x[i] != x[i]) ? x[i] : acc[i];
            break;
        case Kind::prod:
            for (size_t i = 0; i < n; i++) acc[i] *= x[i];
            break;
        default:
            for (size_t i = 0; i < n; i++) acc[i] += map(k, x[i]);
        }
    }

    // Outputs [at, at + n): consecutive along the last kept axis, which is contiguous in x.
    void run_rows(const Frame &f, size_t at, size_t n) const {
        double acc[256], block[256], top[256];
        const uint8_t *p = f.at(x);
        const size_t inner = kept.back().n;
        const size_t base = offset_of(kept, kept.size() - 1, at / inner) + at % inner;
        std::fill(acc, acc + n, start(kind));
        if (kind == Kind::log_sum_exp) {
            std::fill(top, top + n, start(Kind::max));
            each(reduced, base, [&](size_t o) {
                load(p + o * x_element, block, n);
                step(Kind::max, block, top, n);
            });
            each(reduced, base, [&](size_t o) {
                load(p + o * x_element, block, n);
                for (size_t i = 0; i < n; i++) acc[i] += std::exp(block[i] - top[i]);
            });
            for (size_t i = 0; i < n; i++) acc[i] = top[i] + std::log(acc[i]);
        } else {
            each(reduced, base, [&](size_t o) {
                load(p + o * x_element, block, n);
                step(kind, block, acc, n);
            });
            for (size_t i = 0; i < n; i++) acc[i] = finish(kind, acc[i], static_cast<double>(count));
        }
        store(acc, f.at(y) + at * y_element, n);
    }

    // One output whose last reduced axis is contiguous.
    double run_one(const Frame &f, size_t at) const {
        const uint8_t *p = f.at(x);
        const size_t base = offset_of(kept, kept.size(), at);
        const size_t inner = reduced.back().n;
        std::vector<Axis> outer(reduced.begin(), reduced.end() - 1);
        double block[256];
        auto over = [&](auto &&body) {
            each(outer, base, [&](size_t o) {
                for (size_t i = 0; i < inner; i += 256) {
                    const size_t n = std::min<size_t>(256, inner - i);
                    load(p + (o + i) * x_element, block, n);
                    body(block, n);
                }
            });
        };
        auto reduce = [&](Kind k) {
            double lane[8];
            std::fill(lane, lane + 8, start(k));
            over([&](const double *x, size_t n) {
                for (size_t i = 0; i < n; i += 8) step(k, x + i, lane, std::min<size_t>(8, n - i));
            });
            for (size_t i = 1; i < 8; i++)
                if (k == Kind::max || k == Kind::min || k == Kind::prod) step(k, lane + i, lane, 1);
                else lane[0] += lane[i];
            return lane[0];
        };
        if (kind == Kind::log_sum_exp) {
            const double top = reduce(Kind::max);
            double acc = 0;
            over([&](const double *x, size_t n) {
                for (size_t i = 0; i < n; i++) acc += std::exp(x[i] - top);
            });
            return top + std::log(acc);
        }
        return finish(kind, reduce(kind), static_cast<double>(count));
    }

    void run(const Frame &f) const {
        const size_t work = outputs * count;
        if (rows) {
            // Narrow columns: enough of them for two threads, wide enough for whole cache lines.
            const size_t inner = kept.back().n, width = work < WORTH_WAKING ? 256 : 64;
            const size_t per = (inner + width - 1) / width, outer = outputs / inner;
            auto body = [&](int64_t i) {
                const size_t row = static_cast<size_t>(i) / per, column = static_cast<size_t>(i) % per * width;
                run_rows(f, row * inner + column, std::min(width, inner - column));
            };
            if (work >= WORTH_WAKING) return Pool::shared().parallel(static_cast<int64_t>(outer * per), body);
            for (size_t i = 0; i < outer * per; i++) body(static_cast<int64_t>(i));
            return;
        }
        const size_t turn = std::max<size_t>(1, GRAIN / std::max<size_t>(1, count));
        auto body = [&](int64_t i) {
            const size_t begin = static_cast<size_t>(i) * turn, end = std::min(begin + turn, outputs);
            for (size_t at = begin; at < end; at++) {
                const double r = run_one(f, at);
                store(&r, f.at(y) + at * y_element, 1);
            }
        };
        const auto turns = static_cast<int64_t>((outputs + turn - 1) / turn);
        if (work >= WORTH_WAKING) return Pool::shared().parallel(turns, body);
        for (int64_t i = 0; i < turns; i++) body(i);
    }
};

void push(std::vector<Axis> &axes, size_t n, size_t stride, bool adjacent) {
    if (adjacent && !axes.empty() && axes.back().stride == n * stride) axes.back() = {axes.back().n * n, stride};
    else axes.push_back({n, stride});
}

template <Kind K> Runnable reduce(const Builder &b) {
    const mil::Type &type = b.type("x");
    const size_t rank = type.shape.size();
    const std::vector<bool> is_reduced = b.axes(rank);
    Reduction r;
    r.kind = K;
    r.x = b.at("x");
    r.y = b.at(b.result());
    r.load = loader<double>(type.dtype);
    r.store = storer<double>(b.result_type().dtype);
    if (!r.load || !r.store) b.refuse("expected numbers");
    r.x_element = mil::bytes_of(type.dtype);
    r.y_element = mil::bytes_of(b.result_type().dtype);
    size_t stride = type.elements();
    bool last_reduced = false, any = false;
    for (size_t i = 0; i < rank; i++) {
        const auto n = static_cast<size_t>(type.shape[i]);
        stride /= n;
        if (n == 1) continue;
        push(is_reduced[i] ? r.reduced : r.kept, n, stride, any && last_reduced == is_reduced[i]);
        (is_reduced[i] ? r.count : r.outputs) *= n;
        last_reduced = is_reduced[i];
        any = true;
    }
    if (r.reduced.empty()) r.reduced.push_back({1, 1});
    r.rows = any && !last_reduced;
    return [r](const Frame &f) { r.run(f); };
}

} // namespace

void add_reductions(Table &t) {
    using namespace declare;
    t.add(declare::reduce("reduce_sum"), {reduce<Kind::sum>});
    t.add(declare::reduce("reduce_mean"), {reduce<Kind::mean>});
    t.add(declare::reduce("reduce_max"), {reduce<Kind::max>});
    t.add(declare::reduce("reduce_min"), {reduce<Kind::min>});
    t.add(declare::reduce("reduce_prod"), {reduce<Kind::prod>});
    t.add(declare::reduce("reduce_l1_norm"), {reduce<Kind::l1>});
    t.add(declare::reduce("reduce_l2_norm"), {reduce<Kind::l2>});
    t.add(declare::reduce("reduce_sum_square"), {reduce<Kind::sum_square>});
    t.add(declare::reduce("reduce_log_sum_exp"), {reduce<Kind::log_sum_exp>});
    t.add(declare::reduce("reduce_log_sum"), {reduce<Kind::log_sum>});
}

} // namespace anefast::host
