// Type rules of operations along axes: reductions, normalisations, topk. See rules.h.
#include "rules.h"

namespace anefast::mil::rules {

namespace {

std::vector<int32_t> without(const std::vector<int32_t> &shape, const std::vector<bool> &axes, bool keep) {
    std::vector<int32_t> out;
    for (size_t i = 0; i < shape.size(); i++) {
        if (!axes[i]) out.push_back(shape[i]);
        else if (keep) out.push_back(1);
    }
    return out;
}

void check_shape(const Call &call, const char *argument, const std::vector<int32_t> &wanted) {
    if (call.has(argument) && call.type(argument).shape != wanted)
        call.wrong(argument, quoted(argument) + " of " + call.op.type + " of shape " + described_shape(wanted),
                   described(call.type(argument)));
}

} // namespace

Types reduce(const Call &call) {
    const Type &x = call.type("x");
    return {{x.dtype, without(x.shape, call.axes("axes", x.shape.size()), call.flag("keep_dims", false))}};
}

Types argument(const Call &call) {
    const Type &x = call.type("x");
    std::vector<bool> axes(x.shape.size(), false);
    axes[call.axis("axis", x.shape.size(), -1)] = true;
    return {{DType::int32, without(x.shape, axes, call.flag("keep_dims", false))}};
}

Types layer_norm(const Call &call) {
    const Type &x = call.type("x");
    const std::vector<bool> axes = call.axes("axes", x.shape.size());
    std::vector<int32_t> normalised;
    for (size_t i = 0; i < axes.size(); i++)
        if (axes[i]) normalised.push_back(x.shape[i]);
    check_shape(call, "gamma", normalised);
    check_shape(call, "beta", normalised);
    return {x};
}

Types channel_norm(const Call &call) {
    const Type &x = call.type("x");
    if (x.shape.size() < 3) call.wrong("x", "x of " + call.op.type + " of rank 3 to 5", described(x));
    for (const char *argument : {"mean", "variance", "gamma", "beta"}) check_shape(call, argument, {x.shape[1]});
    return {x};
}

Types topk(const Call &call) {
    const Type &x = call.type("x");
    const size_t axis = call.axis("axis", x.shape.size(), -1);
    const int32_t asked = call.integer("k", 1), k = asked == -1 ? x.shape[axis] : asked;
    if (k < 1 || k > x.shape[axis])
        call.wrong("k", "k between 1 and " + std::to_string(x.shape[axis]), std::to_string(asked));
    Type values = x;
    values.shape[axis] = k;
    const std::string dtype = call.text("output_indices_dtype", "int32");
    const DType index = dtype == "int16" ? DType::int16 : dtype == "uint16" ? DType::uint16 : DType::int32;
    if (dtype != spelling(index)) call.wrong("output_indices_dtype", "int32, int16 or uint16", quoted(dtype));
    if (!call.flag("return_indices", true)) return {values};
    return {values, {index, values.shape}};
}

} // namespace anefast::mil::rules
