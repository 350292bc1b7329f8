// The table of operations, and the checks every one of them shares.
//
// Argument names, which are optional, which must be constant and which dtypes are taken follow
// coremltools 9.0 (iOS15 to iOS18 definitions), with two deliberate differences: shapes are static,
// so arguments that decide a shape must be constant; and tensors of one op share one dtype, although
// MIL from ios17 on would let weights differ: the ANE takes them only so. What an executor can run
// is its own affair: it declares those beside its kernels, and this table has the others. Rules are in rules_*.cpp.
#include "ops.h"

#include <algorithm>
#include <map>
#include <stdexcept>

#include "declare.h"

namespace anefast::mil {

namespace {

// Operations of MIL that no executor here runs. Those that one runs are declared beside their kernels (host/ops).
std::vector<OpRecord> records() {
    using namespace declare;
    return {
        unary("asin"),
        unary("acos"),
        unary("atanh"),
        unary_alpha("thresholded_relu"),
        unary_alpha_beta("sigmoid_hard"),
        unary_alpha_beta("scaled_tanh"),
        unary_alpha_beta("linear_activation"),
        unary_alpha_beta("clamped_relu"),
        argument_of("reduce_argmax"),
        argument_of("reduce_argmin"),
        {"cumsum",
         15,
         NUMBER,
         NUMBER,
         {in("x"), may("axis", Role::integer), may("exclusive", Role::flag), may("reverse", Role::flag)},
         rules::cumsum},
        {"topk",
         15,
         NUMBER,
         NUMBER | SMALL,
         {in("x"), may("k", Role::integer), may("axis", Role::integer), may("ascending", Role::flag),
          may("sort", Role::flag), may("return_indices", Role::flag), may("output_indices_dtype", Role::text)},
         rules::topk},
        {"band_part",
         15,
         PLAIN,
         PLAIN,
         {in("x"), may("lower", Role::integer), may("upper", Role::integer)},
         rules::same},
        {"batch_norm",
         15,
         FLOAT,
         FLOAT,
         {in("x"), weight("mean"), weight("variance"), may_weight("gamma"), may_weight("beta"),
          may("epsilon", Role::scalar)},
         rules::channel_norm},
        {"instance_norm",
         15,
         FLOAT,
         FLOAT,
         {in("x"), may_weight("gamma"), may_weight("beta"), may("epsilon", Role::scalar)},
         rules::channel_norm},
        {"stack", 15, ANY, ANY, {needs("values", Role::tuple), needs("axis", Role::integer)}, rules::stack},
        {"reverse", 15, PLAIN, PLAIN | SMALL, {in("x"), may("axes", Role::ints)}, rules::reverse},
        {"gather_along_axis",
         15,
         NUMBER,
         NUMBER | SMALL,
         {in("x"), needs("indices", Role::indices), may("axis", Role::integer), may("validate_indices", Role::flag)},
         rules::gather_along_axis},
        {"quantize",
         17,
         FLOAT,
         FLOAT,
         {in("input"), weight("scale"), may("zero_point", Role::narrow), may("axis", Role::integer),
          needs("output_dtype", Role::text)},
         rules::quantize},
        {"dequantize",
         17,
         FLOAT,
         FLOAT,
         {needs("input", Role::narrow), weight("scale"), may("zero_point", Role::narrow), may("axis", Role::integer)},
         rules::dequantize},
        {"constexpr_lut_to_dense",
         16,
         FLOAT | SMALL,
         FLOAT | SMALL,
         {{"indices", Role::narrow, false, true}, weight("lut"), needs("shape", Role::ints)},
         rules::lut_to_dense},
    };
}

std::map<std::string_view, OpRecord> &table() {
    static std::map<std::string_view, OpRecord> by_name = [] {
        std::map<std::string_view, OpRecord> map;
        for (OpRecord &record : records()) map.emplace(record.name, record);
        return map;
    }();
    return by_name;
}

size_t edits(std::string_view a, std::string_view b) { // Levenshtein distance
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) row[j] = j;
    for (size_t i = 1; i <= a.size(); i++) {
        size_t diagonal = row[0]++;
        for (size_t j = 1; j <= b.size(); j++) {
            const size_t here = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
            diagonal = row[j];
            row[j] = here;
        }
    }
    return row[b.size()];
}

using declare::BOOL;
using declare::FLOAT;
constexpr DTypes INTEGER = declare::SMALL | only(DType::int32);

DTypes allowed(Role role, DTypes t, int opset) { // `t`: the dtype T stands for, once known
    switch (role) {
    case Role::tensor:
    case Role::tuple: return t;
    case Role::scalar: return opset >= 17 && (t & FLOAT) ? FLOAT : t;
    case Role::indices:
        return opset >= 17   ? INTEGER
               : opset >= 16 ? only(DType::int32) | only(DType::int16) | only(DType::uint16)
                             : only(DType::int32);
    case Role::mask: return t | BOOL;
    case Role::logical:
    case Role::flag:
    case Role::flags: return BOOL;
    case Role::narrow: return only(DType::int8) | only(DType::uint8);
    case Role::zero: return only(DType::int8) | only(DType::uint8) | only(DType::fp32);
    case Role::ints: return INTEGER | only(DType::uint32);
    case Role::integer: return only(DType::int32);
    case Role::text: return only(DType::string);
    }
    return 0;
}

// The rank a role fixes, or -1.
int fixed_rank(Role role) {
    switch (role) {
    case Role::scalar:
    case Role::integer:
    case Role::flag:
    case Role::text: return 0;
    case Role::ints:
    case Role::flags: return 1;
    default: return -1;
    }
}

bool wants_constant(const Parameter &parameter) { return parameter.constant || fixed_rank(parameter.role) >= 0; }

} // namespace

const Parameter *OpRecord::find(std::string_view wanted) const {
    for (const Parameter &parameter : parameters)
        if (parameter.name == wanted) return &parameter;
    return nullptr;
}

void add_op(const OpRecord &record) {
    if (!table().emplace(record.name, record).second)
        throw std::logic_error(std::string("[mil] expected one record of ") + record.name + ", got two.");
}

const OpRecord *find_op(std::string_view name) {
    const auto entry = table().find(name);
    return entry == table().end() ? nullptr : &entry->second;
}

std::string nearest_op(std::string_view name) {
    if (name.size() > 64) return "";
    std::string best;
    size_t least = std::max<size_t>(2, name.size() / 2);
    for (const auto &[known, record] : table()) {
        const size_t apart = known.size() > name.size() ? known.size() - name.size() : name.size() - known.size();
        if (apart >= least) continue; // the distance is at least that
        const size_t distance = edits(name, known);
        if (distance < least) least = distance, best = known;
    }
    return best;
}

std::string parameter_names(const OpRecord &record) {
    std::string out;
    for (const Parameter &parameter : record.parameters) out += (out.empty() ? "" : ", ") + std::string(parameter.name);
    return out;
}

std::string spelled(DTypes dtypes) {
    std::string out;
    for (unsigned i = 0; i <= static_cast<unsigned>(DType::string); i++)
        if (dtypes & DTypes{1} << i) out += (out.empty() ? "" : ", ") + std::string(spelling(static_cast<DType>(i)));
    return out;
}

std::vector<Type> check_operation(const OpRecord &record, const Call &call,
                                  const std::vector<bool> &constexpr_results) {
    if (call.opset < record.since)
        fail(call.op.where, "opset ios" + std::to_string(record.since) + " or later for " + record.name,
             "ios" + std::to_string(call.opset), Fault::opset);

    DTypes t = call.opset >= 17 ? record.dtypes17 : record.dtypes;
    const char *t_from = nullptr; // the argument that settled T
    for (const Parameter &parameter : record.parameters) {
        const auto what = [&] { return quoted(parameter.name) + " of " + record.name; };
        const Argument *argument = call.op.find(parameter.name);
        if (!argument) {
            if (parameter.optional) continue;
            fail(call.op.where, "argument " + what(),
                 "only " + std::to_string(call.op.arguments.size()) + " without it");
        }
        for (const int32_t id : argument->values) {
            const Value &value = call.function.values[static_cast<size_t>(id)];
            if (wants_constant(parameter) && !value.is_const && !constexpr_results[static_cast<size_t>(id)])
                call.wrong(parameter.name, "a constant for " + what(),
                           value.name.empty() ? "a computed value" : "the computed value " + quoted(value.name));
            const DTypes wanted = allowed(parameter.role, t, call.opset);
            if (!(only(value.type.dtype) & wanted))
                call.wrong(parameter.name,
                           what() + " to be " + spelled(wanted) +
                               (t_from && parameter.role <= Role::tuple ? std::string(" like ") + quoted(t_from) : ""),
                           described(value.type));
            const int fixed = fixed_rank(parameter.role);
            if (fixed >= 0 && static_cast<int>(value.type.shape.size()) != fixed)
                call.wrong(parameter.name, what() + (fixed ? " to be a list" : " to be a scalar"),
                           described(value.type));
            if (!t_from && (parameter.role == Role::tensor || parameter.role == Role::tuple)) {
                t = only(value.type.dtype);
                t_from = parameter.name;
            }
        }
    }
    std::vector<Type> results = record.rule(call);
    for (const Type &type : results) check_limits(type, call.op.where);
    return results;
}

// ---- Call ----

const Type &Call::type(std::string_view name) const {
    return function.values[static_cast<size_t>(function.operand(op, name))].type;
}

Position Call::at(std::string_view name) const {
    for (size_t i = 0; i < op.arguments.size(); i++)
        if (op.arguments[i].name == name) return positions[i];
    return op.where;
}

void Call::wrong(std::string_view argument, const std::string &expected, const std::string &got) const {
    fail(at(argument), expected, got, Fault::type);
}

void Call::needs_data(std::string_view name) const {
    const int32_t id = function.operand(op, name);
    if (id < 0) return;
    const Value &value = function.values[static_cast<size_t>(id)];
    if (!value.data && value.strings.empty())
        fail(at(name), quoted(name) + " of " + op.type + " written in the text, or its weight file",
             "a BLOBFILE that was not given", Fault::data);
}

std::vector<int32_t> Call::ints(std::string_view name, std::vector<int32_t> fallback) const {
    needs_data(name);
    return function.ints(op, name, std::move(fallback));
}

int32_t Call::integer(std::string_view name, int32_t fallback) const {
    needs_data(name);
    return function.integer(op, name, fallback);
}

double Call::number(std::string_view name, double fallback) const {
    needs_data(name);
    return function.number(op, name, fallback);
}

bool Call::flag(std::string_view name, bool fallback) const {
    needs_data(name);
    return function.flag(op, name, fallback);
}

std::vector<bool> Call::flags(std::string_view name, size_t n) const {
    const std::vector<int32_t> raw = ints(name, std::vector<int32_t>(n, 0));
    if (raw.size() != n)
        wrong(name, std::to_string(n) + " flags in " + quoted(name) + " of " + op.type, std::to_string(raw.size()));
    return {raw.begin(), raw.end()};
}

std::string Call::text(std::string_view name, std::string fallback) const {
    return function.text(op, name, std::move(fallback));
}

size_t Call::axis(std::string_view name, size_t rank, int32_t fallback) const {
    const int64_t axis = integer(name, fallback), n = static_cast<int64_t>(rank);
    if (axis < -n || axis >= n)
        wrong(name, quoted(name) + " of " + op.type + " within rank " + std::to_string(rank), std::to_string(axis));
    return static_cast<size_t>(axis < 0 ? axis + n : axis);
}

std::vector<bool> Call::axes(std::string_view name, size_t rank) const {
    if (!has(name)) return std::vector<bool>(rank, true);
    std::vector<bool> chosen(rank, false);
    const int64_t n = static_cast<int64_t>(rank);
    for (const int64_t axis : ints(name)) {
        const size_t i = static_cast<size_t>(axis < 0 ? axis + n : axis);
        if (axis < -n || axis >= n || chosen[i])
            wrong(name, "distinct " + quoted(name) + " of " + op.type + " within rank " + std::to_string(rank),
                  std::to_string(axis));
        chosen[i] = true;
    }
    return chosen;
}

} // namespace anefast::mil
