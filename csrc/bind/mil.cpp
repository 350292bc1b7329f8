// check(): the parser and the type checker without weights and without a device. outline(): the
// same text read tolerantly, with the place of every part, for tools. scratch_bytes(): the host's plan.
#include "bind.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../half.h"
#include "../host/memory_plan.h"
#include "../mil/outline.h"
#include "../mil/parse.h"

namespace anefast::bind {

namespace {

py::tuple typed(const mil::Function &f, int32_t id) {
    const mil::Value &v = f.values[id];
    py::tuple shape(v.type.shape.size());
    for (size_t i = 0; i < v.type.shape.size(); i++) shape[i] = v.type.shape[i];
    return py::make_tuple(v.name, mil::spelling(v.type.dtype), shape);
}

py::list typed(const mil::Function &f, const std::vector<int32_t> &ids) {
    py::list all;
    for (int32_t id : ids) all.append(typed(f, id));
    return all;
}

py::dict check(const std::string &text) {
    mil::Program program;
    mil::Error error;
    bool ok;
    {
        WithoutGil free;
        ok = mil::parse(text, {}, true, &program, &error);
    }
    if (!ok) raise_mil(error.where.line, error.where.column, error.message);
    py::list functions;
    for (const mil::Function &f : program.functions) {
        py::list operations;
        for (const mil::Operation &op : f.operations) operations.append(py::make_tuple(op.type, typed(f, op.results)));
        py::dict d;
        d["name"] = f.name;
        d["opset"] = f.opset;
        d["inputs"] = typed(f, f.inputs);
        d["outputs"] = typed(f, f.outputs);
        d["operations"] = operations;
        functions.append(d);
    }
    py::dict result;
    result["version"] = program.version;
    result["functions"] = functions;
    return result;
}

// ---- outline ----

constexpr size_t MAX_SHOWN = 64; // elements of a constant that are handed over one by one

py::tuple span(mil::Span s) { return py::make_tuple(s.begin, s.end); }

double element(const mil::Value &v, size_t i) {
    const auto as = [&](auto x) {
        std::memcpy(&x, v.data + i * sizeof x, sizeof x);
        return static_cast<double>(x);
    };
    switch (v.type.dtype) {
    case mil::DType::fp16: {
        uint16_t h;
        std::memcpy(&h, v.data + i * 2, 2);
        return static_cast<double>(half_to_float(h));
    }
    case mil::DType::fp32: return as(float{});
    case mil::DType::fp64: return as(double{});
    case mil::DType::int8: return as(int8_t{});
    case mil::DType::uint8:
    case mil::DType::boolean: return as(uint8_t{});
    case mil::DType::int16: return as(int16_t{});
    case mil::DType::uint16: return as(uint16_t{});
    case mil::DType::int32: return as(int32_t{});
    case mil::DType::uint32: return as(uint32_t{});
    case mil::DType::int64: return as(int64_t{});
    case mil::DType::uint64: return as(uint64_t{});
    case mil::DType::string: break;
    }
    return 0;
}

// The elements of a constant, or None where they are in a file or too many.
py::object values_of(const mil::Value &v) {
    if (!v.strings.empty() && v.type.shape.empty()) return decoded(v.strings[0]);
    if (!v.strings.empty()) {
        py::list all;
        for (size_t i = 0; i < std::min(v.strings.size(), MAX_SHOWN); i++) all.append(decoded(v.strings[i]));
        return all;
    }
    const size_t n = v.type.elements();
    if (!v.data || n > MAX_SHOWN) return py::none();
    const auto one = [&](size_t i) -> py::object {
        const double x = element(v, i);
        const mil::DType t = v.type.dtype;
        if (t == mil::DType::boolean) return py::bool_(x != 0);
        if (t == mil::DType::fp16 || t == mil::DType::fp32 || t == mil::DType::fp64) return py::float_(x);
        if (t == mil::DType::uint64) {
            uint64_t whole;
            std::memcpy(&whole, v.data + i * 8, 8);
            return py::int_(whole);
        }
        if (t == mil::DType::int64) {
            int64_t whole;
            std::memcpy(&whole, v.data + i * 8, 8);
            return py::int_(whole);
        }
        return py::int_(static_cast<long long>(x));
    };
    if (v.type.shape.empty()) return one(0);
    py::list all;
    for (size_t i = 0; i < n; i++) all.append(one(i));
    return all;
}

// (smallest, largest, least magnitude other than 0) of a constant written in the text.
py::object range_of(const mil::Value &v) {
    if (!v.data || !v.type.elements()) return py::none();
    double low = INFINITY, high = -INFINITY, least = INFINITY;
    for (size_t i = 0, n = v.type.elements(); i < n; i++) {
        const double x = element(v, i);
        low = std::fmin(low, x);
        high = std::fmax(high, x);
        if (x != 0) least = std::fmin(least, std::fabs(x));
    }
    return py::make_tuple(low, high, least);
}

py::dict value_of(const mil::Value &v, const mil::ValueMark &mark, const mil::FunctionMark &f) {
    py::dict d;
    d["name"] = v.name;
    d["dtype"] = mil::spelling(v.type.dtype);
    d["shape"] = py::tuple(py::cast(v.type.shape));
    d["at"] = py::make_tuple(v.where.line, v.where.column);
    d["span"] = span(mark.whole);
    d["const"] = v.is_const;
    d["value"] = values_of(v);
    d["range"] = range_of(v);
    d["blob"] = py::none();
    if (mark.blob >= 0) {
        const mil::BlobMark &b = f.blobs[static_cast<size_t>(mark.blob)];
        d["blob"] = py::make_tuple(decoded(b.path), b.offset, py::make_tuple(b.where.line, b.where.column),
                                   span(b.offset_literal));
    }
    return d;
}

py::dict operation_of(const mil::Operation &op, const mil::OperationMark &mark) {
    py::dict d, arguments;
    for (size_t i = 0; i < op.arguments.size(); i++) {
        const mil::ArgumentMark &a = mark.arguments[i];
        arguments[py::str(op.arguments[i].name)] =
            py::make_tuple(op.arguments[i].values, py::make_tuple(a.where.line, a.where.column), span(a.whole),
                           span(a.value), a.bracketed);
    }
    d["op"] = op.type;
    d["at"] = py::make_tuple(op.where.line, op.where.column);
    d["span"] = span(mark.whole);
    d["close"] = span(mark.close);
    d["results"] = op.results;
    d["arguments"] = arguments;
    d["labelled"] = mark.labelled;
    d["known"] = mark.known;
    return d;
}

py::dict outline(const py::bytes &text) {
    mil::Outline out;
    const std::string_view bytes = text;
    {
        WithoutGil free;
        out = mil::outline(bytes);
    }
    py::list problems, comments, functions;
    for (const mil::Failure &p : out.notes.problems)
        problems.append(py::make_tuple(mil::spelling(p.fault), p.where.line, p.where.column, p.message));
    for (const mil::Span &c : out.notes.comments) comments.append(span(c));
    for (size_t i = 0; i < out.functions.size(); i++) {
        const mil::Function &f = out.program.functions[i];
        const mil::FunctionMark &mark = out.functions[i];
        py::list values, operations, outputs;
        for (size_t j = 0; j < f.values.size(); j++) values.append(value_of(f.values[j], mark.values[j], mark));
        for (size_t j = 0; j < f.operations.size(); j++)
            operations.append(operation_of(f.operations[j], mark.operations[j]));
        for (size_t j = 0; j < f.outputs.size(); j++) {
            const auto &[where, place] = mark.outputs[j];
            outputs.append(py::make_tuple(f.outputs[j], py::make_tuple(where.line, where.column), span(place)));
        }
        py::dict d;
        d["name"] = f.name;
        d["opset"] = f.opset;
        d["at"] = py::make_tuple(mark.where.line, mark.where.column);
        d["opset_span"] = span(mark.opset);
        d["parameters_span"] = span(mark.parameters);
        d["results_span"] = span(mark.results);
        d["values"] = values;
        d["operations"] = operations;
        d["inputs"] = f.inputs;
        d["outputs"] = outputs;
        functions.append(d);
    }
    py::dict result;
    result["version"] = out.program.version;
    result["version_span"] = span(out.version);
    result["attributes_span"] = span(out.attributes);
    result["complete"] = out.complete;
    result["problems"] = problems;
    result["comments"] = comments;
    result["functions"] = functions;
    return result;
}

size_t scratch_bytes(const std::string &text) {
    mil::Program program;
    mil::Error error;
    WithoutGil free;
    bool ok = mil::parse(text, {}, true, &program, &error) && !program.functions.empty();
    size_t bytes = 0;
    if (ok) {
        try {
            bytes = host::scratch_bytes(program.functions.front());
        } catch (const host::Refusal &refused) {
            ok = false;
            error = {refused.where, refused.message};
        }
    }
    py::gil_scoped_acquire held;
    if (!ok) raise_mil(error.where.line, error.where.column, error.message);
    return bytes;
}

} // namespace

void init_mil(py::module_ &m) {
    m.def("check", &check, py::arg("text"),
          "Parses and type-checks MIL text without weights; returns its signature and operations.");
    m.def("outline", &outline, py::arg("text"),
          "Reads MIL text tolerantly: every fault, and every value and operation with its place.");
    m.def("scratch_bytes", &scratch_bytes, py::arg("text"),
          "Bytes the host executor holds for intermediate values of a program, beside its weights and surfaces.");
}

} // namespace anefast::bind
