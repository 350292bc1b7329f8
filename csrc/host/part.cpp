// See part.h. The checker's own rules (mil/ops.h) say what shorter operands give.
#include "part.h"

#include <algorithm>
#include <set>
#include <string>

#include "../mil/ops.h"
#include "../mil/values.h"
#include "memory_plan.h"

namespace anefast::host {

namespace {

using Shape = std::vector<int32_t>;

const std::set<std::string> ELEMENTWISE = {"add",  "sub",  "mul",  "real_div", "maximum", "minimum", "pow",     "abs",
                                           "exp",  "log",  "sqrt", "rsqrt",    "square",  "inverse", "sigmoid", "silu",
                                           "tanh", "gelu", "relu", "erf",      "clip",    "cast",    "identity"};

int64_t product(const Shape &shape, size_t from) {
    int64_t n = 1;
    for (size_t i = from; i < shape.size(); i++) n *= shape[i];
    return n;
}

class Shortener {
  public:
    Shortener(const mil::Function &whole, mil::Function *part) : whole_(whole), part_(*part) { part_ = whole; }

    bool run(const int64_t *extents) {
        for (int32_t v : whole_.inputs)
            for (int32_t &size : part_.values[static_cast<size_t>(v)].type.shape) {
                const int64_t wanted = *extents++;
                if (wanted < 1 || wanted > size) return false;
                size = static_cast<int32_t>(wanted);
            }
        for (int32_t v : whole_.inputs)
            if (!is_beginning(v)) return false;
        for (size_t i = 0; i < whole_.operations.size(); i++)
            if (!shorten(part_.operations[i])) return false;
        return std::all_of(whole_.outputs.begin(), whole_.outputs.end(), [&](int32_t v) { return is_beginning(v); });
    }

  private:
    const Shape &whole_shape(int32_t v) const { return whole_.values[static_cast<size_t>(v)].type.shape; }
    const Shape &now(int32_t v) const { return part_.values[static_cast<size_t>(v)].type.shape; }
    bool shorter(int32_t v, size_t axis) const { return now(v)[axis] != whole_shape(v)[axis]; }
    bool shorter(int32_t v) const { return now(v) != whole_shape(v); }

    // Whether the rows of a port that count are its first.
    bool is_beginning(int32_t v) const {
        const Shape &all = whole_shape(v);
        for (size_t i = 0; i + 1 < all.size(); i++)
            if (shorter(v, i) && product(all, 0) != product(all, i)) return false;
        return true;
    }

    int32_t integers(const Shape &list) {
        mil::Value v;
        v.type = {mil::DType::int32, {static_cast<int32_t>(list.size())}};
        v.is_const = true;
        const auto *bytes = reinterpret_cast<const uint8_t *>(list.data());
        v.inline_bytes = std::make_shared<std::vector<uint8_t>>(bytes, bytes + list.size() * sizeof(int32_t));
        v.data = v.inline_bytes->data();
        part_.values.push_back(std::move(v));
        return static_cast<int32_t>(part_.values.size()) - 1;
    }

    static void replace(mil::Operation &op, const char *name, int32_t value) {
        for (mil::Argument &a : op.arguments)
            if (a.name == name) a.values = {value};
    }

    bool shorten(mil::Operation &op) {
        bool any = false;
        for (const mil::Argument &a : op.arguments)
            for (int32_t v : a.values) any = any || (static_cast<size_t>(v) < whole_.values.size() && shorter(v));
        if (!any) return true;
        if (!allowed(op)) return false;
        std::vector<mil::Type> types;
        try {
            const mil::OpRecord *record = mil::find_op(op.type);
            const std::vector<mil::Position> positions(op.arguments.size());
            types = record->rule({part_, op, positions, 18});
        } catch (const mil::Failure &) {
            return false;
        }
        for (size_t i = 0; i < types.size(); i++) part_.values[static_cast<size_t>(op.results[i])].type = types[i];
        return true;
    }

    // Whether the beginning of the result is made of the beginnings of the operands. Rewrites sizes that are arguments.
    bool allowed(mil::Operation &op) {
        const int32_t x = part_.operand(op, "x");
        if (ELEMENTWISE.count(op.type)) return same_lengths(op);
        if (op.type == "softmax") return true;
        if (op.type == "matmul") return last_two(x) && last_two(part_.operand(op, "y"));
        if (op.type == "conv") {
            const Shape &w = whole_shape(part_.operand(op, "weight"));
            return !shorter(x, 1) && product(w, 2) == 1 && unit(op, "strides");
        }
        if (op.type == "concat") return !part_.flag(op, "interleave", false);
        if (op.type == "tile") {
            const auto reps = part_.ints(op, "reps");
            for (size_t i = 0; i < reps.size(); i++)
                if (shorter(x, i) && reps[i] != 1) return false;
            return true;
        }
        if (op.type == "split") return !shorter(x, axis_of(op, x));
        if (op.type.rfind("reduce_", 0) == 0 || op.type == "layer_norm") {
            const auto axes = part_.ints(op, "axes");
            if (axes.empty()) return false;
            for (int32_t a : axes)
                if (shorter(x, static_cast<size_t>(a < 0 ? a + static_cast<int32_t>(now(x).size()) : a))) return false;
            return true;
        }
        if (op.type == "transpose" || op.type == "expand_dims") return true;
        if (op.type == "reshape") return reshape(op, x);
        if (op.type == "slice_by_size") return slice(op, x);
        return false;
    }

    // Operands have the result's length along every axis, or 1 as they always had.
    bool same_lengths(const mil::Operation &op) const {
        const Shape &result = whole_shape(op.results[0]);
        Shape length(result.size(), 0);
        for (const mil::Argument &a : op.arguments)
            for (int32_t v : a.values) {
                if (part_.values[static_cast<size_t>(v)].type.dtype == mil::DType::string) continue;
                const Shape &was = whole_shape(v), &is = now(v);
                for (size_t i = 0; i < is.size(); i++) {
                    const size_t at = result.size() - is.size() + i;
                    if (was[i] == 1 && result[at] != 1) continue;
                    if (length[at] && length[at] != is[i]) return false;
                    length[at] = is[i];
                }
            }
        return true;
    }

    // Whether only matrices are shorter, not the number of them.
    bool last_two(int32_t v) const {
        for (size_t i = 0; i + 2 < now(v).size(); i++)
            if (shorter(v, i)) return false;
        return true;
    }

    size_t axis_of(const mil::Operation &op, int32_t value) const {
        const int32_t axis = part_.integer(op, "axis", 0);
        return static_cast<size_t>(axis < 0 ? axis + static_cast<int32_t>(now(value).size()) : axis);
    }

    bool unit(const mil::Operation &op, const char *name) const {
        const auto list = part_.ints(op, name);
        return std::all_of(list.begin(), list.end(), [](int32_t v) { return v == 1; });
    }

    // A shorter axis is an axis of the result, too: as many elements lie behind it.
    bool reshape(mil::Operation &op, int32_t x) {
        Shape shape = whole_shape(op.results[0]);
        const Shape &was = whole_shape(x);
        for (size_t i = 0; i < was.size(); i++) {
            if (!shorter(x, i)) continue;
            size_t j = 0;
            while (j < shape.size() && (whole_shape(op.results[0])[j] != was[i] ||
                                        product(whole_shape(op.results[0]), j) != product(was, i)))
                j++;
            if (j == shape.size()) return false;
            shape[j] = now(x)[i];
        }
        replace(op, "shape", integers(shape));
        return true;
    }

    bool slice(mil::Operation &op, int32_t x) {
        const Slice s = slice_of(whole_, op);
        Shape size;
        for (size_t i = 0; i < s.size.size(); i++) {
            if (shorter(x, i) && (s.begin[i] != 0 || s.size[i] != whole_shape(x)[i])) return false;
            size.push_back(shorter(x, i) ? now(x)[i] : static_cast<int32_t>(s.size[i]));
        }
        replace(op, "size", integers(size));
        return true;
    }

    const mil::Function &whole_;
    mil::Function &part_;
};

} // namespace

bool take_part(const mil::Function &whole, const int64_t *extents, mil::Function *part) {
    return Shortener(whole, part).run(extents);
}

} // namespace anefast::host
