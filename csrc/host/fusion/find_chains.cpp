// Which operations make a chain: greedily, in program order, each joins the chains it reads from, or those
// that read what it reads, as long as nothing outside would have to run in the middle of it.
#include <algorithm>
#include <map>
#include <set>

#include "../ops/convert.h"
#include "chain.h"

namespace anefast::host {

std::vector<int64_t> strides_in_elements(const std::vector<int32_t> &shape) {
    std::vector<int64_t> strides(shape.size());
    int64_t below = 1;
    for (size_t i = shape.size(); i-- > 0;) {
        strides[i] = below;
        below *= shape[i];
    }
    return strides;
}

std::vector<size_t> long_axes(const std::vector<int32_t> &shape) {
    std::vector<size_t> axes;
    for (size_t i = 0; i < shape.size(); i++)
        if (shape[i] > 1) axes.push_back(i);
    return axes;
}

Member member_of(const DefUse &uses, const mil::Operation &op) {
    // clang-format off
    static const std::map<std::string, Binary> binaries = {
        {"add", Binary::add},      {"sub", Binary::sub},         {"mul", Binary::mul},
        {"real_div", Binary::div}, {"maximum", Binary::maximum}, {"minimum", Binary::minimum}};
    // clang-format on
    const mil::Function &f = uses.f;
    auto half = [&](int32_t v) { return v >= 0 && f.values[v].type.dtype == mil::DType::fp16; };
    Member m;
    const int32_t x = f.operand(op, "x");
    if (op.results.size() != 1 || !half(op.results[0]) || !half(x) || f.values[op.results[0]].type.elements() == 0)
        return m;
    if (const auto found = binaries.find(op.type); found != binaries.end()) {
        if (!half(f.operand(op, "y"))) return m;
        m.kind = Kind::binary;
        m.binary = found->second;
        return m;
    }
    const mil::Type &type = f.values[x].type;
    if (op.type == "reduce_sum" || op.type == "reduce_mean" || op.type == "reduce_max") {
        const auto axes = f.ints(op, "axes");
        const auto far = long_axes(type.shape);
        if (axes.size() != 1 || !f.flag(op, "keep_dims", false) || far.size() < 2) return m;
        m.axis = axes[0] < 0 ? axes[0] + static_cast<int32_t>(type.shape.size()) : axes[0];
        m.mean = op.type == "reduce_mean";
        if (static_cast<size_t>(m.axis) == far[far.size() - 2])
            m.kind = op.type == "reduce_max" ? Kind::largest : Kind::sum;
        return m;
    }
    if (op.type == "abs") {
        m.kind = Kind::magnitude;
        return m;
    }
    const OpKernel *kernel = table().find(op.type);
    if (!kernel || !kernel->values || !(type == f.values[op.results[0]].type)) return m;
    static const MemoryPlan nowhere;
    m.values = kernel->values({f, op, nowhere, uses.index(&op)});
    if (m.values) m.kind = Kind::looked_up;
    return m;
}

bool set_levels(const DefUse &uses, const Chain &chain, std::vector<Member> &members) {
    std::map<int32_t, int> levels; // of the chain's values
    for (size_t i : chain.operations) {
        const mil::Operation &op = uses.f.operations[i];
        Member &m = members[i];
        int most = 0;
        bool full = false; // a full-sized value of the chain is read
        for (const char *name : {"x", "y"}) {
            const auto found = levels.find(uses.f.operand(op, name));
            if (found == levels.end()) continue;
            most = std::max(most, found->second);
            full = full || found->second % 2 == 0;
        }
        const bool small = uses.f.values[op.results[0]].type.shape != chain.shape;
        if (small && full && !m.reduces()) return false;
        m.level = most + ((most % 2 == 1) != small); // rows are odd
        if (m.level > 2 * STAGES - 2) return false;
        levels[op.results[0]] = m.level;
    }
    return true;
}

namespace {

class Finder {
  public:
    Finder(const DefUse &uses, Claimed &claimed, std::vector<Fusion> &fusions)
        : uses_(uses), f_(uses.f), claimed_(claimed), fusions_(fusions), members_(f_.operations.size()),
          task_(f_.operations.size(), -1) {
        for (size_t g = 0; g < fusions.size(); g++)
            for (size_t i : fusions[g].operations) task_[i] = fixed(g);
        for (size_t i = 0; i < f_.operations.size(); i++)
            if (!claimed[i]) members_[i] = member_of(uses, f_.operations[i]);
        for (size_t i = 0; i < f_.operations.size(); i++)
            if (members_[i].kind != Kind::none) place(i);
        for (Chain &chain : chains_) take_moves(chain);
        chains_.erase(
            std::remove_if(chains_.begin(), chains_.end(), [](const Chain &chain) { return chain.operations.empty(); }),
            chains_.end());
    }
    const std::vector<Chain> &chains() const { return chains_; }
    const std::vector<Member> &members() const { return members_; }

  private:
    // Tasks: chains from 0 on, fusions found earlier from -2 down, -1 for an operation by itself.
    static int32_t fixed(size_t g) { return -2 - static_cast<int32_t>(g); }
    const std::vector<size_t> &content(int32_t task) const {
        return task >= 0 ? chains_[static_cast<size_t>(task)].operations
                         : fusions_[static_cast<size_t>(-2 - task)].operations;
    }

    // Whether a path leads out of `inside` and back into it.
    bool leaves_and_returns(const std::vector<size_t> &inside) const {
        const std::set<size_t> in(inside.begin(), inside.end());
        std::set<size_t> seen;
        std::vector<size_t> todo;
        auto visit_operands = [&](size_t i) {
            uses_.operands(i, [&](int32_t v) {
                const int32_t by = uses_.made_by(v);
                if (by >= 0 && !in.count(static_cast<size_t>(by))) todo.push_back(static_cast<size_t>(by));
            });
        };
        for (size_t i : inside) visit_operands(i);
        bool back = false;
        while (!todo.empty() && !back) {
            const size_t i = todo.back();
            todo.pop_back();
            if (!seen.insert(i).second) continue;
            const size_t last = task_[i] == -1 ? i : content(task_[i]).back();
            if (last < inside.front()) continue; // nothing in there can depend on us
            auto into = [&](size_t j) {
                seen.insert(j);
                uses_.operands(j, [&](int32_t v) {
                    const int32_t by = uses_.made_by(v);
                    if (by < 0) return;
                    if (in.count(static_cast<size_t>(by))) back = true;
                    else todo.push_back(static_cast<size_t>(by));
                });
            };
            if (task_[i] == -1) into(i);
            else
                for (size_t j : content(task_[i]))
                    if (!in.count(j)) into(j);
        }
        return back;
    }

    // The chain of these chains and one more operation; none where they do not fit.
    bool joined(const std::set<int32_t> &parts, size_t i, Chain *all) {
        const mil::Operation &op = f_.operations[i];
        const Member &m = members_[i];
        const auto &shape = f_.values[m.reduces() ? f_.operand(op, "x") : op.results[0]].type.shape;
        all->operations = {i};
        all->axis = m.axis;
        std::vector<const std::vector<int32_t> *> shapes;
        for (int32_t part : parts) {
            const Chain &chain = chains_[static_cast<size_t>(part)];
            if (all->axis >= 0 && chain.axis >= 0 && all->axis != chain.axis) return false;
            all->axis = std::max(all->axis, chain.axis);
            all->operations.insert(all->operations.end(), chain.operations.begin(), chain.operations.end());
            shapes.push_back(&chain.shape);
        }
        all->shape = parts.empty() ? shape : *shapes[0];
        for (const auto *other : shapes)
            if (*other != all->shape) return false;
        if (shape != all->shape) { // one row of what a reduction gives?
            std::vector<int32_t> row = all->shape;
            if (all->axis < 0 || m.reduces()) return false;
            row[static_cast<size_t>(all->axis)] = 1;
            if (shape != row) return false;
        }
        std::sort(all->operations.begin(), all->operations.end());
        return all->operations.size() <= 64 && set_levels(uses_, *all, members_) &&
               !leaves_and_returns(all->operations);
    }

    void place(size_t i) {
        std::set<int32_t> makers, siblings;
        uses_.operands(i, [&](int32_t v) {
            const int32_t by = uses_.made_by(v);
            if (by >= 0 && task_[static_cast<size_t>(by)] >= 0) makers.insert(task_[static_cast<size_t>(by)]);
            if (f_.values[v].is_const) return;
            for (size_t r : uses_.readers(v))
                if (task_[r] >= 0) siblings.insert(task_[r]);
        });
        std::vector<std::set<int32_t>> wishes = {makers};
        for (auto it = makers.rbegin(); it != makers.rend(); ++it) wishes.push_back({*it});
        for (auto it = siblings.rbegin(); it != siblings.rend(); ++it) wishes.push_back({*it});
        wishes.push_back({});
        for (const auto &parts : wishes) {
            Chain all;
            if ((parts.empty() && &parts != &wishes.back()) || !joined(parts, i, &all)) continue;
            for (int32_t part : parts) chains_[static_cast<size_t>(part)].operations.clear();
            for (size_t j : all.operations) task_[j] = static_cast<int32_t>(chains_.size());
            chains_.push_back(std::move(all));
            return;
        }
    }

    // Slices read and concats written by this chain alone, if their columns lie side by side.
    void take_moves(Chain &chain) {
        const std::set<size_t> in(chain.operations.begin(), chain.operations.end());
        const auto far = long_axes(chain.shape);
        if (far.empty()) return;
        const size_t last = far.back();
        std::set<size_t> found;
        for (size_t i : chain.operations) {
            uses_.operands(i, [&](int32_t v) {
                const mil::Operation *slice = uses_.maker(v, "slice_by_size");
                if (!slice || uses_.is_output(v) || claimed_[uses_.index(slice)] ||
                    f_.values[v].type.shape != chain.shape)
                    return;
                const auto &from = f_.values[f_.operand(*slice, "x")].type;
                if (from.dtype != mil::DType::fp16 || strides_in_elements(from.shape)[last] != 1) return;
                for (size_t r : uses_.readers(v))
                    if (!in.count(r)) return;
                found.insert(uses_.index(slice));
            });
            for (size_t r : uses_.readers(f_.operations[i].results[0])) {
                const mil::Operation &concat = f_.operations[r];
                const mil::Argument *values = concat.find("values");
                if (concat.type != "concat" || claimed_[r] || !values || f_.flag(concat, "interleave", false)) continue;
                if (strides_in_elements(f_.values[concat.results[0]].type.shape)[last] != 1) continue;
                if (std::all_of(values->values.begin(), values->values.end(), [&](int32_t v) {
                        return uses_.made_by(v) >= 0 && in.count(static_cast<size_t>(uses_.made_by(v))) &&
                               f_.values[v].type.shape == chain.shape;
                    }))
                    found.insert(r);
            }
        }
        chain.moved.assign(found.begin(), found.end());
    }

    const DefUse &uses_;
    const mil::Function &f_;
    Claimed &claimed_;
    std::vector<Fusion> &fusions_;
    std::vector<Member> members_;
    std::vector<int32_t> task_;
    std::vector<Chain> chains_;
};

} // namespace

void find_chains(const DefUse &uses, Claimed &claimed, std::vector<Fusion> &fusions) {
    const Finder found(uses, claimed, fusions);
    link_chains(uses, found.chains(), found.members(), claimed, fusions);
}

} // namespace anefast::host
