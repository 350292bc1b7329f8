// From a chain to its kernel: where every value is while a block runs, and what is read, reduced and written in turn.
#include <algorithm>
#include <map>
#include <set>

#include "block_kernel.h"

namespace anefast::host {

namespace {

class Maker {
  public:
    Maker(const DefUse &uses, const Chain &chain, const std::vector<Member> &members, const std::vector<size_t> &inside,
          bool in_rows)
        : uses_(uses), f_(uses.f), chain_(chain), members_(members), inside_(inside), rank_(chain.shape.size()) {
        for (size_t i : chain.operations) maker_[f_.operations[i].results[0]] = i;
        for (size_t i : chain.moved)
            if (f_.operations[i].type == "concat") add_concat(f_.operations[i]);
        k_.reduces = chain.axis >= 0;
        int last = 0;
        for (size_t i : chain.operations) last = std::max(last, members[i].stage());
        k_.stages.resize(static_cast<size_t>(last) + 1);
        for (Stage &stage : k_.stages) {
            write_list(needed(), stage.walk, true);
            std::vector<size_t> rows;
            for (size_t i : chain.operations) {
                if (!members[i].is_row() || members[i].stage() != stage_) continue;
                rows.push_back(i);
                if (members[i].reduces()) add_reduction(i, stage.walk);
            }
            write_list(rows, stage.rows, false);
            stage_++;
        }
        if (k_.places.size() > ChainKernel::PLACES || lines_ > ChainKernel::SLOTS) fits = false;
        if (sums_ > ChainKernel::REDUCTIONS || most_ > ChainKernel::REDUCTIONS) fits = false;
        walk(k_.reduces ? 2 : in_rows ? 1 : 0);
    }
    ChainKernel take() { return std::move(k_); }
    bool fits = true;

  private:
    int32_t result(size_t i) const { return f_.operations[i].results[0]; }
    const std::vector<int32_t> &shape(int32_t v) const { return f_.values[v].type.shape; }
    bool stored(int32_t v) const { return uses_.wanted_outside(v, inside_) || concats_.count(v); }
    bool wanted(size_t i) const { return stored(result(i)); }
    bool read_by(size_t i, const std::set<size_t> &who) const {
        const auto &readers = uses_.readers(result(i));
        return std::any_of(readers.begin(), readers.end(), [&](size_t r) { return who.count(r); });
    }

    // The operation whose result is read for its magnitudes alone, which a reduction makes as it goes; or none.
    const mil::Operation *magnitude_of(size_t reduction) const {
        const int32_t x = f_.operand(f_.operations[reduction], "x");
        const auto made = maker_.find(x);
        if (members_[reduction].kind != Kind::largest || made == maker_.end() ||
            members_[made->second].kind != Kind::magnitude)
            return nullptr;
        return stored(x) ? nullptr : &f_.operations[made->second];
    }
    // What a reduction reads.
    int32_t reduced(size_t reduction) const {
        const mil::Operation *magnitude = magnitude_of(reduction);
        return f_.operand(magnitude ? *magnitude : f_.operations[reduction], "x");
    }
    // Whether a reduction reads it at the end of this stage's walk.
    bool reduced_now(int32_t v) const {
        return std::any_of(chain_.operations.begin(), chain_.operations.end(), [&](size_t i) {
            return members_[i].reduces() && members_[i].stage() == stage_ && reduced(i) == v;
        });
    }

    // Full-sized values that this stage writes or reduces, and what they need of it and of those before; what is in
    // memory by now is read there.
    std::vector<size_t> needed() const {
        std::set<size_t> found;
        for (auto it = chain_.operations.rbegin(); it != chain_.operations.rend(); ++it) {
            const Member &m = members_[*it];
            if (m.is_row() || m.stage() > stage_) continue;
            const bool now = m.stage() == stage_;
            if ((now && wanted(*it)) || ((reduced_now(result(*it)) || read_by(*it, found)) && (now || !wanted(*it))))
                found.insert(*it);
        }
        return {found.begin(), found.end()};
    }

    void add_concat(const mil::Operation &op) {
        const int32_t whole = op.results[0];
        const auto below = strides_in_elements(shape(whole));
        const int32_t given = f_.integer(op, "axis", 0);
        const size_t axis = static_cast<size_t>(given < 0 ? given + static_cast<int32_t>(rank_) : given);
        int64_t at = 0;
        for (int32_t v : op.find("values")->values) {
            concats_[v].push_back({whole, at * below[axis], below});
            at += shape(v)[axis];
        }
    }

    // Strides over the chain's shape of a value broadcast to it; of a slice, those of what it is cut from.
    Strided strided(int32_t v) const {
        const mil::Operation *slice = uses_.maker(v, "slice_by_size");
        if (slice && std::find(chain_.moved.begin(), chain_.moved.end(), uses_.index(slice)) != chain_.moved.end()) {
            const int32_t from = f_.operand(*slice, "x");
            Strided s{from, 0, strides_in_elements(shape(from))};
            const auto begin = slice_of(f_, *slice).begin;
            for (size_t i = 0; i < begin.size(); i++) s.offset += begin[i] * s.strides[i];
            return s;
        }
        Strided s{v, 0, std::vector<int64_t>(rank_, 0)};
        const auto own = strides_in_elements(shape(v));
        for (size_t i = 0; i < own.size(); i++)
            if (shape(v)[i] > 1) s.strides[rank_ - own.size() + i] = own[i];
        return s;
    }

    int add_place(Place p) {
        k_.places.push_back(std::move(p));
        return static_cast<int>(k_.places.size()) - 1;
    }

    int memory(const Strided &s) {
        for (size_t i = 0; i < k_.places.size(); i++) {
            const Place &p = k_.places[i];
            if (p.where == Place::memory && p.value == s.value && p.offset == s.offset && p.strides == s.strides)
                return static_cast<int>(i);
        }
        Place p;
        p.value = s.value;
        p.offset = s.offset;
        p.strides = s.strides;
        return add_place(std::move(p));
    }

    // Where a value of the chain that has memory is; the first of its places.
    int home(int32_t v) {
        if (uses_.wanted_outside(v, inside_)) return memory(strided(v));
        return memory(concats_.at(v).front());
    }

    int new_slot() {
        if (free_.empty()) {
            if (slots_ == ChainKernel::SLOTS) fits = false;
            Place p;
            p.where = Place::slot;
            p.index = std::min(slots_++, ChainKernel::SLOTS - 1);
            return add_place(std::move(p));
        }
        const int place = free_.back();
        free_.pop_back();
        return place;
    }

    int line_of(int32_t v) {
        const auto found = rows_.find(v);
        if (found != rows_.end()) return found->second;
        Place p;
        p.where = Place::row;
        p.index = std::min(lines_++, ChainKernel::SLOTS - 1);
        return rows_[v] = add_place(std::move(p));
    }

    bool is_row(int32_t v) const {
        const auto made = maker_.find(v);
        return made != maker_.end() && members_[made->second].is_row();
    }

    // Where to read a value; `borrowed` collects slots to give back after the instruction.
    int operand(int32_t v, bool in_row, std::vector<Instruction> &list, std::vector<int> &borrowed) {
        if (is_row(v)) return line_of(v);
        if (const auto held = held_.find(v); held != held_.end()) return held->second;
        if (maker_.count(v)) return home(v);
        const Strided s = strided(v);
        const auto far = long_axes(chain_.shape);
        if (far.empty() || s.strides[far.back()] == 1) return memory(s);
        Instruction i; // one element for all columns
        i.act = Instruction::spread;
        i.a = memory(s);
        i.z = in_row ? line_of(-2 - v) : new_slot();
        if (!in_row) borrowed.push_back(i.z);
        list.push_back(i);
        return i.z;
    }

    void add_reduction(size_t i, std::vector<Instruction> &list) {
        Instruction add;
        std::vector<int> borrowed;
        const int32_t x = reduced(i);
        const bool sum = members_[i].kind == Kind::sum;
        add.act = sum ? Instruction::add : magnitude_of(i) ? Instruction::greatest : Instruction::largest;
        add.a = walked_.count(x) ? walked_[x] : operand(x, false, list, borrowed);
        add.sum = reduction_of_[i] = sum ? sums_++ : most_++;
        list.push_back(add);
    }

    // walks: a stage's walk, not its rows.
    void write_list(const std::vector<size_t> &order, std::vector<Instruction> &list, bool walks) {
        held_.clear();
        free_.clear();
        slots_ = 0;
        if (walks) walked_.clear();
        // Slots are named per list: places of earlier lists are not shared.
        for (size_t at = 0; at < order.size(); at++) {
            const size_t i = order[at];
            const mil::Operation &op = f_.operations[i];
            const Member &m = members_[i];
            const int32_t z = op.results[0];
            const bool in_row = m.is_row();
            std::vector<int> borrowed;
            Instruction todo;
            if (m.reduces()) {
                todo.act = m.kind == Kind::sum ? Instruction::finish : Instruction::finish_largest;
                todo.sum = reduction_of_.at(i);
                if (m.mean) todo.count = chain_.shape[static_cast<size_t>(chain_.axis)];
            } else {
                todo.a = operand(f_.operand(op, "x"), in_row, list, borrowed);
                if (m.kind == Kind::binary) {
                    todo.op = m.binary;
                    todo.b = operand(f_.operand(op, "y"), in_row, list, borrowed);
                } else if (m.kind == Kind::magnitude) {
                    todo.act = Instruction::magnitude;
                } else {
                    todo.act = Instruction::lookup;
                    todo.values = m.values->data();
                    k_.tables.push_back(m.values);
                }
            }
            // Slots whose value nobody in this list reads again are free, for this very result too.
            for (const char *name : {"x", "y"}) {
                const auto held = held_.find(f_.operand(op, name));
                if (held == held_.end() || (walks && reduced_now(held->first))) continue;
                bool again = false;
                for (size_t j = at + 1; j < order.size() && !again; j++) again = reads(order[j], held->first);
                if (again) continue;
                free_.push_back(held->second);
                held_.erase(held);
            }
            for (int slot : borrowed) free_.push_back(slot);
            std::vector<int> targets;
            if (in_row) targets.push_back(line_of(z));
            if (uses_.wanted_outside(z, inside_)) targets.push_back(memory(strided(z)));
            if (const auto found = concats_.find(z); found != concats_.end())
                for (const Strided &s : found->second) targets.push_back(memory(s));
            if (targets.empty()) targets.push_back(held_[z] = new_slot());
            if (walks) walked_[z] = targets.front();
            todo.z = targets.front();
            list.push_back(todo);
            for (size_t t = 1; t < targets.size(); t++) {
                Instruction copy;
                copy.act = Instruction::copy;
                copy.a = targets.front();
                copy.z = targets[t];
                list.push_back(copy);
            }
        }
    }

    bool reads(size_t i, int32_t v) const {
        return f_.operand(f_.operations[i], "x") == v || f_.operand(f_.operations[i], "y") == v;
    }

    // The dimensions to walk: axes of length 1 left out, neighbours joined where all memory allows, but for the last
    // ones, `held`, which must stay apart.
    void walk(size_t held) {
        auto axes = long_axes(chain_.shape);
        std::vector<std::vector<size_t>> dims;
        for (size_t a = 0; a < axes.size(); a++) {
            bool join = a > 0 && a + held < axes.size();
            for (const Place &p : k_.places)
                if (join && p.where == Place::memory)
                    join = p.strides[axes[a - 1]] == chain_.shape[axes[a]] * p.strides[axes[a]];
            if (join) dims.back().push_back(axes[a]);
            else dims.push_back({axes[a]});
        }
        for (const auto &joined : dims) {
            int64_t n = 1;
            for (size_t a : joined) n *= chain_.shape[a];
            k_.dims.push_back(n);
        }
        for (Place &p : k_.places) {
            if (p.where != Place::memory) continue;
            std::vector<int64_t> strides;
            for (const auto &joined : dims) strides.push_back(p.strides[joined.back()]);
            while (strides.size() < 2) strides.insert(strides.begin(), 0);
            p.strides = std::move(strides);
        }
        while (k_.dims.size() < 2) k_.dims.insert(k_.dims.begin(), 1);
    }

    const DefUse &uses_;
    const mil::Function &f_;
    const Chain &chain_;
    const std::vector<Member> &members_;
    const std::vector<size_t> &inside_;
    const size_t rank_;
    std::map<int32_t, size_t> maker_;
    std::map<int32_t, std::vector<Strided>> concats_;
    std::map<int32_t, int> held_, rows_, walked_; // walked: places in the stage's walk
    std::map<size_t, int> reduction_of_;
    std::vector<int> free_;
    int stage_ = 0, slots_ = 0, lines_ = 0, sums_ = 0, most_ = 0;
    ChainKernel k_;
};

} // namespace

std::shared_ptr<const ChainKernel> make_kernel(const DefUse &uses, const Chain &chain,
                                               const std::vector<Member> &members, const std::vector<size_t> &inside,
                                               bool in_rows) {
    std::vector<Member> own = members;
    if (!set_levels(uses, chain, own)) return nullptr;
    Maker maker(uses, chain, own, inside, in_rows);
    return maker.fits ? std::make_shared<const ChainKernel>(maker.take()) : nullptr;
}

} // namespace anefast::host
