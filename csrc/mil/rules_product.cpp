// Type rules of convolution, matrix products and attention. See rules.h.
#include "einsum.h"
#include "rules.h"

namespace anefast::mil::rules {

namespace {

std::vector<int32_t> spatial(const Call &call, const char *argument, size_t count, int32_t fallback, int32_t least) {
    std::vector<int32_t> list = call.ints(argument, std::vector<int32_t>(count, fallback));
    bool fits = list.size() == count;
    for (const int32_t n : list) fits = fits && n >= least;
    if (!fits)
        call.wrong(argument,
                   std::to_string(count) + " numbers of " + std::to_string(least) + " or more in " + quoted(argument) +
                       " of " + call.op.type,
                   described_shape(list));
    return list;
}

} // namespace

// x: [N, Ci, spatial...], weight: [Co, Ci / groups, kernel...].
Types conv(const Call &call) {
    const Type &x = call.type("x"), &w = call.type("weight");
    const size_t rank = x.shape.size();
    if (rank < 3) call.wrong("x", "x of conv of rank 3 to 5", described(x));
    if (w.shape.size() != rank)
        call.wrong("weight", "weight of conv of rank " + std::to_string(rank) + " like x", described(w));
    const int32_t groups = call.integer("groups", 1);
    if (groups < 1 || x.shape[1] % groups || w.shape[0] % groups)
        call.wrong("groups", "groups that divide the channels of " + described(x) + " and " + described(w),
                   std::to_string(groups));
    if (w.shape[1] != x.shape[1] / groups)
        call.wrong("weight",
                   "weight of conv with " + std::to_string(x.shape[1] / groups) + " input channels for " + described(x),
                   described(w));
    if (call.has("bias") && call.type("bias").shape != std::vector<int32_t>{w.shape[0]})
        call.wrong("bias", "bias of conv of shape [" + std::to_string(w.shape[0]) + "]", described(call.type("bias")));

    const size_t dims = rank - 2;
    const std::vector<int32_t> strides = spatial(call, "strides", dims, 1, 1),
                               dilations = spatial(call, "dilations", dims, 1, 1);
    const std::string pad_type = call.text("pad_type", "valid");
    if (pad_type != "valid" && pad_type != "same" && pad_type != "same_lower" && pad_type != "custom")
        call.wrong("pad_type", "pad_type of conv: valid, custom, same or same_lower", quoted(pad_type));
    std::vector<int32_t> pad(2 * dims, 0); // before and after, per dimension; read only for "custom"
    if (pad_type == "custom") pad = spatial(call, "pad", 2 * dims, 0, 0);

    Type out{x.dtype, {x.shape[0], w.shape[0]}};
    for (size_t i = 0; i < dims; i++) {
        const int64_t n = x.shape[2 + i], kernel = (int64_t{w.shape[2 + i]} - 1) * dilations[i] + 1;
        const int64_t room = n + pad[2 * i] + pad[2 * i + 1] - kernel;
        const bool same = pad_type[0] == 's';
        const int64_t size = same ? (n + strides[i] - 1) / strides[i] : room < 0 ? 0 : room / strides[i] + 1;
        if (size < 1 || size > INT32_MAX)
            call.wrong("weight", "a kernel that fits dimension " + std::to_string(2 + i) + " of " + described(x),
                       described(w));
        out.shape.push_back(static_cast<int32_t>(size));
    }
    return {out};
}

Types matmul(const Call &call) {
    const Type &x = call.type("x"), &y = call.type("y");
    const bool turn_x = call.flag("transpose_x", false), turn_y = call.flag("transpose_y", false);
    const size_t rx = x.shape.size(), ry = y.shape.size();
    if (rx < (turn_x ? 2u : 1u))
        call.wrong("x", "x of matmul of rank 2 or more (1 where it is not transposed)", described(x));
    if (ry < 2) call.wrong("y", "y of matmul of rank 2 or more", described(y));
    const int32_t rows = rx == 1 ? 1 : x.shape[rx - (turn_x ? 1 : 2)], inner_x = x.shape[rx - (turn_x ? 2 : 1)];
    const int32_t inner_y = y.shape[ry - (turn_y ? 1 : 2)], columns = y.shape[ry - (turn_y ? 2 : 1)];
    if (inner_x != inner_y)
        call.wrong("y", "inner dimensions of matmul that agree",
                   std::to_string(inner_x) + " of " + described(x) + " and " + std::to_string(inner_y) + " of " +
                       described(y));
    const std::vector<int32_t> batch_x(x.shape.begin(), x.shape.end() - (rx == 1 ? 1 : 2)),
        batch_y(y.shape.begin(), y.shape.end() - 2);
    Type out{x.dtype, broadcast(call, batch_x, batch_y)};
    if (rx > 1) out.shape.push_back(rows);
    out.shape.push_back(columns);
    return {out};
}

// weight: [out, in], y = x weight^T + bias.
Types linear(const Call &call) {
    const Type &x = call.type("x"), &w = call.type("weight");
    if (x.shape.empty()) call.wrong("x", "x of linear of rank 1 or more", described(x));
    if (w.shape.size() != 2 || w.shape[1] != x.shape.back())
        call.wrong("weight", "weight of linear of shape [out, " + std::to_string(x.shape.back()) + "]", described(w));
    if (call.has("bias") && call.type("bias").shape != std::vector<int32_t>{w.shape[0]})
        call.wrong("bias", "bias of linear of shape [" + std::to_string(w.shape[0]) + "]",
                   described(call.type("bias")));
    Type out = x;
    out.shape.back() = w.shape[0];
    return {out};
}

// query: [..., L, E], key: [..., S, E], value: [..., S, EV], attn_mask broadcasts to [..., L, S].
Types attention(const Call &call) {
    const Type &q = call.type("query"), &k = call.type("key"), &v = call.type("value");
    const size_t rank = q.shape.size();
    if (rank < 3) call.wrong("query", "query of rank 3 or more", described(q));
    for (const char *other : {"key", "value"}) {
        const Type &type = call.type(other);
        bool fits = type.shape.size() == rank;
        for (size_t i = 0; fits && i + 2 < rank; i++) fits = type.shape[i] == q.shape[i];
        if (!fits)
            call.wrong(other, quoted(other) + " with the batch dimensions of query, " + described(q), described(type));
    }
    if (k.shape[rank - 1] != q.shape[rank - 1])
        call.wrong("key", "key as wide as query, " + described(q), described(k));
    if (v.shape[rank - 2] != k.shape[rank - 2])
        call.wrong("value", "value as long as key, " + described(k), described(v));
    if (call.has("attn_mask")) {
        const Type &mask = call.type("attn_mask");
        std::vector<int32_t> scores(q.shape.begin(), q.shape.end() - 1);
        scores.push_back(k.shape[rank - 2]);
        if (broadcast(call, mask.shape, scores) != scores ||
            (!mask.shape.empty() && mask.shape.back() != scores.back()))
            call.wrong("attn_mask", "attn_mask that broadcasts to " + described_shape(scores), described(mask));
    }
    Type out = q;
    out.shape.back() = v.shape.back();
    return {out};
}

// values: two tensors, equation: "nchw,nwhu->nchu".
Types einsum(const Call &call) {
    const std::vector<int32_t> &ids = call.op.find("values")->values;
    if (ids.size() != 2) call.wrong("values", "two values of einsum", std::to_string(ids.size()));
    const std::string text = call.text("equation", "");
    const Equation e = equation_of(text);
    if (!e.wrong.empty())
        call.wrong("equation", "an equation of einsum such as nchw,nwhu->nchu, " + e.wrong, quoted(text));
    const Type &x = call.function.values[static_cast<size_t>(ids[0])].type,
               &y = call.function.values[static_cast<size_t>(ids[1])].type;
    if (x.shape.size() != e.x.size() || y.shape.size() != e.y.size())
        call.wrong("values", "values of einsum with an axis for each letter of " + quoted(text),
                   described(x) + " and " + described(y));
    for (size_t i = 0; i < e.x.size(); i++) {
        const size_t other = e.y.find(e.x[i]);
        if (other != std::string::npos && x.shape[i] != y.shape[other])
            call.wrong("values", std::string("one size for the index ") + e.x[i] + " of " + quoted(text),
                       described(x) + " and " + described(y));
    }
    Type out{x.dtype, {}};
    for (const char letter : e.z) {
        const size_t at = e.x.find(letter);
        out.shape.push_back(at != std::string::npos ? x.shape[at] : y.shape[e.y.find(letter)]);
    }
    return {out};
}

} // namespace anefast::mil::rules

namespace anefast::mil {

Equation equation_of(const std::string &text) {
    Equation e;
    const size_t comma = text.find(','), arrow = text.find("->");
    if (comma == std::string::npos || arrow == std::string::npos || comma > arrow) {
        e.wrong = "with a comma and an arrow";
        return e;
    }
    e.x = text.substr(0, comma);
    e.y = text.substr(comma + 1, arrow - comma - 1);
    e.z = text.substr(arrow + 2);
    for (const std::string *letters : {&e.x, &e.y, &e.z})
        for (size_t i = 0; i < letters->size(); i++) {
            const char c = (*letters)[i];
            if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) e.wrong = "of letters";
            else if (letters->find(c) != i) e.wrong = "naming an index once in each operand";
            else if (letters == &e.z && (e.x + e.y).find(c) == std::string::npos)
                e.wrong = "whose result is of indices that the operands have";
        }
    for (const char c : e.x + e.y)
        if ((e.z + e.summed).find(c) == std::string::npos) e.summed += c;
    return e;
}

} // namespace anefast::mil
