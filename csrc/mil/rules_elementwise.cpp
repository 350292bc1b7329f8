// Type rules of operations whose shapes stay or broadcast. See rules.h; the table is ops.cpp.
#include "rules.h"

namespace anefast::mil::rules {

std::string described_shape(const std::vector<int32_t> &shape) {
    std::string out = "[";
    for (size_t i = 0; i < shape.size(); i++) out += (i ? ", " : "") + std::to_string(shape[i]);
    return out + "]";
}

std::vector<int32_t> broadcast(const Call &call, const std::vector<int32_t> &a, const std::vector<int32_t> &b) {
    const std::vector<int32_t> &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
    std::vector<int32_t> out = longer;
    for (size_t i = 1; i <= shorter.size(); i++) {
        const int32_t m = longer[longer.size() - i], n = shorter[shorter.size() - i];
        if (m != n && m != 1 && n != 1)
            fail(call.op.where, "shapes that broadcast in " + call.op.type,
                 described_shape(a) + " and " + described_shape(b));
        out[longer.size() - i] = m == 1 ? n : m;
    }
    return out;
}

Types same(const Call &call) { return {call.type("x")}; }

Types binary(const Call &call) {
    const Type &x = call.type("x"), &y = call.type("y");
    return {{x.dtype, broadcast(call, x.shape, y.shape)}};
}

Types compare(const Call &call) {
    return {{DType::boolean, broadcast(call, call.type("x").shape, call.type("y").shape)}};
}

Types select(const Call &call) {
    const Type &a = call.type("a"), &b = call.type("b");
    return {{a.dtype, broadcast(call, call.type("cond").shape, broadcast(call, a.shape, b.shape))}};
}

Types clip(const Call &call) {
    const double alpha = call.number("alpha", 0), beta = call.number("beta", 1);
    if (!(alpha < beta))
        call.wrong("beta", "alpha of clip below beta",
                   "alpha " + std::to_string(alpha) + ", beta " + std::to_string(beta));
    return same(call);
}

Types gelu(const Call &call) {
    const std::string mode = call.text("mode", "EXACT");
    if (mode != "EXACT" && mode != "TANH_APPROXIMATION" && mode != "SIGMOID_APPROXIMATION")
        call.wrong("mode", "mode of gelu: EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION", quoted(mode));
    return same(call);
}

Types softmax(const Call &call) {
    call.axis("axis", call.rank("x"), -1);
    return same(call);
}

Types cumsum(const Call &call) {
    call.axis("axis", call.rank("x"), 0);
    return same(call);
}

namespace {

DType named_dtype(const Call &call, const char *argument, DTypes allowed) {
    const std::string name = call.text(argument, "");
    for (unsigned i = 0; i < static_cast<unsigned>(DType::string); i++)
        if ((allowed & DTypes{1} << i) && name == spelling(static_cast<DType>(i))) return static_cast<DType>(i);
    call.wrong(argument, quoted(argument) + " of " + call.op.type + ": one of " + spelled(allowed), quoted(name));
}

// A scale or zero point: a scalar, or one element per index of `axis` of `shape`.
void check_per_axis(const Call &call, const char *argument, const std::vector<int32_t> &shape) {
    if (!call.has(argument)) return;
    const std::vector<int32_t> &given = call.type(argument).shape;
    if (given.empty()) return;
    if (!call.has("axis")) call.wrong(argument, "axis with a " + quoted(argument) + " that is a list", "none");
    const int32_t wanted = shape[call.axis("axis", shape.size(), 0)];
    if (given.size() != 1 || given[0] != wanted)
        call.wrong(argument, quoted(argument) + " of shape [] or [" + std::to_string(wanted) + "]",
                   described_shape(given));
}

void check_scales(const Call &call, const std::vector<int32_t> &shape) {
    check_per_axis(call, "scale", shape);
    check_per_axis(call, "zero_point", shape);
    if (call.has("zero_point") && call.rank("zero_point") != call.rank("scale"))
        call.wrong("zero_point", "zero_point of the rank of scale", described(call.type("zero_point")));
    if (!call.rank("scale") && call.has("axis")) call.wrong("axis", "no axis with a scalar scale", "one");
}

} // namespace

Types cast(const Call &call) {
    constexpr DTypes OLD = only(DType::fp16) | only(DType::fp32) | only(DType::int32) | only(DType::boolean);
    constexpr DTypes SMALL = only(DType::int8) | only(DType::uint8) | only(DType::int16) | only(DType::uint16);
    return {{named_dtype(call, "dtype", call.opset >= 17 ? OLD | SMALL : OLD), call.type("x").shape}};
}

Types quantize(const Call &call) {
    const Type &x = call.type("input");
    const DType out = named_dtype(call, "output_dtype", only(DType::int8) | only(DType::uint8));
    if (call.has("zero_point") && call.type("zero_point").dtype != out)
        call.wrong("zero_point", std::string("zero_point to be ") + spelling(out) + " like the output",
                   described(call.type("zero_point")));
    check_scales(call, x.shape);
    return {{out, x.shape}};
}

Types dequantize(const Call &call) {
    const Type &x = call.type("input");
    if (call.has("zero_point") && call.type("zero_point").dtype != x.dtype)
        call.wrong("zero_point", std::string("zero_point to be ") + spelling(x.dtype) + " like the input",
                   described(call.type("zero_point")));
    check_scales(call, x.shape);
    return {{call.type("scale").dtype, x.shape}};
}

Types affine_dequantize(const Call &call) {
    const Type &data = call.type("quantized_data"), &zero = call.type("zero_point");
    if (data.shape.empty()) call.wrong("quantized_data", "a tensor as quantized_data", described(data));
    if (zero.dtype != DType::fp32 && zero.dtype != data.dtype)
        call.wrong("zero_point", std::string("zero_point to be ") + spelling(data.dtype) + " like the data, or fp32",
                   described(zero));
    call.axis("axis", data.shape.size(), 0);
    check_per_axis(call, "scale", data.shape);
    check_per_axis(call, "zero_point", data.shape);
    return {{call.type("scale").dtype, data.shape}};
}

// indices: packed, log2(size of lut) bits each, low bits first.
Types lut_to_dense(const Call &call) {
    const Type &lut = call.type("lut"), &indices = call.type("indices");
    Type out{lut.dtype, call.ints("shape")};
    check_limits(out, call.at("shape"));
    size_t bits = 0;
    for (const size_t b : {1, 2, 4, 6, 8})
        if (lut.shape.size() == 1 && lut.elements() == size_t{1} << b) bits = b;
    if (!bits) call.wrong("lut", "a lut of 2, 4, 16, 64 or 256 elements", described(lut));
    const size_t wanted = (out.elements() * bits + 7) / 8;
    if (indices.dtype != DType::uint8 || indices.shape.size() != 1 || indices.elements() != wanted)
        call.wrong("indices", "indices of tensor<uint8, [" + std::to_string(wanted) + "]> for that shape and lut",
                   described(indices));
    return {out};
}

} // namespace anefast::mil::rules
