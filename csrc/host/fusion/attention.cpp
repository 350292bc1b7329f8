// Attention's parts and its forward pass: probs = softmax(q k * scale + mask), out = probs v, by tiles of
// query rows. Of the S x S matrix a thread holds a tile; it is stored only where somebody else reads it.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../../cpu/exp_sum.h"
#include "../../cpu/halves.h"
#include "../../cpu/pool.h"
#include "../../half.h"
#include "../ops/convert.h"

namespace anefast::host {

namespace {

bool is_half(const mil::Type &t) { return t.dtype == mil::DType::fp16; }

// Where the last visible key of every row lies, from a constant mask of M x N.
void read_mask(const mil::Value &mask, Scores *s) {
    s->mask_matters = true;
    if (!mask.is_const || !mask.data || s->mask_step != 0 || s->mask_row == 0) return;
    const auto *bits = reinterpret_cast<const uint16_t *>(mask.data);
    std::vector<float> row(static_cast<size_t>(s->n));
    std::vector<int64_t> visible;
    std::vector<float> hidden;
    bool zero = true, even = true; // 0 where it hides nothing; one value where it hides
    uint16_t shade = 0;
    for (int64_t i = 0; i < s->m; i++) {
        const uint16_t *const halves = bits + i * s->n;
        half_to_floats(halves, row.data(), row.size());
        int64_t end = s->n;
        float top = -65504;
        while (end > 0 && row[static_cast<size_t>(end - 1)] <= UNSEEN) {
            top = std::max(top, row[static_cast<size_t>(--end)]);
            even = even && (!shade || halves[end] == shade);
            shade = halves[end];
        }
        if (end == 0) end = s->n; // a query that sees nothing: nothing can be left out
        for (int64_t j = 0; j < end; j++) zero = zero && row[static_cast<size_t>(j)] == 0;
        visible.push_back(end);
        hidden.push_back(top);
    }
    s->mask_matters = !zero;
    if (std::any_of(visible.begin(), visible.end(), [&](int64_t v) { return v < s->n; })) {
        s->visible = std::move(visible);
        s->hidden = std::move(hidden);
        if (zero && even) {
            std::vector<uint16_t> line(static_cast<size_t>(2 * s->n), 0);
            std::fill(line.begin() + s->n, line.end(), shade);
            s->line = std::make_shared<const std::vector<uint16_t>>(std::move(line));
        }
    }
}

bool take_mask(const DefUse &uses, int32_t mask, const mil::Type &scores, Scores *s) {
    const mil::Type &t = uses.f.values[mask].type;
    if (!is_half(t) || t.shape.size() > scores.shape.size() || t.shape.empty() || t.shape.back() != s->n) return false;
    const int64_t rows = t.shape.size() > 1 ? t.shape[t.shape.size() - 2] : 1;
    const int64_t items = static_cast<int64_t>(t.elements()) / (rows * s->n);
    if ((rows != 1 && rows != s->m) || (items != 1 && items != s->batch)) return false;
    s->mask = mask;
    s->mask_row = rows == 1 ? 0 : s->n;
    s->mask_step = items == 1 ? 0 : rows * s->n;
    read_mask(uses.f.values[mask], s);
    return true;
}

} // namespace

bool matrix_of(const DefUse &uses, const mil::Operation &matmul, const char *name, int64_t batch, Matrix *matrix) {
    const int32_t v = uses.f.operand(matmul, name);
    if (v < 0) return false;
    const mil::Type &t = uses.f.values[v].type;
    const size_t rank = t.shape.size();
    if (!is_half(t) || rank < 2) return false;
    const int64_t rows = t.shape[rank - 2], columns = t.shape[rank - 1];
    if (static_cast<int64_t>(t.elements()) != batch * rows * columns) return false;
    *matrix = {v, rows, columns, columns, 1, rows * columns};
    if (uses.f.flag(matmul, name[0] == 'x' ? "transpose_x" : "transpose_y", false)) *matrix = matrix->transposed();
    return true;
}

bool find_scores(const DefUse &uses, const mil::Operation &softmax, const Claimed &claimed, Scores *s) {
    const mil::Function &f = uses.f;
    s->probs = softmax.results[0];
    const mil::Type &type = f.values[s->probs].type;
    const auto rank = static_cast<int32_t>(type.shape.size());
    const int32_t axis = f.integer(softmax, "axis", -1);
    if (!is_half(type) || rank < 2 || type.shape.back() > EXPS_MOST || (axis != -1 && axis != rank - 1)) return false;
    s->m = type.shape[static_cast<size_t>(rank) - 2];
    s->n = type.shape.back();
    s->batch = static_cast<int64_t>(type.elements()) / (s->m * s->n);
    s->operations = {uses.index(&softmax)};
    auto step_into = [&](const mil::Operation *op) { // its result is ours alone, and as large
        const int32_t r = op->results[0];
        const size_t i = uses.index(op);
        if (claimed[i] || uses.is_output(r) || uses.readers(r).size() != 1 || !(f.values[r].type == type)) return false;
        s->operations.push_back(i);
        return true;
    };
    auto is_scores = [&](int32_t v) { return uses.maker(v, "matmul") || uses.maker(v, "mul"); };
    int32_t v = f.operand(softmax, "x");
    if (const mil::Operation *add = uses.maker(v, "add")) {
        const int32_t x = f.operand(*add, "x"), y = f.operand(*add, "y");
        const bool first = is_scores(x) && f.values[x].type == type;
        if (!step_into(add) || !take_mask(uses, first ? y : x, type, s)) return false;
        v = first ? x : y;
    }
    if (const mil::Operation *mul = uses.maker(v, "mul")) {
        const int32_t x = f.operand(*mul, "x"), y = f.operand(*mul, "y");
        if (!step_into(mul)) return false;
        if (uses.scalar(y, &s->scale)) v = x;
        else if (uses.scalar(x, &s->scale)) v = y;
        else return false;
    }
    const mil::Operation *product = uses.maker(v, "matmul");
    if (!product || !step_into(product)) return false;
    return matrix_of(uses, *product, "x", s->batch, &s->q) && matrix_of(uses, *product, "y", s->batch, &s->k);
}

int64_t Scores::keys(int64_t first, int64_t last) const {
    if (visible.empty()) return n;
    const int64_t most = *std::max_element(visible.begin() + first, visible.begin() + last);
    return std::min(n, round_up(most, int64_t{32}));
}

float largest_norm2(const Matrix &m, const uint16_t *base, int64_t item) {
    constexpr int64_t WIDTH = 256;
    const uint16_t *p = base + item * m.step;
    float block[WIDTH], sum[WIDTH], most = 0;
    auto meet = [&](float v) { most = v > most || v != v ? v : most; };
    const bool along = m.column_stride == 1; // else rows are contiguous
    const int64_t outer = along ? m.rows : m.columns, inner = along ? m.columns : m.rows;
    const int64_t stride = along ? m.row_stride : m.column_stride;
    for (int64_t j = 0; along && j < inner; j += WIDTH) {
        const int64_t n = std::min(WIDTH, inner - j);
        std::fill(sum, sum + n, 0.f);
        for (int64_t i = 0; i < outer; i++) {
            half_to_floats(p + i * stride + j, block, static_cast<size_t>(n));
            for (int64_t c = 0; c < n; c++) sum[c] += block[c] * block[c];
        }
        for (int64_t c = 0; c < n; c++) meet(sum[c]);
    }
    for (int64_t i = 0; !along && i < outer; i++) {
        float total = 0;
        for (int64_t j = 0; j < inner; j += WIDTH) {
            const int64_t n = std::min(WIDTH, inner - j);
            half_to_floats(p + i * stride + j, block, static_cast<size_t>(n));
            for (int64_t c = 0; c < n; c++) total += block[c] * block[c];
        }
        meet(total);
    }
    return most;
}

int64_t probabilities(const Scores &s, const Frame &frame, const std::vector<Ref> &where, int64_t item, int64_t first,
                      int64_t count, int64_t wanted, const Bound &bound, float *scratch, uint16_t *probs,
                      int64_t stride, bool *hidden_are_zero) {
    const HalfKernels &kernels = half_kernels();
    const auto *q = frame.at<const uint16_t>(where[s.q.value]), *k = frame.at<const uint16_t>(where[s.k.value]);
    const float reach = bound.scores * static_cast<float>(std::fabs(s.scale));
    bool trusted = !s.visible.empty() && bound.finite && bound.scores < SAFE && reach < SAFE;
    const float scale = half_to_float(half_from_double(s.scale));
    for (;; trusted = false) {
        const int64_t keys = trusted ? wanted : s.n;
        gemm_alone(
            {count, keys, s.q.columns, s.q.at(q, item, first), s.k.at(k, item), probs, Elem::f16, stride, false});
        bool same = true;
        for (int64_t i = 0; i < count && same; i++) {
            uint16_t *const row = probs + i * stride;
            const auto query = static_cast<size_t>(first + i);
            const int64_t visible = trusted ? s.visible[query] : s.n;
            float least = -std::numeric_limits<float>::infinity();
            if (visible < s.n) least = s.hidden[query] + reach + 0.002f * (reach - s.hidden[query]) + FAR;
            const uint16_t *mask =
                s.mask_matters || visible == s.n ? s.mask_of(frame, where, item, first + i) : nullptr;
            const float top = kernels.softmax(row, scale, mask, visible, keys, least, scratch, row);
            same = visible == s.n || top >= least;
        }
        *hidden_are_zero = trusted;
        if (same) return keys;
    }
}

namespace {

struct Forward {
    Scores scores;
    Matrix v;    // N x D
    bool across; // out is D x M: the product was v^T probs^T
    int32_t out;
    int64_t depth; // D of v
    bool kept;     // probs are wanted outside
    Lanes lanes;
    std::vector<Ref> where;
    Ref workspace;

    size_t bounds_bytes() const { return round_up(static_cast<size_t>(scores.batch) * sizeof(Bound), size_t{64}); }

    void run(const Frame &frame) const {
        const Scores &s = scores;
        auto *bounds = frame.at<Bound>(workspace);
        const auto *values = frame.at<const uint16_t>(where[v.value]);
        const bool skips = !s.visible.empty();
        if (skips)
            Pool::shared().parallel(s.batch, [&](int64_t item) {
                const float q = largest_norm2(s.q.transposed(), frame.at<const uint16_t>(where[s.q.value]), item);
                const float k = largest_norm2(s.k, frame.at<const uint16_t>(where[s.k.value]), item);
                const float value = largest_norm2(v.transposed(), values, item);
                bounds[item] = {std::sqrt(q) * std::sqrt(k) * 1.002f + 1, std::isfinite(value)};
            });
        const int64_t rows = tile_rows(s.m, s.n), tiles = ceil_div(s.m, rows);
        lanes.run(frame.at<uint8_t>(workspace) + bounds_bytes(), s.batch * tiles, [&](int64_t turn, uint8_t *scratch) {
            const int64_t item = turn % s.batch, first = (tiles - 1 - turn / s.batch) * rows; // the longest first
            const int64_t count = std::min(rows, s.m - first);
            auto *line = reinterpret_cast<float *>(scratch);
            uint16_t *probs = reinterpret_cast<uint16_t *>(line + line_floats(s.n));
            if (kept) probs = frame.at<uint16_t>(where[s.probs]) + (item * s.m + first) * s.n;
            const Bound bound = skips ? bounds[item] : Bound{};
            bool trusted;
            const int64_t keys = probabilities(s, frame, where, item, first, count, s.keys(first, first + count), bound,
                                               line, probs, s.n, &trusted);
            for (int64_t i = 0; kept && i < count; i++)
                std::memset(probs + i * s.n + keys, 0, static_cast<size_t>(s.n - keys) * sizeof(uint16_t));
            auto *to = frame.at<uint16_t>(where[out]) + item * s.m * depth;
            const Matrix p{-1, count, keys, s.n, 1, 0};
            if (across)
                gemm_alone({depth, count, keys, v.transposed().at(values, item), p.transposed().at(probs, 0),
                            to + first, Elem::f16, s.m, false});
            else
                gemm_alone({count, depth, keys, p.at(probs, 0), v.at(values, item), to + first * depth, Elem::f16,
                            depth, false});
        });
    }
};

bool find_forward(const DefUse &uses, const mil::Operation &softmax, const std::vector<bool> &rereads, Claimed &claimed,
                  std::vector<Fusion> &fusions) {
    Scores s;
    if (!find_scores(uses, softmax, claimed, &s)) return false;
    for (size_t reader : uses.readers(s.probs)) {
        const mil::Operation &op = uses.f.operations[reader];
        if (claimed[reader] || op.type != "matmul") continue;
        Matrix x, y;
        if (!matrix_of(uses, op, "x", s.batch, &x) || !matrix_of(uses, op, "y", s.batch, &y) || x.value == y.value)
            continue;
        const bool across = y.value == s.probs;
        // The keys must be what is summed over: probs as they are on the left, or transposed on the right.
        if (across ? y.column_stride == 1 : x.value != s.probs || x.column_stride != 1) continue;
        s.operations.push_back(reader);
        std::sort(s.operations.begin(), s.operations.end());
        Fusion g;
        g.name = "attention";
        g.operations = s.operations;
        std::vector<size_t> content = g.operations; // who can do without the probabilities in memory
        for (size_t i : uses.readers(s.probs))
            if (rereads[i]) content.push_back(i);
        const bool kept = uses.wanted_outside(s.probs, content);
        const Matrix v = across ? x.transposed() : y;
        const int32_t out = op.results[0];
        g.reads = {s.q.value, s.k.value, v.value};
        if (s.reads_mask()) g.reads.push_back(s.mask);
        g.writes = {out};
        if (kept) g.writes.push_back(s.probs);
        const int64_t held = kept ? 0 : tile_rows(s.m, s.n) * s.n;
        const Lanes lanes(static_cast<size_t>(line_floats(s.n)) * sizeof(float) +
                          static_cast<size_t>(held) * sizeof(uint16_t));
        Forward forward{s, v, across, out, v.columns, kept, lanes, {}, {}};
        g.workspace_bytes = forward.bounds_bytes() + lanes.bytes();
        g.build = [forward](const MemoryPlan &plan, Ref workspace) -> Runnable {
            auto f = std::make_shared<Forward>(forward);
            f->where = plan.where;
            f->workspace = workspace;
            return [f](const Frame &frame) { f->run(frame); };
        };
        fusions.push_back(std::move(g));
        if (!can_be_ordered(uses.f, fusions)) {
            fusions.pop_back();
            continue;
        }
        for (size_t i : fusions.back().operations) claimed[i] = true;
        return true;
    }
    return false;
}

} // namespace

void find_attention(const DefUse &uses, const std::vector<bool> &rereads, Claimed &claimed,
                    std::vector<Fusion> &fusions) {
    for (const mil::Operation &op : uses.f.operations)
        if (op.type == "softmax" && !claimed[uses.index(&op)]) find_forward(uses, op, rereads, claimed, fusions);
}

} // namespace anefast::host
