// What a typed program knows about itself: sizes, spellings, constant arguments by name.
#include "program.h"

#include <cstring>

#include "../half.h"

namespace anefast::mil {

size_t bytes_of(DType dtype) {
    switch (dtype) {
    case DType::int8:
    case DType::uint8:
    case DType::boolean: return 1;
    case DType::fp16:
    case DType::int16:
    case DType::uint16: return 2;
    case DType::fp32:
    case DType::int32:
    case DType::uint32: return 4;
    case DType::fp64:
    case DType::int64:
    case DType::uint64: return 8;
    case DType::string: return 0;
    }
    return 0;
}

const char *spelling(DType dtype) {
    switch (dtype) {
    case DType::fp16: return "fp16";
    case DType::fp32: return "fp32";
    case DType::fp64: return "fp64";
    case DType::int8: return "int8";
    case DType::uint8: return "uint8";
    case DType::int16: return "int16";
    case DType::uint16: return "uint16";
    case DType::int32: return "int32";
    case DType::uint32: return "uint32";
    case DType::int64: return "int64";
    case DType::uint64: return "uint64";
    case DType::boolean: return "bool";
    case DType::string: return "string";
    }
    return "?";
}

size_t Type::elements() const {
    size_t n = 1;
    for (int32_t d : shape) n *= static_cast<size_t>(d); // the parser bounds the product
    return n;
}

const Argument *Operation::find(std::string_view wanted) const {
    for (const Argument &argument : arguments)
        if (argument.name == wanted) return &argument;
    return nullptr;
}

namespace {

template <class T> T load(const uint8_t *data, size_t i) {
    T value;
    std::memcpy(&value, data + i * sizeof value, sizeof value);
    return value;
}

double element(const Value &value, size_t i) {
    switch (value.type.dtype) {
    case DType::fp16: return static_cast<double>(half_to_float(load<uint16_t>(value.data, i)));
    case DType::fp32: return static_cast<double>(load<float>(value.data, i));
    case DType::fp64: return load<double>(value.data, i);
    case DType::int8: return load<int8_t>(value.data, i);
    case DType::uint8:
    case DType::boolean: return load<uint8_t>(value.data, i);
    case DType::int16: return load<int16_t>(value.data, i);
    case DType::uint16: return load<uint16_t>(value.data, i);
    case DType::int32: return load<int32_t>(value.data, i);
    case DType::uint32: return load<uint32_t>(value.data, i);
    case DType::int64: return static_cast<double>(load<int64_t>(value.data, i));
    case DType::uint64: return static_cast<double>(load<uint64_t>(value.data, i));
    case DType::string: break;
    }
    return 0;
}

} // namespace

int32_t Function::operand(const Operation &op, std::string_view name) const {
    const Argument *argument = op.find(name);
    return argument && !argument->values.empty() ? argument->values[0] : -1;
}

std::vector<int32_t> Function::ints(const Operation &op, std::string_view name, std::vector<int32_t> fallback) const {
    const int32_t id = operand(op, name);
    if (id < 0 || !values[id].data) return fallback;
    std::vector<int32_t> out(values[id].type.elements());
    for (size_t i = 0; i < out.size(); i++) out[i] = static_cast<int32_t>(element(values[id], i));
    return out;
}

int32_t Function::integer(const Operation &op, std::string_view name, int32_t fallback) const {
    const int32_t id = operand(op, name);
    return id < 0 || !values[id].data ? fallback : static_cast<int32_t>(element(values[id], 0));
}

bool Function::flag(const Operation &op, std::string_view name, bool fallback) const {
    const int32_t id = operand(op, name);
    return id < 0 || !values[id].data ? fallback : element(values[id], 0) != 0;
}

double Function::number(const Operation &op, std::string_view name, double fallback) const {
    const int32_t id = operand(op, name);
    return id < 0 || !values[id].data ? fallback : element(values[id], 0);
}

std::string Function::text(const Operation &op, std::string_view name, std::string fallback) const {
    const int32_t id = operand(op, name);
    return id < 0 || values[id].strings.empty() ? fallback : values[id].strings[0];
}

} // namespace anefast::mil
