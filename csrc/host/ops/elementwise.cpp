// Operations on elements that meet at the same place after broadcasting: arithmetic, comparison, logic,
// select and cast. Unary functions are in unary.cpp, which borrows the walk from here.
#include "elementwise.h"

#include <algorithm>

#include "../../cpu/pool.h"

namespace anefast::host {

namespace {

// An operand as it lines up with the result: extents and strides, merged where memory allows.
struct Operand {
    Ref ref;
    size_t element;
    bool contiguous = false, scalar = false;
    std::vector<size_t> extent, stride; // strides in elements; the last is 1 or 0
};

Operand line_up(const mil::Type &type, Ref ref, const std::vector<int32_t> &out) {
    Operand o;
    o.ref = ref;
    o.element = mil::bytes_of(type.dtype);
    o.scalar = type.elements() == 1;
    size_t below = 1;
    std::vector<size_t> extent, stride; // from the last axis
    for (size_t i = 0; i < out.size(); i++) {
        const auto n = static_cast<size_t>(out[out.size() - 1 - i]);
        const size_t mine = i < type.shape.size() ? static_cast<size_t>(type.shape[type.shape.size() - 1 - i]) : 1;
        if (n == 1) continue;
        const size_t s = mine == 1 ? 0 : below;
        below *= mine;
        if (!extent.empty() && s == extent.back() * stride.back()) extent.back() *= n;
        else {
            extent.push_back(n);
            stride.push_back(s);
        }
    }
    if (extent.empty()) {
        extent.push_back(1);
        stride.push_back(1);
    }
    o.contiguous = extent.size() == 1 && stride[0] == 1;
    o.extent.assign(extent.rbegin(), extent.rend());
    o.stride.assign(stride.rbegin(), stride.rend());
    return o;
}

// x[0..n) = the operand's elements for results start .. start + n.
template <class T> void gather(const Operand &o, const uint8_t *p, Load<T> load, size_t start, T *x, size_t n) {
    const size_t last = o.extent.size() - 1;
    size_t index[8], rest = start, offset = 0;
    for (size_t i = last + 1; i-- > 0;) {
        index[i] = rest % o.extent[i];
        rest /= o.extent[i];
        offset += index[i] * o.stride[i];
    }
    while (n > 0) {
        const size_t run = std::min(n, o.extent[last] - index[last]);
        if (o.stride[last]) load(p + offset * o.element, x, run);
        else {
            T one;
            load(p + offset * o.element, &one, 1);
            std::fill(x, x + run, one);
        }
        x += run;
        n -= run;
        offset += run * o.stride[last];
        index[last] += run;
        for (size_t i = last; i > 0 && index[i] == o.extent[i]; i--) {
            offset += o.stride[i - 1];
            offset -= o.extent[i] * o.stride[i];
            index[i] = 0;
            index[i - 1]++;
        }
    }
}

template <class T> struct Walk {
    std::vector<Operand> operands;
    std::vector<Load<T>> loads;
    Ref out;
    size_t out_element, total;
    Store<T> store;
    Kernel<T> kernel;
    Parameters parameters;

    void run(const Frame &frame, size_t begin, size_t end) const {
        T in[3][BLOCK];
        T result[BLOCK];
        const T *pointers[3] = {in[0], in[1], in[2]};
        uint8_t *to = frame.at(out);
        for (size_t k = 0; k < operands.size(); k++)
            if (operands[k].scalar) {
                loads[k](frame.at(operands[k].ref), in[k], 1);
                std::fill(in[k] + 1, in[k] + BLOCK, in[k][0]);
            }
        for (size_t at = begin; at < end; at += BLOCK) {
            const size_t n = std::min(BLOCK, end - at);
            for (size_t k = 0; k < operands.size(); k++) {
                const Operand &o = operands[k];
                const uint8_t *p = frame.at(o.ref);
                if (o.scalar) continue;
                if (o.contiguous) loads[k](p + at * o.element, in[k], n);
                else gather(o, p, loads[k], at, in[k], n);
            }
            kernel(pointers, result, n, parameters);
            store(result, to + at * out_element, n);
        }
    }
};

// Halves from zero away, rounded once from the double.
uint16_t half_away_from(double d) {
    const uint16_t sign = std::signbit(d) ? 0x8000 : 0;
    const double size = std::fabs(d);
    if (size < 0x1p-14) return sign | static_cast<uint16_t>(size * 0x1p24 + 0.5);
    uint32_t bits;
    const float odd = to_odd(size);
    std::memcpy(&bits, &odd, sizeof bits);
    if (bits > 0x7f800000) return sign | 0x7e00;
    return sign | static_cast<uint16_t>(std::min(((bits + 0x1000) >> 13) - (112u << 10), 0x7c00u));
}

void store_half_away(const double *x, uint8_t *p, size_t n) {
    auto *h = reinterpret_cast<uint16_t *>(p);
    for (size_t i = 0; i < n; i++) h[i] = half_away_from(x[i]);
}

template <class T>
Runnable build(const Builder &b, const std::vector<int32_t> &operands, Kernel<T> kernel, const Parameters &parameters) {
    Walk<T> w;
    const mil::Type &out = b.result_type();
    for (int32_t v : operands) {
        w.operands.push_back(line_up(b.type(v), b.at(v), out.shape));
        w.loads.push_back(loader<T>(b.type(v).dtype));
        if (!w.loads.back() || w.operands.back().extent.size() > 8) b.refuse("expected numbers of rank 8 at most");
    }
    w.out = b.at(b.result());
    w.out_element = mil::bytes_of(out.dtype);
    w.total = out.elements();
    w.store = storer<T>(out.dtype);
    if constexpr (std::is_same_v<T, double>)
        if (b.away && out.dtype == mil::DType::fp16) w.store = store_half_away;
    w.kernel = kernel;
    w.parameters = parameters;
    if (!w.store) b.refuse("expected a numeric result");
    return [w](const Frame &frame) {
        if (w.total < WORTH_WAKING) return w.run(frame, 0, w.total);
        const auto turns = static_cast<int64_t>((w.total + GRAIN - 1) / GRAIN);
        Pool::shared().parallel(turns, [&](int64_t i) {
            const size_t begin = static_cast<size_t>(i) * GRAIN;
            w.run(frame, begin, std::min(begin + GRAIN, w.total));
        });
    };
}

// Kernels. Division and the like need no care about rounding twice: fp32 is wide enough (24 >= 2 * 11 + 2).
#define BINARY(NAME, EXPRESSION)                                                                                       \
    template <class T> void NAME(const T *const *in, T *out, size_t n, const Parameters &) {                           \
        const T *x = in[0], *y = in[1];                                                                                \
        for (size_t i = 0; i < n; i++) {                                                                               \
            const T a = x[i], c = y[i];                                                                                \
            out[i] = EXPRESSION;                                                                                       \
        }                                                                                                              \
    }
BINARY(k_add, a + c)
BINARY(k_sub, a - c)
BINARY(k_mul, a *c)
BINARY(k_div, a / c)
BINARY(k_maximum, (a > c || a != a) ? a : c) // either NaN comes through
BINARY(k_minimum, (a < c || a != a) ? a : c)
BINARY(k_equal, T(a == c))
BINARY(k_not_equal, T(a != c))
BINARY(k_less, T(a < c))
BINARY(k_less_equal, T(a <= c))
BINARY(k_greater, T(a > c))
BINARY(k_greater_equal, T(a >= c))
BINARY(k_and, T(a != T(0) && c != T(0)))
BINARY(k_or, T(a != T(0) || c != T(0)))
BINARY(k_xor, T((a != T(0)) != (c != T(0))))
#undef BINARY

template <class T> void k_truncated_div(const T *const *in, T *out, size_t n, const Parameters &) {
    for (size_t i = 0; i < n; i++) out[i] = std::trunc(in[0][i] / in[1][i]);
}

template <class T> T rounded(double d, const Parameters &p) {
    if constexpr (sizeof(T) == sizeof(float)) return p.to_half ? to_odd(d) : static_cast<float>(d);
    else return d;
}

template <class T> void k_pow(const T *const *in, T *out, size_t n, const Parameters &p) {
    for (size_t i = 0; i < n; i++)
        out[i] = rounded<T>(std::pow(static_cast<double>(in[0][i]), static_cast<double>(in[1][i])), p);
}

template <class T> void k_floor_div(const T *const *in, T *out, size_t n, const Parameters &p) {
    for (size_t i = 0; i < n; i++)
        out[i] = rounded<T>(std::floor(static_cast<double>(in[0][i]) / static_cast<double>(in[1][i])), p);
}

template <class T> void k_mod(const T *const *in, T *out, size_t n, const Parameters &p) {
    for (size_t i = 0; i < n; i++) {
        const double a = in[0][i], c = in[1][i];
        double r = std::fmod(a, c); // exact; the result takes the divisor's sign
        if (r != 0 && (r < 0) != (c < 0)) r += c;
        out[i] = rounded<T>(r, p);
    }
}

template <class T> void k_select(const T *const *in, T *out, size_t n, const Parameters &) {
    for (size_t i = 0; i < n; i++) out[i] = in[0][i] != T(0) ? in[1][i] : in[2][i];
}

template <class T> void k_copy(const T *const *in, T *out, size_t n, const Parameters &) {
    std::memcpy(out, in[0], n * sizeof(T));
}

template <Kernel<float> F, Kernel<double> D> Runnable binary(const Builder &b) {
    return build_elementwise(b, {b.operand("x"), b.operand("y")}, F, D);
}

Runnable real_div(const Builder &b) {
    // Integers divide as they do in C; no ANE program has them, but constants of shapes do.
    if (!is_float(b.result_type().dtype)) return binary<k_truncated_div<float>, k_truncated_div<double>>(b);
    return binary<k_div<float>, k_div<double>>(b);
}

Runnable select(const Builder &b) {
    return build_elementwise(b, {b.operand("cond"), b.operand("a"), b.operand("b")}, k_select<float>, k_select<double>);
}

Runnable cast(const Builder &b) { return build_elementwise(b, {b.operand("x")}, k_copy<float>, k_copy<double>); }

} // namespace

Runnable build_elementwise(const Builder &b, const std::vector<int32_t> &operands, Kernel<float> f, Kernel<double> d,
                           Parameters parameters) {
    const mil::DType out = b.result_type().dtype;
    bool floats = is_float(out) || out == mil::DType::boolean;
    for (int32_t v : operands) {
        const mil::DType t = b.type(v).dtype;
        floats = floats && (is_float(t) || t == mil::DType::boolean);
    }
    parameters.to_half = out == mil::DType::fp16;
    if (floats && !(b.away && parameters.to_half)) return build<float>(b, operands, f, parameters);
    return build<double>(b, operands, d, parameters);
}

void add_elementwise(Table &t) {
    using namespace declare;
    t.add(declare::binary("add"), {binary<k_add<float>, k_add<double>>});
    t.add(declare::binary("sub"), {binary<k_sub<float>, k_sub<double>>});
    t.add(declare::binary("mul"), {binary<k_mul<float>, k_mul<double>>});
    t.add(declare::binary("real_div"), {real_div});
    t.add(declare::binary("maximum"), {binary<k_maximum<float>, k_maximum<double>>});
    t.add(declare::binary("minimum"), {binary<k_minimum<float>, k_minimum<double>>});
    t.add(declare::binary("floor_div"), {binary<k_floor_div<float>, k_floor_div<double>>});
    t.add(declare::binary("mod"), {binary<k_mod<float>, k_mod<double>>});
    t.add(declare::compare("equal"), {binary<k_equal<float>, k_equal<double>>});
    t.add(declare::compare("not_equal"), {binary<k_not_equal<float>, k_not_equal<double>>});
    t.add(declare::compare("less"), {binary<k_less<float>, k_less<double>>});
    t.add(declare::compare("less_equal"), {binary<k_less_equal<float>, k_less_equal<double>>});
    t.add(declare::compare("greater"), {binary<k_greater<float>, k_greater<double>>});
    t.add(declare::compare("greater_equal"), {binary<k_greater_equal<float>, k_greater_equal<double>>});
    t.add(declare::logical("logical_and"), {binary<k_and<float>, k_and<double>>});
    t.add(declare::logical("logical_or"), {binary<k_or<float>, k_or<double>>});
    t.add(declare::logical("logical_xor"), {binary<k_xor<float>, k_xor<double>>});
    t.add({"select", 15, PLAIN, PLAIN, {needs("cond", Role::logical), in("a"), in("b")}, rules::select}, {select});
    t.add({"cast", 15, PLAIN, PLAIN | SMALL, {in("x"), needs("dtype", Role::text)}, rules::cast}, {cast});
}

Runnable build_pow(const Builder &b) { return binary<k_pow<float>, k_pow<double>>(b); }

} // namespace anefast::host
