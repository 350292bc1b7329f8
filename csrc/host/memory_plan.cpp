// Views, placement and the arena: see memory_plan.h for what is promised.
#include "memory_plan.h"

#include <algorithm>
#include <climits>
#include <numeric>

#include "../round.h"
#include "fusion/fusion.h"

namespace anefast::host {

namespace {

constexpr size_t ALIGNMENT = 64;

PortLayout port_of(const mil::Function &f, const mil::Function &whole, int32_t value) {
    const mil::Value &v = f.values[value];
    PortLayout p{};
    p.value = value;
    p.name = v.name;
    p.dtype = mil::spelling(v.type.dtype);
    const size_t es = mil::bytes_of(v.type.dtype);
    const auto rank = static_cast<int32_t>(v.type.shape.size());
    if (es == 0 || rank > ANEFAST_MAX_RANK)
        throw Refusal{v.where, "[host] expected a port of rank <= 5 with a numeric dtype, got " + v.name};
    const size_t width = rank ? static_cast<size_t>(v.type.shape.back()) : 1;
    p.row_bytes = width * es;
    p.row_stride =
        round_up(rank ? static_cast<size_t>(whole.values[value].type.shape.back()) * es : es, ANEFAST_ROW_BYTES);
    p.rows = width ? v.type.elements() / width : 0;
    p.c.rank = rank;
    size_t stride = p.row_stride;
    for (int32_t i = rank - 1; i >= 0; i--) {
        p.c.shape[i] = v.type.shape[i];
        p.c.strides[i] = i == rank - 1 ? es : stride;
        if (i < rank - 1) stride *= static_cast<size_t>(v.type.shape[i]);
    }
    p.c.bytes = p.rows * p.row_stride;
    return p;
}

std::vector<PortLayout> ports_of(const mil::Function &f, const mil::Function &whole, const std::vector<int32_t> &ids) {
    std::vector<PortLayout> ports;
    for (int32_t id : ids) ports.push_back(port_of(f, whole, id));
    std::sort(ports.begin(), ports.end(), [](const PortLayout &a, const PortLayout &b) { return a.name < b.name; });
    return ports;
}

// Elements before `axis`, that is how many separate runs a slice of that axis is made of.
size_t outer(const std::vector<int32_t> &shape, size_t axis) {
    size_t n = 1;
    for (size_t i = 0; i < axis; i++) n *= static_cast<size_t>(shape[i]);
    return n;
}

size_t axis_of(const mil::Function &f, const mil::Operation &op, size_t rank) {
    const int32_t axis = f.integer(op, "axis", 0);
    return static_cast<size_t>(axis < 0 ? axis + static_cast<int32_t>(rank) : axis);
}

// The byte offset of a slice inside x where it is one contiguous run, else -1.
int64_t contiguous_offset(const mil::Type &x, const Slice &s) {
    int64_t offset = 0, below = static_cast<int64_t>(mil::bytes_of(x.dtype));
    bool whole = true; // every axis so far, from the last, is taken whole
    for (size_t i = x.shape.size(); i-- > 0;) {
        if (s.size[i] > 1 && s.stride[i] != 1) return -1;
        if (!whole && s.size[i] != 1) return -1;
        if (s.size[i] != x.shape[i]) whole = false;
        offset += s.begin[i] * below;
        below *= x.shape[i];
    }
    return offset;
}

class MemoryPlanner {
  public:
    MemoryPlanner(const mil::Function &f, const std::vector<Fusion> &fusions, const WorkspaceBytes &workspace_bytes,
                  const mil::Function &whole)
        : f_(f), fusions_(fusions) {
        plan_.tasks = schedule(f, fusions);
        const size_t n = f.values.size();
        inside_.assign(n, {-1, 0});
        produced_.assign(n, false);
        plan_.is_view.assign(f.operations.size(), false);
        plan_.workspace.resize(f.operations.size());
        plan_.where.resize(n);
        plan_.inputs = ports_of(f, whole, f.inputs);
        plan_.outputs = ports_of(f, whole, f.outputs);
        find_views();
        place_concats();
        lifetimes();
        bind_ports();
        allocate(workspace_bytes);
        for (size_t v = 0; v < n; v++) {
            auto [r, offset] = root(static_cast<int32_t>(v));
            plan_.where[v] = {place_[r].base, place_[r].offset + offset};
        }
    }
    MemoryPlan take() { return std::move(plan_); }

  private:
    struct Inside { // part of another value's memory
        int32_t value;
        size_t offset;
    };

    std::pair<int32_t, size_t> root(int32_t v) const {
        size_t offset = 0;
        while (inside_[v].value >= 0) {
            offset += inside_[v].offset;
            v = inside_[v].value;
        }
        return {v, offset};
    }

    // 1) results that are their operand's bytes under another shape, or one run of them
    void find_views() {
        for (size_t i = 0; i < f_.operations.size(); i++) {
            const mil::Operation &op = f_.operations[i];
            for (int32_t r : op.results) produced_[r] = true;
            const int32_t x = f_.operand(op, "x");
            if (x < 0) continue;
            const mil::Type &type = f_.values[x].type;
            bool view = false;
            if (op.type == "reshape" || op.type == "expand_dims" || op.type == "squeeze" || op.type == "identity" ||
                (op.type == "cast" && f_.values[op.results[0]].type.dtype == type.dtype)) {
                inside_[op.results[0]] = {x, 0};
                view = true;
            } else if (op.type == "slice_by_size" || op.type == "slice_by_index") {
                const int64_t offset = contiguous_offset(type, slice_of(f_, op));
                view = offset >= 0;
                if (view) inside_[op.results[0]] = {x, static_cast<size_t>(offset)};
            } else if (op.type == "split") {
                view = outer(type.shape, axis_of(f_, op, type.shape.size())) == 1;
                size_t offset = 0;
                if (view)
                    for (int32_t r : op.results) {
                        inside_[r] = {x, offset};
                        offset += f_.values[r].type.bytes();
                    }
            }
            if (view) {
                plan_.is_view[i] = true;
                for (int32_t r : op.results) produced_[r] = false;
            }
        }
    }

    // 2) operands computed where a concat wants them: concat skips those already in place
    void place_concats() {
        for (const mil::Operation &op : f_.operations) {
            if (op.type != "concat" || f_.flag(op, "interleave", false)) continue;
            const mil::Argument *values = op.find("values");
            const mil::Type &type = f_.values[op.results[0]].type;
            if (!values || outer(type.shape, axis_of(f_, op, type.shape.size())) != 1) continue;
            size_t offset = 0;
            for (int32_t v : values->values) {
                const size_t bytes = f_.values[v].type.bytes();
                auto [r, at] = root(v);
                // An op's whole result, not yet claimed; unaligned rows would only slow its kernel.
                if (produced_[r] && at == 0 && r != op.results[0] && f_.values[r].type.bytes() == bytes &&
                    offset % ALIGNMENT == 0)
                    inside_[r] = {op.results[0], offset};
                offset += bytes;
            }
        }
    }

    // 3) first definition and last use of each root, in tasks; what a fusion keeps to itself has neither
    void lifetimes() {
        const auto last = static_cast<int32_t>(plan_.tasks.size());
        first_.assign(f_.values.size(), INT_MAX);
        last_.assign(f_.values.size(), -1);
        auto touch = [&](int32_t v, int32_t when) {
            const int32_t r = root(v).first;
            first_[r] = std::min(first_[r], when);
            last_[r] = std::max(last_[r], when);
        };
        for (int32_t v : f_.inputs) touch(v, -1);
        for (int32_t i = 0; i < last; i++) {
            const Task &task = plan_.tasks[static_cast<size_t>(i)];
            if (task.fusion >= 0) {
                const Fusion &fusion = fusions_[static_cast<size_t>(task.fusion)];
                for (int32_t v : fusion.reads) touch(v, i);
                for (int32_t v : fusion.writes) touch(v, i);
                continue;
            }
            const mil::Operation &op = f_.operations[task.operation];
            for (const mil::Argument &a : op.arguments)
                for (int32_t v : a.values) touch(v, i);
            for (int32_t v : op.results) touch(v, i);
        }
        for (int32_t v : f_.outputs) touch(v, last);
    }

    // 4) surfaces in place where rows agree
    void bind_ports() {
        place_.resize(f_.values.size());
        bound_.assign(f_.values.size(), false);
        for (size_t v = 0; v < f_.values.size(); v++)
            if (f_.values[v].is_const) {
                place_[v] = {ABSOLUTE, reinterpret_cast<uintptr_t>(f_.values[v].data)};
                bound_[v] = true;
            }
        for (size_t i = 0; i < plan_.inputs.size(); i++) {
            const int32_t v = plan_.inputs[i].value;
            if (plan_.inputs[i].packed()) {
                place_[v] = {static_cast<uint32_t>(SURFACES + i), 0};
                bound_[v] = true;
            } else {
                plan_.copied_in.push_back(i);
            }
        }
        for (size_t j = 0; j < plan_.outputs.size(); j++) {
            auto [r, offset] = root(plan_.outputs[j].value);
            const bool whole =
                offset == 0 && f_.values[r].type.bytes() == f_.values[plan_.outputs[j].value].type.bytes();
            if (produced_[r] && !bound_[r] && whole && plan_.outputs[j].packed()) {
                place_[r] = {static_cast<uint32_t>(SURFACES + plan_.inputs.size() + j), 0};
                bound_[r] = true;
            } else {
                plan_.copied_out.push_back(j);
            }
        }
    }

    // 5) the rest into one arena: largest first, each at the lowest offset free for its whole life
    void allocate(const WorkspaceBytes &workspace_bytes) {
        struct Block {
            size_t bytes;
            int32_t first, last;
            Ref *to;
        };
        std::vector<Block> blocks;
        for (size_t v = 0; v < f_.values.size(); v++)
            if (!bound_[v] && inside_[v].value < 0 && last_[v] >= -1 && first_[v] != INT_MAX)
                blocks.push_back({f_.values[v].type.bytes(), first_[v], last_[v], &place_[v]});
        for (size_t t = 0; t < plan_.tasks.size(); t++) {
            const Task &task = plan_.tasks[t];
            const size_t i = task.operation;
            const size_t bytes = task.fusion >= 0   ? fusions_[static_cast<size_t>(task.fusion)].workspace_bytes
                                 : plan_.is_view[i] ? 0
                                                    : workspace_bytes(f_, f_.operations[i]);
            const auto when = static_cast<int32_t>(t);
            if (bytes) blocks.push_back({bytes, when, when, &plan_.workspace[i]});
        }
        std::stable_sort(blocks.begin(), blocks.end(),
                         [](const Block &a, const Block &b) { return a.bytes > b.bytes; });
        std::vector<const Block *> placed; // by offset
        for (Block &b : blocks) {
            size_t at = 0;
            const size_t bytes = round_up(std::max<size_t>(b.bytes, 1), ALIGNMENT);
            for (const Block *p : placed) {
                if (p->last < b.first || p->first > b.last) continue;
                if (p->to->offset >= at + bytes) break;
                at = std::max(at,
                              static_cast<size_t>(p->to->offset) + round_up(std::max<size_t>(p->bytes, 1), ALIGNMENT));
            }
            *b.to = {ARENA, at};
            plan_.arena_bytes = std::max(plan_.arena_bytes, at + bytes);
            placed.insert(
                std::upper_bound(placed.begin(), placed.end(), &b,
                                 [](const Block *x, const Block *y) { return x->to->offset < y->to->offset; }),
                &b);
        }
    }

    const mil::Function &f_;
    const std::vector<Fusion> &fusions_;
    MemoryPlan plan_;
    std::vector<Inside> inside_;
    std::vector<bool> produced_; // by an operation that writes memory
    std::vector<int32_t> first_, last_;
    std::vector<Ref> place_;
    std::vector<bool> bound_;
};

} // namespace

Slice slice_of(const mil::Function &f, const mil::Operation &op) {
    const mil::Type &x = f.values[f.operand(op, "x")].type;
    const size_t rank = x.shape.size();
    Slice s;
    s.stride.assign(rank, 1);
    for (size_t i = 0; i < rank; i++) s.size.push_back(x.shape[i]);
    s.begin.assign(rank, 0);
    if (op.type == "slice_by_size") {
        const auto begin = f.ints(op, "begin"), size = f.ints(op, "size");
        for (size_t i = 0; i < rank; i++) {
            s.begin[i] = begin[i] < 0 ? begin[i] + x.shape[i] : begin[i];
            s.size[i] = size[i] < 0 ? x.shape[i] - s.begin[i] : size[i]; // -1: to the end
        }
        return s;
    }
    const auto begin = f.ints(op, "begin"), end = f.ints(op, "end"), stride = f.ints(op, "stride");
    const auto begin_mask = f.ints(op, "begin_mask"), end_mask = f.ints(op, "end_mask"),
               squeeze = f.ints(op, "squeeze_mask");
    for (size_t i = 0; i < rank; i++) {
        const int64_t n = x.shape[i], step = stride.empty() ? 1 : stride[i];
        auto clamp = [&](int64_t v, int64_t low, int64_t high) { return std::min(std::max(v, low), high); };
        auto wrap = [&](int64_t v) { return v < 0 ? v + n : v; };
        const bool open_begin = !begin_mask.empty() && begin_mask[i], open_end = !end_mask.empty() && end_mask[i];
        s.stride[i] = step;
        if (!squeeze.empty() && squeeze[i]) {
            s.begin[i] = wrap(begin[i]);
            s.stride[i] = 1;
            s.size[i] = 1;
        } else if (step > 0) {
            s.begin[i] = open_begin ? 0 : clamp(wrap(begin[i]), 0, n);
            const int64_t stop = open_end ? n : clamp(wrap(end[i]), 0, n);
            s.size[i] = std::max<int64_t>(0, (stop - s.begin[i] + step - 1) / step);
        } else {
            s.begin[i] = open_begin ? n - 1 : clamp(wrap(begin[i]), -1, n - 1);
            const int64_t stop = open_end ? -1 : clamp(wrap(end[i]), -1, n - 1);
            s.size[i] = std::max<int64_t>(0, (s.begin[i] - stop - step - 1) / -step);
        }
    }
    return s;
}

std::vector<int64_t> split_sizes(const mil::Function &f, const mil::Operation &op) {
    const mil::Type &x = f.values[f.operand(op, "x")].type;
    const size_t axis = axis_of(f, op, x.shape.size());
    std::vector<int64_t> sizes;
    for (int32_t r : op.results) sizes.push_back(f.values[r].type.shape[axis]);
    return sizes;
}

MemoryPlan plan_memory(const mil::Function &f, const std::vector<Fusion> &fusions,
                       const WorkspaceBytes &workspace_bytes, const mil::Function *whole) {
    return MemoryPlanner(f, fusions, workspace_bytes, whole ? *whole : f).take();
}

} // namespace anefast::host
