// Copies, passes over results, and tables. See numbers.h.
#include "numbers.h"

#include <array>
#include <cmath>
#include <cstring>
#include <functional>

#include "../../cpu/pool.h"
#include "../../half.h"
#include "../ops/convert.h"

namespace anefast::host {

const char *const COPY = "anefast.copy"; // no MIL text can spell it

namespace {

constexpr uint16_t SIGN = 0x8000, INF = 0x7c00, NORMAL = 0x0400; // the smallest normal number
constexpr double OVERFLOW_FROM = 65520;                          // what rounds to inf
const char *const BOUNDARY = "boundary", *const OPERAND = "operand", *const SLICE = "slice";

bool is_product(const std::string &type) { return type == "conv" || type == "matmul" || type == "linear"; }

// ---- 1) what happens to halves in place ----

struct Pass {
    uint16_t nan = 0; // what NaN becomes, where `coerce`
    bool coerce = false, flush = false;
    uint16_t cap = INF;                              // magnitudes from here on are inf
    uint16_t minus_inf = SIGN | INF, plus_inf = INF; // what infinities become

    bool does_nothing() const {
        return !coerce && !flush && cap == INF && minus_inf == (SIGN | INF) && plus_inf == INF;
    }

    // In whole vectors, whose comparisons are signed; a magnitude always is a positive int16_t.
    typedef int16_t V __attribute__((vector_size(16)));
    static constexpr size_t WIDTH = sizeof(V) / sizeof(int16_t);

    void operator()(V &h) const {
        const auto all = [](uint16_t x) { return V{} + static_cast<int16_t>(x); };
        const V size = h & all(0x7fff);
        V y = ((size >= all(cap)) | (size == all(INF))) ? (h < V{} ? all(minus_inf) : all(plus_inf)) : h;
        y = size > all(INF) ? (coerce ? all(nan) : h) : y;
        h = size < all(flush ? NORMAL : 0) ? V{} : y;
    }
    uint16_t operator()(uint16_t h) const {
        V v = V{} + static_cast<int16_t>(h);
        (*this)(v);
        return static_cast<uint16_t>(v[0]);
    }
};

// The first half of at least x: magnitudes from x on are those from here on.
uint16_t half_from(double x) {
    if (x >= OVERFLOW_FROM) return INF;
    uint16_t h = half_from_double(x);
    if (static_cast<double>(half_to_float(h)) < x) h++;
    return h;
}

template <class F> void in_parallel(size_t total, F &&run) {
    if (total < WORTH_WAKING) return run(0, total);
    Pool::shared().parallel(static_cast<int64_t>((total + GRAIN - 1) / GRAIN), [&](int64_t i) {
        const size_t begin = static_cast<size_t>(i) * GRAIN;
        run(begin, std::min(begin + GRAIN, total));
    });
}

void apply(const Pass &pass, uint16_t *y, size_t begin, size_t end) {
    const Pass p = pass; // the compiler need not fear that y points at it
    for (; begin + Pass::WIDTH <= end; begin += Pass::WIDTH) {
        Pass::V v;
        std::memcpy(&v, y + begin, sizeof v);
        p(v);
        std::memcpy(y + begin, &v, sizeof v);
    }
    for (; begin < end; begin++) y[begin] = p(y[begin]);
}

// fp32 values: the chip computes them in fp16 too.
void apply(const Pass &pass, float *y, size_t begin, size_t end) {
    uint16_t block[256];
    for (size_t at = begin; at < end; at += 256) {
        const size_t n = std::min<size_t>(256, end - at);
        half_from_floats(y + at, block, n);
        apply(pass, block, 0, n);
        half_to_floats(block, y + at, n);
    }
}

Pass pass_of(const Profile &p, const Builder &b) {
    const std::string &type = b.op.type, &label = b.op.label;
    Pass pass;
    pass.coerce = p.coerce;
    if (type == COPY) {
        if (label == BOUNDARY) pass.nan = INF;
        if (label == OPERAND) pass.flush = p.flush;
        if (label == SLICE && p.slice_cap)
            pass.cap =
                static_cast<uint16_t>(half_from(p.slice_cap) + (half_to_float(half_from(p.slice_cap)) <= p.slice_cap));
        return pass;
    }
    if (is_product(type) && !p.fixed) {
        // A product of one term is no sum, and was seen to pass 60000.
        const auto &w = type == "conv" ? b.type("weight").shape : std::vector<int32_t>{0, 0};
        const bool one_term = type == "conv" && w[1] == 1 && b.type("weight").elements() == static_cast<size_t>(w[0]);
        if (p.product_cap && !one_term) pass.cap = half_from(p.product_cap);
        pass.flush = p.flush;
    }
    if (p.narrow && type == "reduce_mean") {
        const double n = static_cast<double>(b.type("x").elements()) / static_cast<double>(b.result_type().elements());
        pass.cap = half_from(OVERFLOW_FROM / n);
    }
    if (p.narrow && type == "reduce_l2_norm") pass.cap = half_from(std::sqrt(OVERFLOW_FROM));
    if (p.coerce && type == "log" && !p.tiny) pass.minus_inf = half_from_double(-45440);
    if (p.coerce && type == "rsqrt") pass.minus_inf = INF; // of -0
    if (p.coerce && type == "softplus") pass.plus_inf = 0;
    if (p.tiny && type == "rsqrt") pass.cap = half_from(1 / std::sqrt(p.tiny));
    if (p.tiny && type == "log") pass.cap = half_from(-std::log(p.tiny)); // no fp16 number has a log so large
    return pass;
}

// ---- 2) tables ----

// 33 knots, straight lines between them, the function's limits beyond. Of the published: how many
// knots there are, the largest errors, and two values at 0. The ranges are those from which uniform
// knots give these errors: h * h / 8 * max|f''|, and beyond which the function is its limit.
constexpr int KNOTS = 33;

struct Curve {
    const char *type;
    double (*f)(double);
    double low, high;
    bool odd;             // the table is of [0, high], the rest its mirror
    double origin;        // published value at 0, where it is not f's
    double below, above;  // slope of the limit beyond: 0 or 1
    bool sampled = false; // knots are halves; beyond, the last one holds, and of odd functions 1
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double gelu(double x) { return x / 2 * (1 + std::erf(x * M_SQRT1_2)); }

const Curve CURVES[] = {
    {"sigmoid", sigmoid, -8.5, 8.5, false, 0.5, 0, 0},
    {"tanh", [](double x) { return std::tanh(x); }, 0, 4.6, true, 0, 0, 0},
    {"erf", [](double x) { return std::erf(x); }, 0, 2.9, true, 0, 0, 0},
    {"gelu", gelu, -3.9, 3.9, false, -0.000543, 0, 1},
    {"silu", [](double x) { return x * sigmoid(x); }, -7.8, 7.8, false, -0.001259, 0, 1},
    {"softplus", [](double x) { return std::log1p(std::exp(x)); }, -7, 7, false, M_LN2, 0, 1},
};

// Read off an M6, sigmoid off an M4 too (751K/Apple-Neural-Engine-Microarchitecture-Study-M6). Those of gelu and
// silu are fitted and not published whole, of exp, log and roots the reduction of the range is not.
const Curve SAMPLED[] = {
    {"sigmoid", sigmoid, -8, 8, false, 0.5, 0, 0, true},
    {"tanh", [](double x) { return std::tanh(x); }, 0, 4, true, 0, 0, 0, true},
};

using Halves = std::array<uint16_t, 65536>;

double interpolated(const Curve &c, double x) {
    if (c.odd && x < 0) return -interpolated(c, -x);
    const auto half = [](double y) { return static_cast<double>(half_to_float(half_from_double(y))); };
    if (c.sampled && (x <= c.low || x >= c.high))
        return x >= c.high && c.odd ? 1 : half(c.f(x <= c.low ? c.low : c.high));
    if (x <= c.low) return c.f(c.low) * (c.below == 0 && !c.odd ? std::exp(x - c.low) : 1); // fades out
    if (x >= c.high) return c.above != 0 ? x : c.f(c.high);
    const double step = (c.high - c.low) / (KNOTS - 1), at = (x - c.low) / step;
    const int k = std::min(static_cast<int>(at), KNOTS - 2);
    const auto knot = [&](int i) {
        const double y = !c.odd && i == KNOTS / 2 ? c.origin : c.f(c.low + i * step);
        return c.sampled ? half(y) : y;
    };
    return knot(k) + (at - k) * (knot(k + 1) - knot(k));
}

template <size_t N> const Halves *table_of(const Curve (&curves)[N], const std::string &type) {
    static const auto *const all = [&] {
        auto *fresh = new std::array<Halves, N>();
        for (size_t i = 0; i < N; i++)
            for (uint32_t h = 0; h < 65536; h++) {
                const double x = half_to_float(static_cast<uint16_t>(h));
                (*fresh)[i][h] = half_from_double(std::isnan(x) ? x : interpolated(curves[i], x));
            }
        return fresh;
    }();
    for (size_t i = 0; i < N; i++)
        if (type == curves[i].type) return &(*all)[i];
    return nullptr;
}

Runnable looked_up(const Builder &b, const Halves *table) {
    const Ref from = b.at("x"), to = b.at(b.result());
    const size_t total = b.result_type().elements();
    return [=](const Frame &f) {
        const auto *x = f.at<const uint16_t>(from);
        auto *y = f.at<uint16_t>(to);
        in_parallel(total, [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) y[i] = (*table)[x[i]];
        });
    };
}

// ---- 3) copies ----

class Copies {
  public:
    Copies(mil::Function *f, const Profile &p) : f_(*f), p_(p) {}

    void run() {
        std::vector<mil::Operation> before;
        before.swap(f_.operations);
        std::map<int32_t, int32_t> seen; // an input -> what comes of it at the boundary
        if (p_.coerce)
            for (int32_t id : f_.inputs)
                if (is_float(f_.values[id].type.dtype)) seen[id] = copy(id, BOUNDARY, {});
        for (mil::Operation &op : before) {
            for (mil::Argument &a : op.arguments)
                for (int32_t &v : a.values)
                    if (const auto it = seen.find(v); it != seen.end()) v = it->second;
            if (p_.flush && is_product(op.type)) operands(&op);
            std::vector<std::pair<int32_t, int32_t>> cut; // raw, result
            if (p_.slice_cap) cut = behind_the_start(&op);
            const mil::Position where = op.where;
            f_.operations.push_back(std::move(op));
            for (auto [raw, result] : cut) push(raw, result, SLICE, where);
        }
    }

  private:
    int32_t fresh(int32_t like) {
        mil::Value v;
        v.name = f_.values[like].name + "'";
        v.type = f_.values[like].type;
        v.where = f_.values[like].where;
        f_.values.push_back(std::move(v));
        return static_cast<int32_t>(f_.values.size() - 1);
    }

    void push(int32_t from, int32_t to, const char *label, mil::Position where) {
        f_.operations.push_back({COPY, label, {{"x", {from}}}, {to}, where});
    }

    int32_t copy(int32_t id, const char *label, mil::Position where) {
        const int32_t to = fresh(id);
        push(id, to, label, where);
        return to;
    }

    // What a product reads, without its denormals: constants once, values at each evaluation.
    void operands(mil::Operation *op) {
        for (mil::Argument &a : op->arguments) {
            if (a.name != "x" && a.name != "y" && a.name != "weight") continue;
            int32_t &id = a.values[0];
            if (f_.values[id].type.dtype != mil::DType::fp16) continue;
            const auto known = flushed_.find(id);
            if (known != flushed_.end()) id = known->second;
            else flushed_[id] = id = f_.values[id].is_const ? constant(id) : copy(id, OPERAND, op->where);
        }
    }

    int32_t constant(int32_t id) {
        const mil::Value &v = f_.values[id];
        const auto *h = reinterpret_cast<const uint16_t *>(v.data);
        const size_t n = v.type.elements();
        Pass pass;
        pass.coerce = p_.coerce, pass.nan = INF, pass.flush = true;
        size_t i = 0;
        while (i < n && pass(h[i]) == h[i]) i++;
        if (i == n) return id;
        auto bytes = std::make_shared<std::vector<uint8_t>>(v.data, v.data + 2 * n);
        apply(pass, reinterpret_cast<uint16_t *>(bytes->data()), 0, n);
        const int32_t to = fresh(id);
        mil::Value &w = f_.values[to];
        w.is_const = true;
        w.data = bytes->data();
        w.inline_bytes = std::move(bytes);
        return to;
    }

    // Gives results that are such slices a raw value to be cut into, and says which.
    std::vector<std::pair<int32_t, int32_t>> behind_the_start(mil::Operation *op) {
        std::vector<std::pair<int32_t, int32_t>> cut;
        const int32_t x = f_.operand(*op, "x");
        if (x < 0 || f_.values[x].type.dtype != mil::DType::fp16) return cut;
        const size_t rank = f_.values[x].type.shape.size();
        size_t first = op->results.size();
        if (op->type == "slice_by_size" || op->type == "slice_by_index") {
            if (rank && slice_of(f_, *op).begin.back() != 0) first = 0;
        } else if (op->type == "split") {
            const int32_t axis = f_.integer(*op, "axis", 0);
            if (axis == -1 || axis + 1 == static_cast<int32_t>(rank)) first = 1;
        }
        for (size_t i = first; i < op->results.size(); i++) {
            const int32_t raw = fresh(op->results[i]);
            cut.push_back({raw, op->results[i]});
            op->results[i] = raw;
        }
        return cut;
    }

    mil::Function &f_;
    const Profile &p_;
    std::map<int32_t, int32_t> flushed_;
};

Runnable copied(const Builder &b) {
    const Ref from = b.at("x"), to = b.at(b.result());
    const size_t bytes = b.result_type().bytes();
    return [=](const Frame &f) { std::memcpy(f.at(to), f.at(from), bytes); };
}

} // namespace

void add_copies(mil::Function *f, const Profile &profile) { Copies(f, profile).run(); }

void add_profile(Table &t) { t.add_hidden(COPY, {copied}); }

Runnable under(const Profile &profile, const Builder &b, Runnable exact) {
    using mil::DType;
    if (profile.tables && b.has("x") && b.type("x").dtype == DType::fp16 && b.result_type().dtype == DType::fp16) {
        const Halves *sampled = profile.sampled ? table_of(SAMPLED, b.op.type) : nullptr;
        if (const Halves *table = sampled ? sampled : table_of(CURVES, b.op.type)) exact = looked_up(b, table);
    }
    const Pass pass = pass_of(profile, b);
    const DType dtype = b.result_type().dtype;
    if (dtype != DType::fp32 && (dtype != DType::fp16 || pass.does_nothing())) return exact;
    std::vector<std::pair<Ref, size_t>> results;
    for (size_t i = 0; i < b.op.results.size(); i++)
        results.push_back({b.at(b.result(i)), b.result_type(i).elements()});
    return [=](const Frame &f) {
        exact(f);
        for (const auto &[at, n] : results)
            in_parallel(n, [&, at = at](size_t begin, size_t end) {
                if (dtype == DType::fp16) apply(pass, f.at<uint16_t>(at), begin, end);
                else apply(pass, f.at<float>(at), begin, end);
            });
    };
}

} // namespace anefast::host
