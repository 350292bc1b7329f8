// Type rules of operations that move elements: reshape, slices, concat, gather. See rules.h.
#include <algorithm>

#include "rules.h"

namespace anefast::mil::rules {

namespace {

// A list argument with one entry per dimension of x.
std::vector<int32_t> per_dimension(const Call &call, const char *argument, size_t rank, int32_t fallback = 0) {
    std::vector<int32_t> list = call.ints(argument, std::vector<int32_t>(rank, fallback));
    if (list.size() != rank)
        call.wrong(argument,
                   std::to_string(rank) + " entries in " + quoted(argument) + " of " + call.op.type +
                       ", one per dimension of x",
                   std::to_string(list.size()));
    return list;
}

int32_t dimension(const Call &call, const char *argument, int64_t size) {
    if (size < 1 || size > INT32_MAX)
        call.wrong(argument, "dimensions of 1 or more and below 2^31 from " + call.op.type, std::to_string(size));
    return static_cast<int32_t>(size);
}

} // namespace

Types reshape(const Call &call) {
    const Type &x = call.type("x");
    std::vector<int32_t> shape = call.ints("shape");
    if (shape.size() > MAX_RANK)
        fail(call.at("shape"), "at most " + std::to_string(MAX_RANK) + " dimensions", std::to_string(shape.size()),
             Fault::rank);
    const auto refuse = [&] {
        call.wrong("shape", "a shape of " + std::to_string(x.elements()) + " elements for " + described(x),
                   described_shape(call.ints("shape")));
    };
    int free_at = -1;
    size_t known = 1;
    for (size_t i = 0; i < shape.size(); i++) {
        if (shape[i] == 0 && shape.size() == x.shape.size()) shape[i] = x.shape[i]; // 0 keeps a dimension
        if (shape[i] == -1 && free_at < 0) {
            free_at = static_cast<int>(i);
            continue;
        }
        if (shape[i] < 1) refuse();
        known *= static_cast<size_t>(shape[i]);
        if (known > x.elements()) refuse();
    }
    if (free_at >= 0) shape[static_cast<size_t>(free_at)] = static_cast<int32_t>(x.elements() / known);
    if (free_at < 0 ? known != x.elements() : x.elements() % known) refuse();
    return {{x.dtype, shape}};
}

Types transpose(const Call &call) {
    const Type &x = call.type("x");
    const std::vector<int32_t> perm = per_dimension(call, "perm", x.shape.size());
    call.axes("perm", x.shape.size()); // distinct and in range
    Type out = x;
    for (size_t i = 0; i < perm.size(); i++)
        out.shape[i] =
            x.shape[static_cast<size_t>(perm[i] < 0 ? perm[i] + static_cast<int32_t>(perm.size()) : perm[i])];
    return {out};
}

Types expand_dims(const Call &call) {
    const Type &x = call.type("x");
    const size_t rank = x.shape.size() + call.type("axes").elements();
    if (rank > MAX_RANK)
        fail(call.at("axes"), "at most " + std::to_string(MAX_RANK) + " dimensions", std::to_string(rank), Fault::rank);
    const std::vector<bool> fresh = call.axes("axes", rank);
    Type out{x.dtype, {}};
    for (size_t i = 0, from = 0; i < rank; i++) out.shape.push_back(fresh[i] ? 1 : x.shape[from++]);
    return {out};
}

Types squeeze(const Call &call) {
    const Type &x = call.type("x");
    const std::vector<bool> axes = call.axes("axes", x.shape.size());
    Type out{x.dtype, {}};
    for (size_t i = 0; i < axes.size(); i++) {
        if (axes[i] && x.shape[i] != 1 && call.has("axes"))
            call.wrong("axes", "axes of size 1 of " + described(x), std::to_string(i));
        if (!axes[i] || x.shape[i] != 1) out.shape.push_back(x.shape[i]);
    }
    return {out};
}

Types concat(const Call &call) {
    const Argument &values = *call.op.find("values");
    const auto type_of = [&](int32_t id) -> const Type & { return call.function.values[static_cast<size_t>(id)].type; };
    Type out = type_of(values.values[0]);
    const size_t rank = out.shape.size(), axis = call.axis("axis", rank, 0);
    const bool interleave = call.flag("interleave", false);
    int64_t total = 0;
    for (const int32_t id : values.values) {
        const Type &type = type_of(id);
        bool fits = type.shape.size() == rank;
        for (size_t i = 0; fits && i < rank; i++) fits = type.shape[i] == out.shape[i] || (i == axis && !interleave);
        if (!fits)
            call.wrong("values",
                       "values of concat that differ only " +
                           (interleave ? "not at all (interleave)" : "in axis " + std::to_string(axis)),
                       described(type_of(values.values[0])) + " and " + described(type));
        total += type.shape[axis];
    }
    out.shape[axis] = dimension(call, "values", total);
    return {out};
}

Types stack(const Call &call) {
    const Argument &values = *call.op.find("values");
    Type out = call.type("values");
    for (const int32_t id : values.values)
        if (!(call.function.values[static_cast<size_t>(id)].type == out))
            call.wrong("values", "values of one type",
                       described(out) + " and " + described(call.function.values[static_cast<size_t>(id)].type));
    const size_t axis = call.axis("axis", out.shape.size() + 1, 0);
    out.shape.insert(out.shape.begin() + static_cast<std::ptrdiff_t>(axis), static_cast<int32_t>(values.values.size()));
    return {out};
}

Types split(const Call &call) {
    const Type &x = call.type("x");
    const size_t axis = call.axis("axis", x.shape.size(), 0);
    const int32_t whole = x.shape[axis];
    std::vector<int32_t> sizes = call.ints("split_sizes");
    const int32_t parts = call.integer("num_splits", static_cast<int32_t>(sizes.size()));
    if (!call.has("split_sizes")) {
        if (!call.has("num_splits")) fail(call.op.where, "num_splits or split_sizes of split", "neither");
        if (parts < 1 || whole % parts)
            call.wrong("num_splits", "num_splits that divides " + std::to_string(whole), std::to_string(parts));
        sizes.assign(static_cast<size_t>(parts), whole / parts);
    }
    int64_t sum = 0;
    for (const int32_t size : sizes) sum += dimension(call, "split_sizes", size);
    if (sum != whole || static_cast<size_t>(parts) != sizes.size())
        call.wrong("split_sizes", "split_sizes that add up to " + std::to_string(whole) + " in num_splits parts",
                   described_shape(sizes));
    Types out;
    for (const int32_t size : sizes) {
        out.push_back(x);
        out.back().shape[axis] = size;
    }
    return out;
}

Types tile(const Call &call) {
    Type out = call.type("x");
    const std::vector<int32_t> reps = per_dimension(call, "reps", out.shape.size());
    if (reps.empty()) call.wrong("x", "x of tile of rank 1 or more", described(out));
    for (size_t i = 0; i < reps.size(); i++) {
        if (reps[i] < 1) call.wrong("reps", "reps of 1 or more", std::to_string(reps[i]));
        out.shape[i] = dimension(call, "reps", int64_t{out.shape[i]} * reps[i]);
    }
    return {out};
}

Types pad(const Call &call) {
    Type out = call.type("x");
    const std::vector<int32_t> amounts = call.ints("pad");
    const std::string mode = call.text("mode", "constant");
    if (mode != "constant" && mode != "reflect" && mode != "replicate")
        call.wrong("mode", "mode of pad: constant, reflect or replicate", quoted(mode));
    if (amounts.size() % 2 || amounts.size() / 2 > out.shape.size())
        call.wrong("pad",
                   "a before and an after for some of the last " + std::to_string(out.shape.size()) + " dimensions",
                   std::to_string(amounts.size()) + " numbers");
    const size_t first = out.shape.size() - amounts.size() / 2; // the last dimensions are padded
    for (size_t i = 0; i < amounts.size(); i++) {
        int32_t &size = out.shape[first + i / 2];
        if (amounts[i] < 0) call.wrong("pad", "pad amounts of 0 or more", std::to_string(amounts[i]));
        if (mode == "reflect" && amounts[i] >= call.type("x").shape[first + i / 2])
            call.wrong("pad", "reflect amounts below the dimension", std::to_string(amounts[i]));
        size = dimension(call, "pad", int64_t{size} + amounts[i]);
    }
    return {out};
}

Types reverse(const Call &call) {
    call.axes("axes", call.rank("x"));
    return {call.type("x")};
}

Types slice_by_size(const Call &call) {
    const Type &x = call.type("x");
    const std::vector<int32_t> begin = per_dimension(call, "begin", x.shape.size()),
                               size = per_dimension(call, "size", x.shape.size());
    Type out = x;
    for (size_t i = 0; i < x.shape.size(); i++) {
        const int64_t from = begin[i] < 0 ? int64_t{begin[i]} + x.shape[i] : begin[i];
        const int64_t count = size[i] == -1 ? x.shape[i] - from : size[i]; // -1: the rest
        if (from < 0 || count < 1 || from + count > x.shape[i])
            call.wrong(size[i] == -1 ? "begin" : "size",
                       "a slice within dimension " + std::to_string(i) + " of " + described(x),
                       "begin " + std::to_string(begin[i]) + ", size " + std::to_string(size[i]));
        out.shape[i] = static_cast<int32_t>(count);
    }
    return {out};
}

Types slice_by_index(const Call &call) {
    const Type &x = call.type("x");
    const size_t rank = x.shape.size();
    const std::vector<int32_t> begin = per_dimension(call, "begin", rank), end = per_dimension(call, "end", rank);
    const std::vector<int32_t> stride = per_dimension(call, "stride", rank, 1);
    const std::vector<bool> from_edge = call.flags("begin_mask", rank), to_edge = call.flags("end_mask", rank);
    const std::vector<bool> squeeze = call.flags("squeeze_mask", rank);
    Type out{x.dtype, {}};
    for (size_t i = 0; i < rank; i++) {
        const int64_t n = x.shape[i], step = stride[i];
        if (!step) call.wrong("stride", "strides other than 0", "0");
        const auto place = [&](int64_t at) {
            return at < 0 ? std::max<int64_t>(at + n, 0) : at;
        }; // negative: from the end
        const int64_t first = from_edge[i] ? (step > 0 ? 0 : n - 1) : place(begin[i]);
        if (squeeze[i]) { // the element at begin, the dimension dropped
            if (first >= n || begin[i] < -n)
                call.wrong("begin", "begin within dimension " + std::to_string(i) + " of " + described(x),
                           std::to_string(begin[i]));
            continue;
        }
        const int64_t last = to_edge[i] ? (step > 0 ? n : -1) : place(end[i]); // one past, in the direction of the step
        const int64_t span = step > 0 ? std::min(last, n) - first : std::min(first, n - 1) - last;
        const int64_t size = span <= 0 ? 0 : (span + (step > 0 ? step : -step) - 1) / (step > 0 ? step : -step);
        if (size < 1)
            call.wrong("end", "a slice that is not empty in dimension " + std::to_string(i) + " of " + described(x),
                       "begin " + std::to_string(begin[i]) + ", end " + std::to_string(end[i]) + ", stride " +
                           std::to_string(step));
        out.shape.push_back(static_cast<int32_t>(size));
    }
    return {out};
}

Types gather(const Call &call) {
    const Type &x = call.type("x"), &indices = call.type("indices");
    const size_t axis = call.axis("axis", x.shape.size(), 0);
    const int32_t batch = call.integer("batch_dims", 0);
    if (batch < 0 || static_cast<size_t>(batch) > axis || static_cast<size_t>(batch) > indices.shape.size())
        call.wrong("batch_dims", "batch_dims up to axis and up to the rank of indices", std::to_string(batch));
    for (size_t i = 0; i < static_cast<size_t>(batch); i++)
        if (x.shape[i] != indices.shape[i])
            call.wrong("indices", "indices that share the batch dimensions of " + described(x), described(indices));
    Type out{x.dtype, {x.shape.begin(), x.shape.begin() + static_cast<std::ptrdiff_t>(axis)}};
    out.shape.insert(out.shape.end(), indices.shape.begin() + batch, indices.shape.end());
    out.shape.insert(out.shape.end(), x.shape.begin() + static_cast<std::ptrdiff_t>(axis) + 1, x.shape.end());
    return {out};
}

Types gather_along_axis(const Call &call) {
    const Type &x = call.type("x"), &indices = call.type("indices");
    bool fits = x.shape.size() == indices.shape.size();
    const size_t axis = call.axis("axis", x.shape.size(), 0);
    for (size_t i = 0; fits && i < x.shape.size(); i++) fits = i == axis || x.shape[i] == indices.shape[i];
    if (!fits)
        call.wrong("indices", "indices shaped like " + described(x) + " except in axis " + std::to_string(axis),
                   described(indices));
    return {{x.dtype, indices.shape}};
}

} // namespace anefast::mil::rules
