// Functions of one tensor.
//
// A function of fp16 has 65,536 values. Anything dearer than arithmetic is computed once for all of
// them, in double, rounded once, and kept for the process: the result is the correctly rounded one at
// every position, on every machine, at the price of a lookup. Other dtypes compute in double each time.
#include <array>
#include <map>
#include <memory>
#include <tuple>

#include "../../cpu/pool.h"
#include "../../fork.h"
#include "elementwise.h"

namespace anefast::host {

namespace {

using Scalar = double (*)(double x, const Parameters &p);

// 1) the functions, in double
double f_exp(double x, const Parameters &) { return std::exp(x); }
double f_exp2(double x, const Parameters &) { return std::exp2(x); }
double f_log(double x, const Parameters &p) { return std::log(x + p.a); }
double f_erf(double x, const Parameters &) { return std::erf(x); }
double f_tanh(double x, const Parameters &) { return std::tanh(x); }
double f_atan(double x, const Parameters &) { return std::atan(x); }
double f_sin(double x, const Parameters &) { return std::sin(x); }
double f_cos(double x, const Parameters &) { return std::cos(x); }
double f_sinh(double x, const Parameters &) { return std::sinh(x); }
double f_cosh(double x, const Parameters &) { return std::cosh(x); }
double f_tan(double x, const Parameters &) { return std::tan(x); }
double f_sigmoid(double x, const Parameters &) { return 1 / (1 + std::exp(-x)); }
double f_silu(double x, const Parameters &) { return x / (1 + std::exp(-x)); }
double f_softplus(double x, const Parameters &) {
    return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
double f_softsign(double x, const Parameters &) { return x / (1 + std::fabs(x)); }
double f_sqrt(double x, const Parameters &) { return std::sqrt(x); }
double f_rsqrt(double x, const Parameters &p) { return 1 / std::sqrt(x + p.a); }
double f_inverse(double x, const Parameters &p) { return 1 / (x + p.a); }
double f_pow(double x, const Parameters &p) { return std::pow(x, p.a); }
double f_elu(double x, const Parameters &p) { return x > 0 ? x : p.a * std::expm1(x); }
double f_leaky_relu(double x, const Parameters &p) { return x > 0 ? x : p.a * x; }
double f_gelu_exact(double x, const Parameters &) { return 0.5 * x * (1 + std::erf(x * 0.70710678118654752440)); }
double f_gelu_tanh(double x, const Parameters &) {
    return 0.5 * x * (1 + std::tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}
double f_gelu_sigmoid(double x, const Parameters &) { return x / (1 + std::exp(-1.702 * x)); }

// 2) all 65,536 results, shared by every program that asks for the same function and parameters
std::shared_ptr<const Halves> halves(Scalar f, const Parameters &p) {
    static auto *lock = new ForkMutex;
    static auto *made = new std::map<std::tuple<Scalar, double, double>, std::shared_ptr<const Halves>>();
    const auto key = std::make_tuple(f, p.a, p.b);
    std::lock_guard<std::mutex> held(*lock);
    auto &entry = (*made)[key];
    if (!entry) {
        auto fresh = std::make_shared<Halves>();
        for (uint32_t h = 0; h < 65536; h++)
            (*fresh)[h] = half_from_double(f(half_to_float(static_cast<uint16_t>(h)), p));
        entry = fresh;
    }
    return entry;
}

Runnable lookup(const Builder &b, Scalar f, const Parameters &p) {
    const Ref from = b.at("x"), to = b.at(b.result());
    const size_t total = b.result_type().elements();
    std::shared_ptr<const Halves> t = halves(f, p);
    return [=](const Frame &frame) {
        const auto *x = frame.at<const uint16_t>(from);
        auto *y = frame.at<uint16_t>(to);
        const uint16_t *table = t->data();
        auto run = [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) y[i] = table[x[i]];
        };
        if (total < WORTH_WAKING) return run(0, total);
        Pool::shared().parallel(static_cast<int64_t>((total + GRAIN - 1) / GRAIN), [&](int64_t i) {
            const size_t begin = static_cast<size_t>(i) * GRAIN;
            run(begin, std::min(begin + GRAIN, total));
        });
    };
}

// 3) the kernels of other dtypes
template <Scalar F, class T> void k_scalar(const T *const *in, T *out, size_t n, const Parameters &p) {
    for (size_t i = 0; i < n; i++) {
        const double y = F(static_cast<double>(in[0][i]), p);
        out[i] = static_cast<T>(y);
    }
}

template <Scalar F> Runnable function(const Builder &b, const Parameters &p = {}) {
    if (b.type("x").dtype == mil::DType::fp16 && b.result_type().dtype == mil::DType::fp16) return lookup(b, F, p);
    return build_elementwise(b, {b.operand("x")}, k_scalar<F, float>, k_scalar<F, double>, p);
}

// A function with parameters P, as a step and as all of its values.
Parameters none(const Builder &) { return {}; }
template <Scalar F, Parameters (*P)(const Builder &)> Runnable runnable_of(const Builder &b) {
    return function<F>(b, P(b));
}
template <Scalar F, Parameters (*P)(const Builder &)> std::shared_ptr<const Halves> values_of(const Builder &b) {
    return halves(F, P(b));
}
template <Scalar F, Parameters (*P)(const Builder &) = none> OpKernel looked_up() {
    return {runnable_of<F, P>, nullptr, values_of<F, P>};
}

// 4) plain arithmetic, faster computed than looked up
#define UNARY(NAME, EXPRESSION)                                                                                        \
    template <class T> void NAME(const T *const *in, T *out, size_t n, const Parameters &p) {                          \
        [[maybe_unused]] const T low = static_cast<T>(p.a), high = static_cast<T>(p.b);                                \
        for (size_t i = 0; i < n; i++) {                                                                               \
            const T x = in[0][i];                                                                                      \
            out[i] = EXPRESSION;                                                                                       \
        }                                                                                                              \
    }
UNARY(k_abs, std::fabs(x))
UNARY(k_square, x *x)
UNARY(k_relu, (x > 0 || x != x) ? x : T(0))
UNARY(k_relu6, x > 6 ? T(6) : ((x > 0 || x != x) ? x : T(0)))
UNARY(k_clip, x < low ? low : (x > high ? high : x)) // NaN comes through
UNARY(k_threshold, (x > low || x != x) ? x : low)
UNARY(k_sign, x != x ? x : T(x > 0) - T(x < 0))
UNARY(k_floor, std::floor(x))
UNARY(k_ceil, std::ceil(x))
UNARY(k_round, std::nearbyint(x)) // halves to even
UNARY(k_not, T(x == 0))
#undef UNARY

template <Kernel<float> F, Kernel<double> D> Runnable simple(const Builder &b) {
    return build_elementwise(b, {b.operand("x")}, F, D);
}

template <const double &FALLBACK> Parameters epsilon(const Builder &b) {
    Parameters p;
    p.a = b.has("epsilon") ? b.constant("epsilon") : FALLBACK;
    return p;
}
constexpr double LOG_EPSILON = 1e-45, RSQRT_EPSILON = 1e-12, INVERSE_EPSILON = 1e-4;

Parameters alpha_beta(const Builder &b) {
    Parameters p;
    if (b.has("alpha")) p.a = b.constant("alpha");
    if (b.has("beta")) p.b = b.constant("beta");
    return p;
}

Runnable clip(const Builder &b) {
    return build_elementwise(b, {b.operand("x")}, k_clip<float>, k_clip<double>, alpha_beta(b));
}

Runnable threshold(const Builder &b) {
    return build_elementwise(b, {b.operand("x")}, k_threshold<float>, k_threshold<double>, alpha_beta(b));
}

Runnable gelu(const Builder &b) {
    const std::string mode = b.f.text(b.op, "mode", "EXACT");
    if (mode == "EXACT") return function<f_gelu_exact>(b);
    if (mode == "TANH_APPROXIMATION") return function<f_gelu_tanh>(b);
    if (mode == "SIGMOID_APPROXIMATION") return function<f_gelu_sigmoid>(b);
    b.refuse("expected mode EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION, got " + mode);
}

bool constant_power(const Builder &b) {
    const mil::Value &y = b.f.values[b.operand("y")];
    return y.is_const && y.data && y.type.elements() == 1 && b.type("x").elements() == b.result_type().elements();
}

Parameters exponent(const Builder &b) {
    Parameters p;
    p.a = b.constant("y");
    return p;
}

Runnable power(const Builder &b) { return constant_power(b) ? function<f_pow>(b, exponent(b)) : build_pow(b); }

std::shared_ptr<const Halves> power_values(const Builder &b) {
    return constant_power(b) ? halves(f_pow, exponent(b)) : nullptr;
}

} // namespace

void add_unary(Table &t) {
    using namespace declare;
    t.add(declare::unary("exp"), looked_up<f_exp>());
    t.add(declare::unary("exp2", NUMBER), looked_up<f_exp2>());
    t.add(declare::unary("erf"), looked_up<f_erf>());
    t.add(declare::unary("tanh"), looked_up<f_tanh>());
    t.add(declare::unary("atan"), looked_up<f_atan>());
    t.add(declare::unary("sin"), looked_up<f_sin>());
    t.add(declare::unary("cos"), looked_up<f_cos>());
    t.add(declare::unary("tan"), looked_up<f_tan>());
    t.add(declare::unary("sinh"), looked_up<f_sinh>());
    t.add(declare::unary("cosh"), looked_up<f_cosh>());
    t.add(declare::unary("sigmoid"), looked_up<f_sigmoid>());
    t.add(declare::unary("silu"), looked_up<f_silu>());
    t.add(declare::unary("softplus"), looked_up<f_softplus>());
    t.add(declare::unary("softsign"), looked_up<f_softsign>());
    t.add(declare::unary("sqrt"), looked_up<f_sqrt>());
    t.add(declare::unary_epsilon("log"), looked_up<f_log, epsilon<LOG_EPSILON>>());
    t.add(declare::unary_epsilon("rsqrt"), looked_up<f_rsqrt, epsilon<RSQRT_EPSILON>>());
    t.add(declare::unary_epsilon("inverse"), looked_up<f_inverse, epsilon<INVERSE_EPSILON>>());
    t.add(declare::unary_alpha("elu"), looked_up<f_elu, alpha_beta>());
    t.add(declare::unary_alpha("leaky_relu"), looked_up<f_leaky_relu, alpha_beta>());
    t.add({"gelu", 15, FLOAT, FLOAT, {in("x"), may("mode", Role::text)}, rules::gelu}, {gelu});
    t.add(declare::binary("pow"), {power, nullptr, power_values});
    t.add(declare::unary("abs", NUMBER), {simple<k_abs<float>, k_abs<double>>});
    t.add(declare::unary("square", NUMBER), {simple<k_square<float>, k_square<double>>});
    t.add(declare::unary("relu"), {simple<k_relu<float>, k_relu<double>>});
    t.add(declare::unary("relu6"), {simple<k_relu6<float>, k_relu6<double>>});
    t.add(declare::unary("sign", NUMBER), {simple<k_sign<float>, k_sign<double>>});
    t.add(declare::unary("floor"), {simple<k_floor<float>, k_floor<double>>});
    t.add(declare::unary("ceil"), {simple<k_ceil<float>, k_ceil<double>>});
    t.add(declare::unary("round"), {simple<k_round<float>, k_round<double>>});
    t.add(declare::unary("logical_not", BOOL), {simple<k_not<float>, k_not<double>>});
    t.add({"clip", 15, FLOAT, FLOAT, {in("x"), scalar("alpha"), scalar("beta")}, rules::clip}, {clip});
    t.add(declare::unary_alpha("threshold", NUMBER), {threshold});
}

} // namespace anefast::host
