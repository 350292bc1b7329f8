// See ports.h.
#include "ports.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../mil/parse.h"
#include "../mil/seam.h"
#include "../round.h"

namespace {

using anefast::mil::fail;
using anefast::mil::Function;
using anefast::mil::Value;

anefast_port port_of(const Value &value) {
    anefast_port port{};
    char *name = strdup(value.name.c_str());
    if (!name) throw std::bad_alloc();
    port.name = name;
    port.dtype = anefast::mil::spelling(value.type.dtype);
    port.rank = static_cast<int32_t>(value.type.shape.size());
    const size_t element = anefast::mil::bytes_of(value.type.dtype);
    const size_t width = port.rank ? static_cast<size_t>(value.type.shape.back()) : 1;
    size_t stride = anefast::round_up(width * element, size_t{ANEFAST_ROW_BYTES});
    for (int32_t i = port.rank - 1; i >= 0; i--) {
        port.shape[i] = value.type.shape[static_cast<size_t>(i)];
        port.strides[i] = i == port.rank - 1 ? element : stride;
        if (i < port.rank - 1) stride *= static_cast<size_t>(port.shape[i]);
    }
    port.bytes = stride; // the whole, after the last axis was multiplied in
    return port;
}

void side_of(const Function &f, const std::vector<int32_t> &ids, anefast_port **ports, size_t *n) {
    std::vector<const Value *> values;
    for (int32_t id : ids) values.push_back(&f.values[static_cast<size_t>(id)]);
    std::sort(values.begin(), values.end(), [](const Value *a, const Value *b) { return a->name < b->name; });
    *ports = static_cast<anefast_port *>(std::calloc(values.size() + 1, sizeof **ports));
    if (!*ports) throw std::bad_alloc();
    for (const Value *value : values) {
        (*ports)[*n] = port_of(*value);
        ++*n;
    }
}

} // namespace

anefast_status ane_ports_read(const char *text, size_t text_bytes, const anefast_blob *blobs, size_t n_blobs,
                              ane_ports *ports, anefast_error *error) {
    *ports = {};
    try {
        anefast::mil::Program program;
        anefast::mil::Error refused;
        if (!anefast::mil::parse({text, text_bytes}, anefast::mil::lent(blobs, n_blobs), false, &program, &refused))
            return fail(error, ANEFAST_MIL, refused.message, refused.where);
        if (program.functions.size() != 1)
            return fail(error, ANEFAST_COMPILE,
                        "[ane] expected a program of one function, got " + std::to_string(program.functions.size()) +
                            ". Hint: one program each.",
                        {});
        const Function &f = program.functions.front();
        side_of(f, f.inputs, &ports->inputs, &ports->n_inputs);
        side_of(f, f.outputs, &ports->outputs, &ports->n_outputs);
        return ANEFAST_OK;
    } catch (const std::bad_alloc &) {
        ane_ports_free(ports);
        return fail(error, ANEFAST_MEMORY, "[ane] out of memory while reading a program.", {});
    } catch (const std::exception &e) {
        ane_ports_free(ports);
        return fail(error, ANEFAST_COMPILE, std::string("[ane] unexpected: ") + e.what(), {});
    }
}

void ane_ports_free(ane_ports *ports) {
    for (anefast_port *side : {ports->inputs, ports->outputs}) {
        const size_t n = side == ports->inputs ? ports->n_inputs : ports->n_outputs;
        for (size_t i = 0; side && i < n; i++) std::free(const_cast<char *>(side[i].name));
        std::free(side);
    }
    *ports = {};
}
