// Running a chain: what each operation reads and writes as rows of a block, then the blocks.
#include "chain.h"

#include <algorithm>
#include <array>
#include <map>
#include <numeric>
#include <set>

#include "../cpu/pool.h"
#include "../round.h"
#include "blocks.h"

namespace anefast::host {

namespace {

constexpr int64_t BLOCK_ELEMENTS = 1024, COLUMNS = 64; // COLUMNS where there are sums: two cache lines
constexpr int SLOTS = 24, SUMS = 4, PLACES = 96;

// Where an operand or a result of a block is.
struct Place {
    enum Where : uint8_t { memory, slot, row } where = memory; // row: of the whole block of columns
    Ref ref;
    int32_t value = -1;   // whose memory
    int64_t offset = 0;   // in elements
    std::vector<int64_t> strides; // of the dimensions walked, in elements
    int index = 0;        // of a slot or a row
};

struct Instruction {
    enum Do : uint8_t { binary, lookup, spread, copy, add, finish } act = binary;
    int z = -1, a = -1, b = -1; // places
    Binary op = Binary::add;
    const uint16_t *values = nullptr;
    int sum = 0;          // which accumulator
    double count = 1;     // divides the sum
};

struct Kernel {
    std::vector<int64_t> dims; // outer ones, rows, columns
    std::vector<Place> places;
    std::vector<Instruction> first, between, second; // up to the sums, their rows, with them
    std::vector<std::shared_ptr<const Halves>> tables;
    bool sums = false;

    int64_t outer() const { return std::accumulate(dims.begin(), dims.end() - 2, int64_t{1}, std::multiplies<>()); }
    int64_t rows() const { return dims[dims.size() - 2]; }
    int64_t columns() const { return dims.back(); }
    int64_t width() const { return sums ? COLUMNS : std::min(columns(), BLOCK_ELEMENTS); } // of a block

    struct Block {
        std::array<uint16_t *, PLACES> base; // of memory, at the block's column and the outer indices
        uint16_t slots[SLOTS][BLOCK_ELEMENTS];
        uint16_t lines[SLOTS][COLUMNS];
        double totals[SUMS][COLUMNS];
    };

    Rows at(Block &block, int place, int64_t row, int64_t columns) const {
        const Place &p = places[static_cast<size_t>(place)];
        if (p.where == Place::slot) return {block.slots[p.index], columns};
        if (p.where == Place::row) return {block.lines[p.index], 0};
        const int64_t stride = p.strides[p.strides.size() - 2];
        return {block.base[static_cast<size_t>(place)] + row * stride, stride};
    }

    void run_list(const std::vector<Instruction> &list, Block &block, int64_t row, int64_t n, int64_t columns) const {
        const HalfKernels &kernels = half_kernels();
        for (const Instruction &i : list) {
            const Rows z = i.z < 0 ? Rows{} : at(block, i.z, row, columns), a = i.a < 0 ? Rows{} : at(block, i.a, row, columns);
            switch (i.act) {
            case Instruction::binary:
                kernels.binary[static_cast<int>(i.op)](z, a, at(block, i.b, row, columns), n, columns);
                break;
            case Instruction::lookup:
                for (int64_t r = 0; r < n; r++)
                    for (int64_t c = 0; c < columns; c++) z.data[r * z.stride + c] = i.values[a.data[r * a.stride + c]];
                break;
            case Instruction::spread: // one element per row
                for (int64_t r = 0; r < n; r++) std::fill_n(z.data + r * z.stride, columns, a.data[r * a.stride]);
                break;
            case Instruction::copy:
                for (int64_t r = 0; r < n; r++) std::copy_n(a.data + r * a.stride, columns, z.data + r * z.stride);
                break;
            case Instruction::add: kernels.add_rows(a, n, columns, block.totals[i.sum]); break;
            case Instruction::finish:
                for (int64_t c = 0; c < columns; c++) z.data[c] = half_from_double(block.totals[i.sum][c] / i.count);
            }
        }
    }

    void set_base(const Frame &frame, Block &block, int64_t outer, int64_t column) const {
        for (size_t p = 0; p < places.size(); p++) {
            const Place &place = places[p];
            if (place.where != Place::memory) continue;
            int64_t at = place.offset + column * place.strides.back(), rest = outer;
            for (size_t d = dims.size() - 2; d-- > 0;) {
                at += rest % dims[d] * place.strides[d];
                rest /= dims[d];
            }
            block.base[p] = frame.at<uint16_t>(place.ref) + at;
        }
    }

    // All rows of `columns` columns, or `count` of them.
    void run_columns(Block &block, int64_t row, int64_t count, int64_t columns) const {
        const int64_t step = std::max<int64_t>(1, BLOCK_ELEMENTS / columns);
        for (auto &total : block.totals) std::fill(total, total + (sums ? COLUMNS : 0), 0.0);
        for (int64_t r = row; r < row + count; r += step) run_list(first, block, r, std::min(step, row + count - r), columns);
        if (!sums) return;
        run_list(between, block, 0, 1, columns);
        for (int64_t r = row; r < row + count; r += step) run_list(second, block, r, std::min(step, row + count - r), columns);
    }

    // Some rows of one outer index, by columns from `begin` to `end`.
    void run_part(const Frame &frame, Block &block, int64_t outer, int64_t row, int64_t count, int64_t begin, int64_t end) const {
        for (int64_t column = begin; column < end; column += width()) {
            set_base(frame, block, outer, column);
            run_columns(block, row, count, std::min(width(), end - column));
        }
    }

    void run(const Frame &frame) const {
        const int64_t total = outer() * rows() * columns();
        // Without sums any rows and columns make a turn.
        const int64_t height = sums ? rows() : std::min(rows(), std::max<int64_t>(1, static_cast<int64_t>(GRAIN) / width()));
        const int64_t span = sums ? width() : std::max<int64_t>(1, static_cast<int64_t>(GRAIN) / (width() * height)) * width();
        const int64_t across = ceil_div(columns(), span), down = ceil_div(rows(), height);
        auto turn = [&](int64_t i) {
            Block block;
            const int64_t begin = i % across * span, row = i / across % down * height;
            run_part(frame, block, i / across / down, row, std::min(height, rows() - row), begin, std::min(begin + span, columns()));
        };
        const int64_t turns = outer() * across * down;
        if (total >= static_cast<int64_t>(WORTH_WAKING)) return Pool::shared().parallel(turns, turn);
        for (int64_t i = 0; i < turns; i++) turn(i);
    }

    // `count` rows from `first` on, counted over all outer indices.
    void run_rows(const Frame &frame, int64_t first, int64_t count, int64_t column, int64_t columns) const {
        Block block;
        for (int64_t done = 0; done < count;) {
            const int64_t outer = (first + done) / rows(), row = (first + done) % rows();
            const int64_t n = std::min(rows() - row, count - done);
            run_part(frame, block, outer, row, n, column, column + columns);
            done += n;
        }
    }

    // How many rows of `values`, which are matrices of so many rows and columns, go with each of the chain's own, one
    // after the other. 0 where they do not.
    int64_t rows_each(const std::set<int32_t> &values, int64_t most, int64_t wide) const {
        int64_t each = 0;
        for (const Place &p : places) {
            if (p.where != Place::memory || !values.count(p.value)) continue;
            const int64_t stride = p.strides[dims.size() - 2], its = stride / wide;
            if (columns() != wide || its < 1 || stride % wide || most % its || (each && its != each)) return 0;
            if (p.offset % wide || p.offset / wide >= its || p.strides.back() != 1) return 0;
            for (size_t d = 0; d + 2 < dims.size(); d++)
                if (p.strides[d] != dims[d + 1] * p.strides[d + 1]) return 0;
            each = its;
        }
        return each;
    }
};

// From a chain to its kernel, but for the addresses.
class Maker {
  public:
    // in_rows: a row of the chain's is not joined to the next, as what it reads comes by rows.
    Maker(const Flow &flow, const Chain &chain, const std::vector<Member> &members, const std::vector<size_t> &inside, bool in_rows)
        : flow_(flow), f_(flow.f), chain_(chain), members_(members), inside_(inside), rank_(chain.shape.size()) {
        for (size_t i : chain.operations) maker_[f_.operations[i].results[0]] = i;
        for (size_t i : chain.moved)
            if (f_.operations[i].type == "concat") add_concat(f_.operations[i]);
        k_.sums = chain.axis >= 0;
        // Values that stay in the block but are read by operations with a sum are computed once more.
        std::vector<size_t> before, rows, after;
        for (size_t i : chain.operations) (members[i].level == 0 ? before : members[i].level == 1 ? rows : after).push_back(i);
        write_list(before, needed(before, {}, false), k_.first);
        for (size_t i : rows)
            if (members[i].kind == Kind::sum) add_sum(i);
        write_list(rows, std::set<size_t>(rows.begin(), rows.end()), k_.between);
        std::set<size_t> late(after.begin(), after.end());
        const auto again = needed(before, late, true);
        std::vector<size_t> both;
        for (size_t i : chain.operations)
            if (late.count(i) || again.count(i)) both.push_back(i);
        write_list(both, std::set<size_t>(both.begin(), both.end()), k_.second);
        if (k_.places.size() > PLACES || sums_ > SUMS || lines_ > SLOTS) fits = false;
        walk(k_.sums ? 2 : in_rows ? 1 : 0);
    }
    Kernel take() { return std::move(k_); }
    bool fits = true;

  private:
    int32_t result(size_t i) const { return f_.operations[i].results[0]; }
    const std::vector<int32_t> &shape(int32_t v) const { return f_.values[v].type.shape; }
    bool stored(int32_t v) const { return flow_.wanted_outside(v, inside_) || concats_.count(v); }
    bool wanted(size_t i) const { return stored(result(i)); }
    bool read_by(size_t i, const std::set<size_t> &who) const {
        const auto &readers = flow_.readers(result(i));
        return std::any_of(readers.begin(), readers.end(), [&](size_t r) { return who.count(r); });
    }
    bool summed(size_t i) const {
        for (size_t r : flow_.readers(result(i)))
            if (in_chain(r) && members_[r].kind == Kind::sum) return true;
        return false;
    }
    bool in_chain(size_t i) const { return maker_.count(result(i)) && maker_.at(result(i)) == i; }

    // Those of `list` that are asked for, and what they need; `again`: what is in memory by now is read there.
    std::set<size_t> needed(const std::vector<size_t> &list, const std::set<size_t> &readers, bool again) const {
        std::set<size_t> found;
        for (auto it = list.rbegin(); it != list.rend(); ++it) {
            const bool asked = again ? read_by(*it, readers) : wanted(*it) || summed(*it);
            if ((asked || read_by(*it, found)) && !(again && wanted(*it))) found.insert(*it);
        }
        return found;
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
        const mil::Operation *slice = flow_.maker(v, "slice_by_size");
        if (slice && std::find(chain_.moved.begin(), chain_.moved.end(), flow_.index(slice)) != chain_.moved.end()) {
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
        if (flow_.wanted_outside(v, inside_)) return memory(strided(v));
        return memory(concats_.at(v).front());
    }

    int new_slot() {
        if (free_.empty()) {
            if (slots_ == SLOTS) fits = false;
            Place p;
            p.where = Place::slot;
            p.index = std::min(slots_++, SLOTS - 1);
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
        p.index = std::min(lines_++, SLOTS - 1);
        return rows_[v] = add_place(std::move(p));
    }

    bool is_row(int32_t v) const {
        const auto made = maker_.find(v);
        return made != maker_.end() && members_[made->second].level == 1;
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

    void add_sum(size_t i) {
        Instruction add;
        std::vector<int> borrowed;
        const int32_t x = f_.operand(f_.operations[i], "x");
        std::vector<Instruction> &list = k_.first;
        add.act = Instruction::add;
        add.a = sum_operand_.count(x) ? sum_operand_[x] : operand(x, false, list, borrowed);
        add.sum = sum_of_[i] = sums_++;
        list.push_back(add);
    }

    void write_list(const std::vector<size_t> &order, const std::set<size_t> &chosen, std::vector<Instruction> &list) {
        held_.clear();
        free_.clear();
        slots_ = 0;
        // Slots are named per list: places of earlier lists are not shared.
        for (size_t at = 0; at < order.size(); at++) {
            const size_t i = order[at];
            if (!chosen.count(i)) continue;
            const mil::Operation &op = f_.operations[i];
            const Member &m = members_[i];
            const int32_t z = op.results[0];
            const bool in_row = m.level == 1;
            std::vector<int> borrowed;
            Instruction todo;
            if (m.kind == Kind::sum) {
                todo.act = Instruction::finish;
                todo.sum = sum_of_.at(i);
                if (m.mean) todo.count = chain_.shape[static_cast<size_t>(chain_.axis)];
            } else {
                todo.a = operand(f_.operand(op, "x"), in_row, list, borrowed);
                if (m.kind == Kind::binary) {
                    todo.op = m.binary;
                    todo.b = operand(f_.operand(op, "y"), in_row, list, borrowed);
                } else {
                    todo.act = Instruction::lookup;
                    todo.values = m.values->data();
                    k_.tables.push_back(m.values);
                }
            }
            // Slots whose value nobody in this list reads again are free, for this very result too.
            for (const char *name : {"x", "y"}) {
                const auto held = held_.find(f_.operand(op, name));
                if (held == held_.end() || keeps(held->first)) continue;
                bool again = false;
                for (size_t j = at + 1; j < order.size() && !again; j++)
                    again = chosen.count(order[j]) && reads(order[j], held->first);
                if (again) continue;
                free_.push_back(held->second);
                held_.erase(held);
            }
            for (int slot : borrowed) free_.push_back(slot);
            std::vector<int> targets;
            if (in_row) targets.push_back(line_of(z));
            if (flow_.wanted_outside(z, inside_)) targets.push_back(memory(strided(z)));
            if (const auto found = concats_.find(z); found != concats_.end())
                for (const Strided &s : found->second) targets.push_back(memory(s));
            if (targets.empty()) targets.push_back(held_[z] = new_slot());
            if (&list == &k_.first) sum_operand_[z] = targets.front();
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
    // A sum reads it at the end of the first list.
    bool keeps(int32_t v) const {
        for (size_t r : flow_.readers(v))
            if (in_chain(r) && members_[r].kind == Kind::sum) return true;
        return false;
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

    const Flow &flow_;
    const mil::Function &f_;
    const Chain &chain_;
    const std::vector<Member> &members_;
    const std::vector<size_t> &inside_;
    const size_t rank_;
    std::map<int32_t, size_t> maker_;
    std::map<int32_t, std::vector<Strided>> concats_;
    std::map<int32_t, int> held_, rows_, sum_operand_;
    std::map<size_t, int> sum_of_;
    std::vector<int> free_;
    int slots_ = 0, lines_ = 0, sums_ = 0;
    Kernel k_;
};

} // namespace

namespace {

std::shared_ptr<const Kernel> make_kernel(const Flow &flow, const Chain &chain, const std::vector<Member> &members,
                                          const std::vector<size_t> &inside, bool in_rows) {
    std::vector<Member> own = members;
    if (!set_levels(flow, chain, own)) return nullptr;
    Maker maker(flow, chain, own, inside, in_rows);
    return maker.fits ? std::make_shared<const Kernel>(maker.take()) : nullptr;
}

std::shared_ptr<const Kernel> placed(const std::shared_ptr<const Kernel> &kernel, const Plan &plan) {
    auto there = std::make_shared<Kernel>(*kernel);
    for (Place &p : there->places)
        if (p.where == Place::memory) p.ref = plan.where[static_cast<size_t>(p.value)];
    return there;
}

void add_operations(const Chain &chain, std::vector<size_t> &inside) {
    inside.insert(inside.end(), chain.operations.begin(), chain.operations.end());
    inside.insert(inside.end(), chain.moved.begin(), chain.moved.end());
}

// How many operands of these operations `makers` make.
size_t taken_from(const Flow &flow, const std::vector<size_t> &operations, const std::vector<size_t> &makers) {
    size_t n = 0;
    for (size_t i : operations)
        for (const mil::Argument &a : flow.f.operations[i].arguments)
            for (int32_t v : a.values)
                n += flow.made_by(v) >= 0 && std::find(makers.begin(), makers.end(), static_cast<size_t>(flow.made_by(v))) != makers.end();
    return n;
}

// All but how it runs. kept: what has memory whether or not anybody else reads it.
Group group_of(const Flow &flow, const std::vector<size_t> &inside, const std::set<int32_t> &kept) {
    Group g;
    g.operations = inside;
    for (size_t i : inside) {
        const mil::Operation &op = flow.f.operations[i];
        for (const mil::Argument &a : op.arguments)
            for (int32_t v : a.values) {
                const int32_t by = flow.made_by(v);
                if (by < 0 || !std::binary_search(inside.begin(), inside.end(), static_cast<size_t>(by))) g.reads.push_back(v);
            }
        for (int32_t r : op.results)
            if (flow.wanted_outside(r, inside) || op.type == "concat" || kept.count(r)) g.writes.push_back(r);
    }
    return g;
}

} // namespace

Group chain_group(const Flow &flow, const Chain &chain, const std::vector<Member> &members) {
    std::vector<size_t> inside;
    add_operations(chain, inside);
    std::sort(inside.begin(), inside.end());
    const auto kernel = make_kernel(flow, chain, members, inside, false);
    if (!kernel) return {};
    Group g = group_of(flow, inside, {});
    g.build = [kernel](const Plan &plan, Ref) -> Step {
        return [there = placed(kernel, plan)](const Frame &frame) { there->run(frame); };
    };
    return g;
}

Group product_group(const Flow &flow, size_t product, const Link &before, const Link &behind, const std::vector<Member> &members) {
    const mil::Function &f = flow.f;
    const mil::Operation &op = f.operations[product];
    const Parts parts = table().at(op.type).parts(f, op);
    std::vector<size_t> inside = {product};
    for (const Link *link : {&before, &behind}) {
        if (!link->chain) continue;
        add_operations(*link->chain, inside);
        inside.insert(inside.end(), link->reshapes.begin(), link->reshapes.end());
    }
    std::sort(inside.begin(), inside.end());
    inside.erase(std::unique(inside.begin(), inside.end()), inside.end());
    std::set<int32_t> kept = {op.results[0]};
    std::shared_ptr<const Kernel> leads, follows;
    int64_t unit = 1, share = 1; // rows of the result per row that follows; outer indices per matrix of what goes before
    if (behind.chain) {
        follows = make_kernel(flow, *behind.chain, members, inside, true);
        if (!follows || follows->sums || !(unit = follows->rows_each(behind.values, parts.rows, parts.columns))) return {};
    }
    if (before.chain) {
        std::vector<size_t> own, late;
        add_operations(*before.chain, own);
        if (behind.chain) add_operations(*behind.chain, late);
        // The columns that are there are those that are being packed: nothing but the right operand may read them.
        std::vector<size_t> makers = own;
        makers.insert(makers.end(), before.reshapes.begin(), before.reshapes.end());
        if (taken_from(flow, {product}, makers) != 1 || taken_from(flow, late, makers)) return {};
        for (size_t i : own)
            for (int32_t r : f.operations[i].results)
                if (flow.wanted_outside(r, own)) kept.insert(r); // by the product too
        leads = make_kernel(flow, *before.chain, members, own, true);
        if (!leads || !leads->rows_each(before.values, parts.right_rows, parts.columns)) return {};
        const int64_t matrices = static_cast<int64_t>(f.values[op.results[0]].type.elements()) / (parts.rows * parts.columns);
        if (leads->outer() % matrices && matrices > 1) return {};
        share = leads->outer() / matrices;
    }
    Group g = group_of(flow, inside, kept);
    g.build = [leads, follows, unit, share, product, &f](const Plan &plan, Ref) -> Step {
        Builder b(f, f.operations[product], plan, product);
        if (leads)
            b.before = std::make_shared<Leader>([there = placed(leads, plan), share](const Frame &frame, int64_t matrix, int64_t column, int64_t columns) {
                there->run_rows(frame, matrix * share * there->rows(), share * there->rows(), column, columns);
            });
        if (follows)
            b.then = std::make_shared<Follower>(Follower{
                [there = placed(follows, plan), unit](const Frame &frame, int64_t row, int64_t rows, int64_t column, int64_t columns) {
                    there->run_rows(frame, row / unit, rows / unit, column, columns);
                },
                unit});
        return table().at(b.op.type).build(b);
    };
    return g;
}

} // namespace anefast::host
