// check(): the parser and the type checker without weights and without a device.
#include "bind.h"

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
        py::gil_scoped_release free;
        ok = mil::parse(text, {}, true, &program, &error);
    }
    if (!ok) raise_mil(error.where.line, error.where.column, error.message);
    py::list functions;
    for (const mil::Function &f : program.functions) {
        py::list operations;
        for (const mil::Operation &op : f.operations)
            operations.append(py::make_tuple(op.type, typed(f, op.results)));
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

} // namespace

void init_mil(py::module_ &m) {
    m.def("check", &check, py::arg("text"),
          "Parses and type-checks MIL text without weights; returns its signature and operations.");
}

} // namespace anefast::bind
