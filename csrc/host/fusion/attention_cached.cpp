// Attention over a cache: keys and values in two pieces, those of positions before and those of new ones, which single
// operations would join, and repeat for each query head. Here they are read where they lie, and what every query is
// kept from seeing at the end of the cache is left out, where that provably changes nothing (attention.h).
#include <algorithm>
#include <cmath>

#include "../../cpu/halves.h"
#include "../../half.h"
#include "attention.h"
#include "../ops/convert.h"

namespace anefast::host {

namespace {

// [.., D, past + fresh] joined along the last axis, each matrix for `share` query heads in a row.
struct Pieces {
    Matrix past, fresh; // (D, columns)
    int64_t share = 1;
    std::vector<size_t> operations; // that join and repeat
};

// The pieces behind `value`, a batch of (D, N) matrices. False where it is not made so, for this alone.
bool take_pieces(const DefUse &uses, int32_t value, const Matrix &whole, int64_t batch, const Claimed &claimed,
                 Pieces *p) {
    const mil::Function &f = uses.f;
    if (whole.column_stride != 1) return false;
    int32_t v = value;
    while (true) {
        if (uses.made_by(v) < 0 || uses.is_output(v) || uses.readers(v).size() != 1) return false;
        const auto i = static_cast<size_t>(uses.made_by(v));
        const mil::Operation &op = f.operations[i];
        if (claimed[i]) return false;
        p->operations.push_back(i);
        if (op.type == "reshape") {
            v = f.operand(op, "x");
            if (f.values[v].type.shape.back() != whole.columns) return false;
        } else if (op.type == "tile") {
            v = f.operand(op, "x");
            const auto &shape = f.values[v].type.shape;
            const auto repeats = f.ints(op, "reps");
            if (shape.size() != 4 || shape[1] != 1 || repeats.size() != 4 || p->share != 1) return false;
            if (repeats[0] != 1 || repeats[2] != 1 || repeats[3] != 1 || shape[2] != whole.rows) return false;
            p->share = repeats[1];
        } else if (op.type == "concat") {
            const mil::Argument *values = op.find("values");
            const auto rank = static_cast<int32_t>(f.values[v].type.shape.size());
            const int32_t axis = f.integer(op, "axis", 0);
            if (!values || values->values.size() != 2 || (axis != rank - 1 && axis != -1) ||
                f.flag(op, "interleave", false))
                return false;
            Matrix *const to[] = {&p->past, &p->fresh};
            for (size_t j = 0; j < 2; j++) {
                const int64_t columns = f.values[values->values[j]].type.shape.back();
                *to[j] = {values->values[j], whole.rows, columns, columns, 1, whole.rows * columns};
            }
            return static_cast<int64_t>(f.values[v].type.elements()) * p->share == batch * whole.rows * whole.columns;
        } else {
            return false;
        }
    }
}

struct Cached {
    Scores scores;
    Pieces keys, values;
    int32_t out;
    Lanes lanes;
    std::vector<Ref> where;
    Ref workspace;

    int64_t depth() const { return values.past.rows; }
    int64_t cached() const { return keys.past.columns; }

    const uint16_t *base(const Frame &frame, const Matrix &m) const {
        return frame.at<const uint16_t>(where[static_cast<size_t>(m.value)]);
    }

    // How many cached keys some query of this item sees, and the largest value of the mask behind them.
    int64_t seen(const Frame &frame, int64_t item, float *hidden) const {
        int64_t most = 0;
        const auto row = [&](int64_t i) { return scores.mask_of(frame, where, item, i); };
        for (int64_t i = 0; i < scores.m && most < cached(); i++) {
            int64_t end = cached();
            while (end > most && half_to_float(row(i)[end - 1]) <= UNSEEN) end--;
            most = end;
        }
        *hidden = -std::numeric_limits<float>::infinity();
        for (int64_t i = 0; i < scores.m; i++)
            for (int64_t j = most; j < cached(); j++) *hidden = std::max(*hidden, half_to_float(row(i)[j]));
        return most;
    }

    // No score of a cached key from `first` on is larger; not finite where a value is not.
    float reach(const Frame &frame, int64_t item, int64_t first) const {
        const int64_t head = item / keys.share;
        Matrix k = keys.past, v = values.past;
        k.columns = v.columns = cached() - first;
        const float q = largest_norm2(scores.q.transposed(), base(frame, scores.q), item);
        const float key = largest_norm2(k, base(frame, k) + first, head);
        const float value = largest_norm2(v, base(frame, v) + first, head);
        const float most = std::sqrt(q) * std::sqrt(key) * 1.002f + 1;
        return std::isfinite(value) ? most : value;
    }

    struct Scratch {
        float *line, *sums;
        uint16_t *probs, *mask;
    };

    // Rows [first, first + count) with `taken` cached keys. False where a row's largest score is below `least`.
    bool tile(const Frame &frame, int64_t item, int64_t first, int64_t count, int64_t taken, float least,
              const Scratch &s) const {
        const int64_t head = item / keys.share, fresh = keys.fresh.columns, n = taken + fresh;
        const float scale = half_to_float(half_from_double(scores.scale));
        const MatrixView q = scores.q.at(base(frame, scores.q), item, first);
        gemm_alone({count, taken, depth_of_keys(), q, keys.past.at(base(frame, keys.past), head), s.probs, Elem::f16, n,
                    false});
        gemm_alone({count, fresh, depth_of_keys(), q, keys.fresh.at(base(frame, keys.fresh), head), s.probs + taken,
                    Elem::f16, n, false});
        for (int64_t i = 0; i < count; i++) {
            const uint16_t *const mask = scores.mask_of(frame, where, item, first + i);
            std::copy(mask, mask + taken, s.mask);
            std::copy(mask + cached(), mask + cached() + fresh, s.mask + taken);
            uint16_t *const row = s.probs + i * n;
            const float top = half_kernels().softmax(row, scale, s.mask, n, n, least, s.line, row);
            if (least != LOWEST && !(top >= least)) return false;
        }
        const Matrix p{-1, count, taken, n, 1, 0}, rest{-1, count, fresh, n, 1, 0};
        const MatrixView past = values.past.at(base(frame, values.past), head),
                         now = values.fresh.at(base(frame, values.fresh), head);
        gemm_alone({depth(), count, taken, past, p.transposed().at(s.probs, 0), s.sums, Elem::f32, count, false});
        gemm_alone(
            {depth(), count, fresh, now, rest.transposed().at(s.probs + taken, 0), s.sums, Elem::f32, count, true});
        auto *to = frame.at<uint16_t>(where[static_cast<size_t>(out)]) + item * scores.m * depth() + first;
        for (int64_t d = 0; d < depth(); d++)
            half_from_floats(s.sums + d * count, to + d * scores.m, static_cast<size_t>(count));
        return true;
    }

    int64_t depth_of_keys() const { return keys.past.rows; }

    void run(const Frame &frame) const {
        const int64_t rows = tile_rows(scores.m, scores.n), tiles = ceil_div(scores.m, rows);
        float hidden;
        const int64_t taken = seen(frame, 0, &hidden);
        lanes.run(frame.at<uint8_t>(workspace), scores.batch * tiles, [&](int64_t turn, uint8_t *scratch) {
            const int64_t item = turn % scores.batch, first = turn / scores.batch * rows;
            const int64_t count = std::min(rows, scores.m - first);
            Scratch s{};
            s.line = reinterpret_cast<float *>(scratch);
            s.sums = s.line + line_floats(scores.n);
            s.probs = reinterpret_cast<uint16_t *>(s.sums + depth() * rows);
            s.mask = s.probs + rows * scores.n;
            if (taken < cached()) {
                const float bound = reach(frame, item, taken),
                            scaled = bound * static_cast<float>(std::fabs(scores.scale));
                const float least = hidden + scaled + 0.002f * (scaled - hidden) + FAR;
                if (bound < SAFE && scaled < SAFE && tile(frame, item, first, count, taken, least, s)) return;
            }
            tile(frame, item, first, count, cached(), LOWEST, s);
        });
    }

    static size_t bytes_each(const Scores &s, int64_t depth) {
        const int64_t rows = tile_rows(s.m, s.n);
        return static_cast<size_t>(line_floats(s.n) + depth * rows) * sizeof(float) +
               static_cast<size_t>((rows + 1) * s.n) * sizeof(uint16_t);
    }

    static constexpr float LOWEST = -std::numeric_limits<float>::infinity();
};

bool find_one(const DefUse &uses, const mil::Operation &softmax, const Claimed &claimed, std::vector<Fusion> &fusions) {
    Scores s;
    if (!find_scores(uses, softmax, claimed, &s) || !s.reads_mask() || s.mask_step != 0 || s.mask_row == 0)
        return false;
    if (!s.visible.empty() || uses.is_output(s.probs) || uses.readers(s.probs).size() != 1) return false;
    const size_t reader = uses.readers(s.probs)[0];
    const mil::Operation &op = uses.f.operations[reader];
    Matrix v, probs;
    if (claimed[reader] || op.type != "matmul" || !matrix_of(uses, op, "x", s.batch, &v) ||
        !matrix_of(uses, op, "y", s.batch, &probs))
        return false;
    if (probs.value != s.probs || probs.column_stride == 1) return false;
    Pieces keys, values;
    if (!take_pieces(uses, s.k.value, s.k, s.batch, claimed, &keys) ||
        !take_pieces(uses, v.value, v, s.batch, claimed, &values))
        return false;
    if (keys.past.columns != values.past.columns || keys.share != values.share) return false;
    Fusion g;
    g.name = "attention over a cache";
    g.operations = s.operations;
    g.operations.push_back(reader);
    for (const Pieces *p : {&keys, &values})
        g.operations.insert(g.operations.end(), p->operations.begin(), p->operations.end());
    std::sort(g.operations.begin(), g.operations.end());
    const int32_t out = op.results[0];
    g.reads = {s.q.value, s.mask, keys.past.value, keys.fresh.value, values.past.value, values.fresh.value};
    g.writes = {out};
    const Lanes lanes(Cached::bytes_each(s, v.rows));
    g.workspace_bytes = lanes.bytes();
    g.build = [cached = Cached{s, keys, values, out, lanes, {}, {}}](const MemoryPlan &plan,
                                                                     Ref workspace) -> Runnable {
        auto c = std::make_shared<Cached>(cached);
        c->where = plan.where;
        c->workspace = workspace;
        return [c](const Frame &frame) { c->run(frame); };
    };
    fusions.push_back(std::move(g));
    return true;
}

} // namespace

void find_cached_attention(const DefUse &uses, Claimed &claimed, std::vector<Fusion> &fusions) {
    for (const mil::Operation &op : uses.f.operations) {
        if (op.type != "softmax" || claimed[uses.index(&op)] || !find_one(uses, op, claimed, fusions)) continue;
        if (!can_be_ordered(uses.f, fusions)) {
            fusions.pop_back();
            continue;
        }
        for (size_t i : fusions.back().operations) claimed[i] = true;
    }
}

} // namespace anefast::host
