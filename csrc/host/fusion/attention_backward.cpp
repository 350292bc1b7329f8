// Attention's derivatives by tiles of query rows, for one head of one sequence at a time:
//   dp = do v^T, ds = p (dp - sum(dp p)), dq = ds k, dk = ds^T q, dv = p^T do.
// Tiles go in ascending order and dk and dv stay in fp32 between them, so that every sum is the one chain it
// is without tiles. Probabilities that the same program computes are computed again, never kept.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../../cpu/halves.h"
#include "../../cpu/pool.h"
#include "../../half.h"
#include "../ops/convert.h"

namespace anefast::host {

namespace {

// One of the three products at the end: ds or p, as it is or transposed, with another matrix.
struct Product {
    int32_t out = -1;
    Matrix other;        // what it is multiplied with: rows are what is summed over
    bool across = false; // the other one stands on the left: out is D x (M or N)
    int64_t depth() const { return other.columns; }
};

struct Backward {
    Scores scores;      // of probabilities to compute again; if `given`, only sizes are of use
    bool given = false; // probabilities are read
    Matrix d_out, v;    // M x D, D x N
    double scale = 1;   // of ds, rounded by itself, if it is not 1
    Product dq, dk, dv;
    Lanes lanes{0};
    std::vector<Ref> where;
    Ref workspace;

    int64_t rows() const { return tile_rows(scores.m, scores.n); }
    size_t scratch_bytes() const {
        const int64_t n = scores.n, sums = (dk.out < 0 ? 0 : dk.depth()) + (dv.out < 0 ? 0 : dv.depth());
        return static_cast<size_t>(line_floats(n) + n * sums) * sizeof(float) +
               static_cast<size_t>(2 * rows() * n) * sizeof(uint16_t);
    }

    const uint16_t *values(const Frame &f, const Matrix &m) const { return f.at<const uint16_t>(where[m.value]); }

    // out = (M rows from `first` of ds) times k, in fp16
    void by_rows(const Frame &f, const Product &p, int64_t item, const Matrix &tile, const uint16_t *ds,
                 int64_t first) const {
        auto *to = f.at<uint16_t>(where[p.out]) + item * scores.m * p.depth();
        const uint16_t *other = values(f, p.other);
        if (p.across)
            gemm_alone({p.depth(), tile.rows, tile.columns, p.other.transposed().at(other, item),
                        tile.transposed().at(ds, 0), to + first, Elem::f16, scores.m, false});
        else
            gemm_alone({tile.rows, p.depth(), tile.columns, tile.at(ds, 0), p.other.at(other, item),
                        to + first * p.depth(), Elem::f16, p.depth(), false});
    }

    // sum += (the tile)^T times the rows of the other matrix that it belongs to
    void by_columns(const Frame &f, const Product &p, int64_t item, const Matrix &tile, const uint16_t *data,
                    int64_t first, float *sum) const {
        const uint16_t *other = values(f, p.other);
        if (p.across)
            gemm_alone({p.depth(), tile.columns, tile.rows, p.other.transposed().at(other, item, 0, first),
                        tile.at(data, 0), sum, Elem::f32, scores.n, true});
        else
            gemm_alone({tile.columns, p.depth(), tile.rows, tile.transposed().at(data, 0),
                        p.other.at(other, item, first), sum, Elem::f32, p.depth(), true});
    }

    // Rows of ds, from dp in place, `keys` of each. False where hidden keys cannot be left out after all.
    bool gradient_rows(const uint16_t *p, uint16_t *ds, int64_t first, int64_t count, int64_t keys, bool trusted,
                       float reach) const {
        const HalfKernels &kernels = half_kernels();
        const float factor = half_to_float(half_from_double(scale));
        for (int64_t i = 0; i < count; i++) {
            const int64_t visible = trusted ? scores.visible[static_cast<size_t>(first + i)] : keys;
            uint16_t *const row = ds + i * scores.n;
            const float sum = kernels.softmax_grad(p + i * scores.n, row, factor, visible, keys, row);
            if (trusted && !(std::fabs(sum) + reach < SAFE)) return false;
        }
        return true;
    }

    void run_item(const Frame &f, int64_t item, uint8_t *scratch) const {
        const Scores &s = scores;
        const int64_t n = s.n;
        auto *line = reinterpret_cast<float *>(scratch);
        float *const dk_sum = line + line_floats(n), *const dv_sum = dk_sum + (dk.out < 0 ? 0 : n * dk.depth());
        float *const end = dv_sum + (dv.out < 0 ? 0 : n * dv.depth());
        auto *kept = reinterpret_cast<uint16_t *>(end), *ds = kept + rows() * n;
        std::fill(dk_sum, end, 0.f);
        // 1) may hidden keys be left out of this item?
        Bound bound;
        float reach = 0;
        bool may_skip = !given && !s.visible.empty();
        if (may_skip) {
            const float q = largest_norm2(s.q.transposed(), values(f, s.q), item),
                        k = largest_norm2(s.k, values(f, s.k), item);
            const float d = largest_norm2(d_out.transposed(), values(f, d_out), item),
                        x = largest_norm2(v, values(f, v), item);
            bound = {std::sqrt(q) * std::sqrt(k) * 1.002f + 1, std::isfinite(q + k)};
            reach = std::sqrt(d) * std::sqrt(x) * 1.002f + 1;
            may_skip = std::isfinite(reach) && reach < SAFE && std::isfinite(q + k + d + x);
            for (const Product *p : {&dq, &dk, &dv}) // whatever it is that zeros are multiplied with
                may_skip = may_skip && (p->out < 0 ||
                                        std::isfinite(largest_norm2(p->other.transposed(), values(f, p->other), item)));
        }
        // 2) the tiles
        for (int64_t first = 0; first < s.m; first += rows()) {
            const int64_t count = std::min(rows(), s.m - first);
            const uint16_t *p = kept;
            for (bool trusted = may_skip;; trusted = false) {
                int64_t keys = trusted ? s.keys(first, first + count) : n;
                if (given) p = f.at<const uint16_t>(where[s.probs]) + (item * s.m + first) * n;
                else
                    keys = probabilities(s, f, where, item, first, count, keys, trusted ? bound : Bound{}, line, kept,
                                         n, &trusted);
                gemm_alone({count, keys, d_out.columns, d_out.at(values(f, d_out), item, first),
                            v.at(values(f, v), item), ds, Elem::f16, n, false});
                if (!gradient_rows(p, ds, first, count, keys, trusted, reach)) continue;
                const Matrix tile{-1, count, keys, n, 1, 0};
                if (dq.out >= 0) by_rows(f, dq, item, tile, ds, first);
                if (dk.out >= 0) by_columns(f, dk, item, tile, ds, first, dk_sum);
                if (dv.out >= 0) by_columns(f, dv, item, tile, p, first, dv_sum);
                break;
            }
        }
        // 3) rounded once
        for (const auto &[product, sum] : {std::pair(&dk, dk_sum), std::pair(&dv, dv_sum)})
            if (product->out >= 0) {
                const int64_t size = n * product->depth();
                half_from_floats(sum, f.at<uint16_t>(where[product->out]) + item * size, static_cast<size_t>(size));
            }
    }

    void run(const Frame &f) const {
        lanes.run(f.at<uint8_t>(workspace), scores.batch,
                  [&](int64_t item, uint8_t *scratch) { run_item(f, item, scratch); });
    }
};

// Both operands of a commutative operation; false where one of them is not `one`.
bool other_operand(const mil::Function &f, const mil::Operation &op, int32_t one, int32_t *other) {
    const int32_t x = f.operand(op, "x"), y = f.operand(op, "y");
    if (x != one && y != one) return false;
    *other = x == one ? y : x;
    return true;
}

// A matmul of `square` (M x N) with something: summed over its rows or over its columns?
bool product_of(const DefUse &uses, const mil::Operation &op, int32_t square, int64_t batch, Product *p,
                bool *over_rows) {
    Matrix x, y;
    if (op.type != "matmul" || !matrix_of(uses, op, "x", batch, &x) || !matrix_of(uses, op, "y", batch, &y))
        return false;
    if (x.value == y.value || (x.value != square && y.value != square)) return false;
    const Matrix &mine = x.value == square ? x : y;
    if (mine.row_stride == mine.column_stride) return false; // one row or one column: which is which?
    const bool transposed = mine.column_stride != 1;
    p->out = op.results[0];
    p->across = y.value == square;
    p->other = p->across ? x.transposed() : y;
    *over_rows = p->across ? !transposed : transposed;
    return true;
}

struct Found {
    Backward b;
    std::vector<size_t> operations;
    const mil::Operation *softmax = nullptr; // probabilities computed here
};

// From dp - sum(dp p) on: everything but where p comes from.
bool find_gradient(const DefUse &uses, const mil::Operation &sub, const Claimed &claimed, Found *found) {
    const mil::Function &f = uses.f;
    const int32_t dp = f.operand(sub, "x");
    const mil::Operation *product = uses.maker(dp, "matmul"), *reduce = uses.maker(f.operand(sub, "y"), "reduce_sum");
    if (!product || !reduce || !f.flag(*reduce, "keep_dims", false)) return false;
    const mil::Type &type = f.values[dp].type;
    const auto rank = static_cast<int32_t>(type.shape.size());
    const auto axes = f.ints(*reduce, "axes");
    if (rank < 2 || axes.size() != 1 || (axes[0] != -1 && axes[0] != rank - 1) || type.dtype != mil::DType::fp16)
        return false;
    Backward &b = found->b;
    Scores &s = b.scores;
    s.m = type.shape[static_cast<size_t>(rank) - 2];
    s.n = type.shape.back();
    s.batch = static_cast<int64_t>(type.elements()) / (s.m * s.n);
    const mil::Operation *weighted = uses.maker(f.operand(*reduce, "x"), "mul");
    if (s.n > 8192 || !weighted || !other_operand(f, *weighted, dp, &s.probs)) return false;
    if (!(f.values[s.probs].type == type) || s.probs == dp) return false;
    const auto &after = uses.readers(sub.results[0]);
    if (after.size() != 1 || f.operations[after[0]].type != "mul") return false;
    const mil::Operation *gradient = &f.operations[after[0]];
    int32_t difference;
    if (!other_operand(f, *gradient, s.probs, &difference) || difference != sub.results[0]) return false;
    if (!matrix_of(uses, *product, "x", s.batch, &b.d_out) || !matrix_of(uses, *product, "y", s.batch, &b.v))
        return false;
    std::vector<const mil::Operation *> inner = {product, weighted, reduce, &sub, gradient};
    int32_t ds = gradient->results[0];
    const auto &scaled = uses.readers(ds);
    if (scaled.size() == 1 && f.operations[scaled[0]].type == "mul") {
        const mil::Operation *mul = &f.operations[scaled[0]];
        int32_t factor;
        if (!other_operand(f, *mul, ds, &factor) || !uses.scalar(factor, &b.scale)) return false;
        inner.push_back(mul);
        ds = mul->results[0];
    }
    for (const mil::Operation *op : inner) {
        if (claimed[uses.index(op)]) return false;
        found->operations.push_back(uses.index(op));
    }
    for (size_t reader : uses.readers(ds)) {
        Product p;
        bool over_rows;
        if (claimed[reader] || !product_of(uses, f.operations[reader], ds, s.batch, &p, &over_rows)) return false;
        Product &place = over_rows ? b.dk : b.dq;
        if (place.out >= 0) return false;
        place = p;
        found->operations.push_back(reader);
    }
    for (size_t reader : uses.readers(s.probs)) {
        Product p;
        bool over_rows;
        if (claimed[reader] || b.dv.out >= 0 ||
            !product_of(uses, f.operations[reader], s.probs, s.batch, &p, &over_rows) || !over_rows)
            continue;
        b.dv = p;
        found->operations.push_back(reader);
    }
    // What is inside stays inside: no S x S value but p may be read elsewhere.
    for (const mil::Operation *op : inner)
        if (uses.wanted_outside(op->results[0], found->operations)) return false;
    return b.dq.out >= 0 || b.dk.out >= 0;
}

} // namespace

void find_attention_backward(const DefUse &uses, Claimed &claimed, std::vector<bool> &rereads,
                             std::vector<Fusion> &fusions) {
    const mil::Function &f = uses.f;
    for (const mil::Operation &sub : f.operations) {
        Found found;
        if (sub.type != "sub" || claimed[uses.index(&sub)] || !find_gradient(uses, sub, claimed, &found)) continue;
        Backward &b = found.b;
        const std::vector<size_t> gradient = found.operations;
        const mil::Operation *softmax = uses.maker(b.scores.probs, "softmax");
        Scores again;
        b.given = !softmax || !find_scores(uses, *softmax, claimed, &again);
        bool shared = false; // somebody else wants the probabilities; a forward fusion will compute its own
        if (!b.given) {
            for (size_t reader : uses.readers(b.scores.probs))
                if (std::find(gradient.begin(), gradient.end(), reader) == gradient.end()) {
                    shared = true;
                    b.given = b.given || f.operations[reader].type != "matmul";
                }
            b.given = b.given || uses.is_output(b.scores.probs);
        }
        Fusion g;
        g.name = "attention backward";
        if (!b.given) {
            b.scores = again;
            if (!shared)
                found.operations.insert(found.operations.end(), again.operations.begin(), again.operations.end());
            g.reads = {again.q.value, again.k.value};
            if (again.reads_mask()) g.reads.push_back(again.mask);
        } else {
            g.reads = {b.scores.probs};
        }
        g.reads.insert(g.reads.end(), {b.d_out.value, b.v.value});
        for (const Product *p : {&b.dq, &b.dk, &b.dv})
            if (p->out >= 0) {
                g.reads.push_back(p->other.value);
                g.writes.push_back(p->out);
            }
        g.operations = found.operations;
        std::sort(g.operations.begin(), g.operations.end());
        b.lanes = Lanes(b.scratch_bytes());
        g.workspace_bytes = b.lanes.bytes();
        g.build = [b](const MemoryPlan &plan, Ref workspace) -> Runnable {
            auto copy = std::make_shared<Backward>(b);
            copy->where = plan.where;
            copy->workspace = workspace;
            return [copy](const Frame &frame) { copy->run(frame); };
        };
        fusions.push_back(std::move(g));
        if (!can_be_ordered(f, fusions)) {
            fusions.pop_back();
            continue;
        }
        for (size_t i : fusions.back().operations) claimed[i] = true;
        if (!b.given)
            for (size_t i : gradient) rereads[i] = true;
    }
}

} // namespace anefast::host
