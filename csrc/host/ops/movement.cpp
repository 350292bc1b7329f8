// Operations that move elements and change none: transpose, slices, concat, split, tile, pad, gather.
// All of them are copies between two strided walks; views that cost nothing were taken out by the plan.
#include <algorithm>
#include <vector>

#include "../../cpu/pool.h"
#include "convert.h"
#include "registry.h"

namespace anefast::host {

namespace {

// `to` and `from` walked together over `n`, outermost first; strides in bytes, possibly negative.
struct Copy {
    struct Axis {
        int64_t n, to, from;
    };
    std::vector<Axis> axes;
    int64_t to = 0, from = 0; // first elements, in bytes
    size_t element;
    int64_t elements = 1;

    void simplify() {
        std::vector<Axis> merged;
        elements = 1;
        for (const Axis &a : axes) {
            elements *= a.n;
            if (a.n == 1) continue;
            if (!merged.empty() && merged.back().to == a.n * a.to && merged.back().from == a.n * a.from)
                merged.back() = {merged.back().n * a.n, a.to, a.from};
            else merged.push_back(a);
        }
        const auto es = static_cast<int64_t>(element);
        if (merged.empty()) merged.push_back({1, es, es});
        axes = std::move(merged);
    }

    template <class E> static void line(uint8_t *to, const uint8_t *from, const Axis &a) {
        for (int64_t i = 0; i < a.n; i++)
            *reinterpret_cast<E *>(to + i * a.to) = *reinterpret_cast<const E *>(from + i * a.from);
    }

    void innermost(uint8_t *t, const uint8_t *f, const Axis &a) const {
        const auto es = static_cast<int64_t>(element);
        if (a.to == es && a.from == es) std::memcpy(t, f, static_cast<size_t>(a.n) * element);
        else if (element == 2) line<uint16_t>(t, f, a);
        else if (element == 4) line<uint32_t>(t, f, a);
        else if (element == 1) line<uint8_t>(t, f, a);
        else line<uint64_t>(t, f, a);
    }

    // The two innermost axes, in tiles when one side runs down while the other runs along.
    void plane(uint8_t *t, const uint8_t *f, const Axis &outer, const Axis &inner) const {
        const auto es = static_cast<int64_t>(element);
        const bool crossed = outer.from == es && inner.to == es && inner.from != es;
        const int64_t tile = crossed ? 32 : std::max(outer.n, inner.n);
        for (int64_t i = 0; i < outer.n; i += tile)
            for (int64_t j = 0; j < inner.n; j += tile) {
                const Axis part{std::min(tile, inner.n - j), inner.to, inner.from};
                for (int64_t k = i; k < std::min(i + tile, outer.n); k++)
                    innermost(t + k * outer.to + j * inner.to, f + k * outer.from + j * inner.from, part);
            }
    }

    void walk(size_t depth, uint8_t *t, const uint8_t *f) const {
        const size_t left = axes.size() - depth;
        if (left == 1) return innermost(t, f, axes[depth]);
        if (left == 2) return plane(t, f, axes[depth], axes[depth + 1]);
        for (int64_t i = 0; i < axes[depth].n; i++) walk(depth + 1, t + i * axes[depth].to, f + i * axes[depth].from);
    }

    void run(uint8_t *base_to, const uint8_t *base_from) const {
        if (elements == 0) return;
        uint8_t *t = base_to + to;
        const uint8_t *f = base_from + from;
        if (elements < static_cast<int64_t>(WORTH_WAKING)) return walk(0, t, f);
        // Threads take runs of the outermost axis, or pieces of the only one.
        const Axis outer = axes[0];
        const int64_t turns = std::min<int64_t>(outer.n, 16), per = (outer.n + turns - 1) / turns;
        Pool::shared().parallel(turns, [&](int64_t i) {
            Copy part = *this;
            part.axes[0].n = std::min(per, outer.n - i * per);
            if (part.axes[0].n > 0) part.walk(0, t + i * per * outer.to, f + i * per * outer.from);
        });
    }
};

std::vector<int64_t> strides_of(const std::vector<int32_t> &shape, size_t element) {
    std::vector<int64_t> s(shape.size());
    auto below = static_cast<int64_t>(element);
    for (size_t i = shape.size(); i-- > 0;) {
        s[i] = below;
        below *= shape[i];
    }
    return s;
}

Runnable copies(std::vector<std::pair<Ref, Copy>> from, Ref to) {
    for (auto &[ref, copy] : from) copy.simplify();
    return [from = std::move(from), to](const Frame &f) {
        for (const auto &[ref, copy] : from) copy.run(f.at(to), f.at(ref));
    };
}

Runnable one_copy(const Builder &b, Copy copy) { return copies({{b.at("x"), std::move(copy)}}, b.at(b.result())); }

Runnable transpose(const Builder &b) {
    const mil::Type &x = b.type("x"), &y = b.result_type();
    Copy c;
    c.element = mil::bytes_of(x.dtype);
    const auto from = strides_of(x.shape, c.element), to = strides_of(y.shape, c.element);
    const auto perm = b.f.ints(b.op, "perm");
    for (size_t i = 0; i < perm.size(); i++) {
        const auto p = static_cast<size_t>(perm[i] < 0 ? perm[i] + static_cast<int32_t>(perm.size()) : perm[i]);
        c.axes.push_back({y.shape[i], to[i], from[p]});
    }
    return one_copy(b, c);
}

Runnable slice(const Builder &b) {
    const mil::Type &x = b.type("x");
    const Slice s = slice_of(b.f, b.op);
    Copy c;
    c.element = mil::bytes_of(x.dtype);
    const auto from = strides_of(x.shape, c.element);
    std::vector<int32_t> size(s.size.begin(), s.size.end());
    const auto to = strides_of(size, c.element);
    for (size_t i = 0; i < size.size(); i++) {
        c.from += s.begin[i] * from[i];
        c.axes.push_back({s.size[i], to[i], from[i] * s.stride[i]});
    }
    return one_copy(b, c);
}

Runnable concat(const Builder &b) {
    const mil::Argument *values = b.op.find("values");
    if (!values) b.refuse("expected values");
    const mil::Type &y = b.result_type();
    const size_t axis = b.axis(y.shape.size()), es = mil::bytes_of(y.dtype);
    const bool interleave = b.f.flag(b.op, "interleave", false);
    const auto to = strides_of(y.shape, es);
    const Ref result = b.at(b.result());
    std::vector<std::pair<Ref, Copy>> parts;
    int64_t at = 0;
    for (size_t k = 0; k < values->values.size(); k++) {
        const int32_t v = values->values[k];
        const mil::Type &x = b.type(v);
        const auto from = strides_of(x.shape, es);
        Copy c;
        c.element = es;
        c.to = interleave ? static_cast<int64_t>(k) * to[axis] : at * to[axis];
        const auto step = static_cast<int64_t>(interleave ? values->values.size() : 1);
        for (size_t i = 0; i < x.shape.size(); i++)
            c.axes.push_back({x.shape[i], i == axis ? to[i] * step : to[i], from[i]});
        at += x.shape[axis];
        // Already there: the plan had it computed in place.
        if (b.at(v) == Ref{result.base, result.offset + static_cast<uintptr_t>(c.to)}) continue;
        parts.emplace_back(b.at(v), c);
    }
    return copies(std::move(parts), result);
}

Runnable split(const Builder &b) {
    const mil::Type &x = b.type("x");
    const size_t axis = b.axis(x.shape.size()), es = mil::bytes_of(x.dtype);
    const auto from = strides_of(x.shape, es);
    const auto sizes = split_sizes(b.f, b.op);
    std::vector<std::pair<Ref, Copy>> parts;
    int64_t at = 0;
    for (size_t k = 0; k < sizes.size(); k++) {
        const mil::Type &y = b.result_type(k);
        const auto to = strides_of(y.shape, es);
        Copy c;
        c.element = es;
        c.from = at * from[axis];
        for (size_t i = 0; i < y.shape.size(); i++) c.axes.push_back({y.shape[i], to[i], from[i]});
        c.simplify();
        at += sizes[k];
        parts.emplace_back(b.at(b.result(k)), c);
    }
    const Ref source = b.at("x");
    return [parts = std::move(parts), source](const Frame &f) {
        for (const auto &[ref, copy] : parts) copy.run(f.at(ref), f.at(source));
    };
}

Runnable tile(const Builder &b) {
    const mil::Type &x = b.type("x"), &y = b.result_type();
    const auto reps = b.f.ints(b.op, "reps");
    Copy c;
    c.element = mil::bytes_of(x.dtype);
    const auto from = strides_of(x.shape, c.element), to = strides_of(y.shape, c.element);
    for (size_t i = 0; i < x.shape.size(); i++) {
        c.axes.push_back({reps[i], to[i] * x.shape[i], 0});
        c.axes.push_back({x.shape[i], to[i], from[i]});
    }
    return one_copy(b, c);
}

Runnable pad(const Builder &b) {
    const mil::Type &x = b.type("x"), &y = b.result_type();
    const std::string mode = b.f.text(b.op, "mode", "constant");
    if (mode != "constant") b.refuse("expected mode constant, got " + mode);
    const size_t es = mil::bytes_of(x.dtype), rank = x.shape.size();
    std::vector<uint8_t> value(es, 0);
    if (b.has("constant_val")) {
        const double v = b.constant("constant_val");
        const auto store = storer<double>(x.dtype);
        if (!store) b.refuse("expected numbers");
        store(&v, value.data(), 1);
    }
    Copy inside, fill;
    inside.element = fill.element = es;
    const auto given = b.f.ints(b.op, "pad");
    const size_t first = rank - given.size() / 2; // pads of the last axes
    const auto from = strides_of(x.shape, es), to = strides_of(y.shape, es);
    for (size_t i = 0; i < rank; i++) {
        if (i >= first) inside.to += given[2 * (i - first)] * to[i];
        inside.axes.push_back({x.shape[i], to[i], from[i]});
        fill.axes.push_back({y.shape[i], to[i], 0});
    }
    inside.simplify();
    fill.simplify();
    const Ref rx = b.at("x"), ry = b.at(b.result());
    return [=](const Frame &f) {
        fill.run(f.at(ry), value.data());
        inside.run(f.at(ry), f.at(rx));
    };
}

Runnable gather(const Builder &b) {
    const mil::Type &x = b.type("x"), &indices = b.type("indices");
    if (b.f.integer(b.op, "batch_dims", 0) != 0) b.refuse("expected batch_dims 0");
    const size_t axis = b.axis(x.shape.size()), es = mil::bytes_of(x.dtype);
    const auto load = loader<double>(indices.dtype);
    if (!load) b.refuse("expected integer indices");
    const size_t index_bytes = mil::bytes_of(indices.dtype), count = indices.elements();
    size_t outer = 1, inner = es;
    for (size_t i = 0; i < x.shape.size(); i++)
        if (i < axis) outer *= static_cast<size_t>(x.shape[i]);
        else if (i > axis) inner *= static_cast<size_t>(x.shape[i]);
    const int64_t n = x.shape[axis];
    const Ref rx = b.at("x"), ri = b.at("indices"), ry = b.at(b.result());
    return [=](const Frame &f) {
        for (size_t o = 0; o < outer; o++)
            for (size_t i = 0; i < count; i++) {
                double at;
                load(f.at(ri) + i * index_bytes, &at, 1);
                auto row = static_cast<int64_t>(at);
                row = std::min(std::max<int64_t>(row < 0 ? row + n : row, 0), n - 1); // clamped: no fault to raise
                std::memcpy(f.at(ry) + (o * count + i) * inner,
                            f.at(rx) + (o * static_cast<size_t>(n) + static_cast<size_t>(row)) * inner, inner);
            }
    };
}

Runnable nothing(const Builder &) {
    return [](const Frame &) {};
}

} // namespace

void add_movement(Table &t) {
    using namespace declare;
    t.add({"transpose", 15, PLAIN, PLAIN | SMALL, {in("x"), needs("perm", Role::ints)}, rules::transpose}, {transpose});
    t.add({"slice_by_size",
           15,
           PLAIN,
           PLAIN | SMALL,
           {in("x"), needs("begin", Role::ints), needs("size", Role::ints)},
           rules::slice_by_size},
          {slice});
    t.add({"slice_by_index",
           15,
           PLAIN,
           PLAIN | SMALL,
           {in("x"), needs("begin", Role::ints), needs("end", Role::ints), may("stride", Role::ints),
            may("begin_mask", Role::flags), may("end_mask", Role::flags), may("squeeze_mask", Role::flags)},
           rules::slice_by_index},
          {slice});
    t.add({"concat",
           15,
           ANY,
           ANY,
           {needs("values", Role::tuple), needs("axis", Role::integer), may("interleave", Role::flag)},
           rules::concat},
          {concat});
    t.add({"split",
           15,
           PLAIN,
           PLAIN | SMALL,
           {in("x"), may("num_splits", Role::integer), may("split_sizes", Role::ints), needs("axis", Role::integer)},
           rules::split},
          {split});
    t.add({"tile", 15, PLAIN, PLAIN | SMALL, {in("x"), needs("reps", Role::ints)}, rules::tile}, {tile});
    t.add({"pad",
           15,
           FLOAT,
           FLOAT,
           {in("x"), needs("pad", Role::ints), may("mode", Role::text), may("constant_val", Role::scalar)},
           rules::pad},
          {pad});
    t.add({"gather",
           15,
           NUMBER,
           NUMBER | SMALL,
           {in("x"), needs("indices", Role::indices), may("axis", Role::integer), may("batch_dims", Role::integer),
            may("validate_indices", Role::flag)},
           rules::gather},
          {gather});
    t.add({"reshape", 15, PLAIN, PLAIN | SMALL, {in("x"), needs("shape", Role::ints)}, rules::reshape}, {nothing});
    t.add({"expand_dims", 15, PLAIN, PLAIN | SMALL, {in("x"), needs("axes", Role::ints)}, rules::expand_dims},
          {nothing});
    t.add({"squeeze", 15, PLAIN, PLAIN | SMALL, {in("x"), may("axes", Role::ints)}, rules::squeeze}, {nothing});
    t.add(declare::unary("identity", ANY), {nothing});
}

} // namespace anefast::host
