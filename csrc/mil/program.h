// A MIL program after parsing and type checking: typed SSA, ready for an executor.
//
// What it is not: an AST. Names are resolved to value ids, every value has a static type, constants
// know their bytes. Produced by mil/parse.h, consumed by host/plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace anefast::mil {

enum class DType : uint8_t {
    fp16,
    fp32,
    fp64,
    int8,
    uint8,
    int16,
    uint16,
    int32,
    uint32,
    int64,
    uint64,
    boolean,
    string
};

size_t bytes_of(DType dtype);      // element size; 0 for string
const char *spelling(DType dtype); // "fp16", "bool", ...

struct Position {
    int32_t line = 0, column = 0; // 1-based
};

struct Type {
    DType dtype = DType::fp16;
    std::vector<int32_t> shape; // empty: a scalar
    bool operator==(const Type &other) const { return dtype == other.dtype && shape == other.shape; }
    size_t elements() const;
    size_t bytes() const { return elements() * bytes_of(dtype); }
};

struct Value {
    std::string name;
    Type type;
    Position where;
    bool is_const = false;
    // A constant's elements, row-major and packed, little endian. They live in `inline_bytes` of
    // this value or inside a weight file; null for anything but a const.
    const uint8_t *data = nullptr;
    std::shared_ptr<std::vector<uint8_t>> inline_bytes;
    bool turned = false; // the elements are those of the transpose: an executor has found that somewhere (host/shelf.h)
    std::vector<std::string> strings; // elements of a string constant
};

struct Argument {
    std::string name;            // "x", "values", "pad_type", ...
    std::vector<int32_t> values; // value ids; several only for a tuple argument such as concat's
};

struct Operation {
    std::string type;  // "conv", "matmul", ...; never "const"
    std::string label; // the op's name= attribute, for messages
    std::vector<Argument> arguments;
    std::vector<int32_t> results;
    Position where;

    const Argument *find(std::string_view name) const; // nullptr where the argument is absent
};

struct Function {
    std::string name, opset; // "main", "ios18"
    std::vector<Value> values;
    std::vector<int32_t> inputs, outputs; // value ids, in declaration order
    std::vector<Operation> operations;    // in execution order

    // Constant arguments by name; `fallback` where the argument is absent. The checker has already
    // made sure of their types.
    std::vector<int32_t> ints(const Operation &op, std::string_view name, std::vector<int32_t> fallback = {}) const;
    int32_t integer(const Operation &op, std::string_view name, int32_t fallback) const;
    bool flag(const Operation &op, std::string_view name, bool fallback) const;
    double number(const Operation &op, std::string_view name, double fallback) const;
    std::string text(const Operation &op, std::string_view name, std::string fallback) const;
    int32_t operand(const Operation &op, std::string_view name) const; // value id, -1 where absent
};

// A weight file, lent for as long as anybody looks at the constants in it.
struct Blob {
    std::string path; // the BLOBFILE string
    const uint8_t *data = nullptr;
    size_t bytes = 0;
};

struct Program {
    std::string version; // "1.3"
    std::vector<Function> functions;
};

} // namespace anefast::mil
