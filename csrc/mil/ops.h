// What the checker knows of operations: one record per op, and type rules that families of them share (rules_*.cpp).
// An op that the host executor runs has its record beside its kernel (host/ops), which adds it to the table here while
// the library is loaded; ops.cpp has the rest of MIL. Nothing here knows a kernel.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lex.h"
#include "program.h"

namespace anefast::mil {

// Sets of dtypes, one bit each.
using DTypes = uint32_t;
constexpr DTypes only(DType dtype) { return DTypes{1} << static_cast<unsigned>(dtype); }

// How an argument is read. T arguments all share one dtype, drawn from the record's set.
enum class Role : uint8_t {
    tensor,  // T, any shape
    scalar,  // T, rank 0, constant; from ios17 on either floating dtype will do (epsilon, alpha)
    tuple,   // one or more T values in parentheses
    indices, // an integer tensor
    mask,    // bool, or T (attn_mask)
    logical, // a bool tensor
    narrow,  // int8 or uint8, any shape
    zero,    // int8, uint8 or fp32: a zero point
    ints,    // constant rank-1 integers
    integer, // constant int32 scalar
    flags,   // constant rank-1 bools
    flag,    // constant bool scalar
    text,    // constant string
};

struct Parameter {
    const char *name;
    Role role;
    bool optional = false;
    bool constant = false; // for tensor roles: MIL wants a constant, or the result of a constexpr_ op
};

// An operation whose arguments have been read and checked against its record.
struct Call {
    const Function &function;
    const Operation &op;
    const std::vector<Position> &positions; // of op.arguments, in their order
    int opset;                              // 16 for ios16

    bool has(std::string_view name) const { return op.find(name) != nullptr; }
    const Type &type(std::string_view name) const; // of a present argument
    Position at(std::string_view name) const;      // of the argument, or of the op
    size_t rank(std::string_view name) const { return type(name).shape.size(); }

    // Constant arguments. They fail where a weight file that was not given holds the answer.
    std::vector<int32_t> ints(std::string_view name, std::vector<int32_t> fallback = {}) const;
    int32_t integer(std::string_view name, int32_t fallback) const;
    double number(std::string_view name, double fallback) const;
    bool flag(std::string_view name, bool fallback) const;
    std::vector<bool> flags(std::string_view name, size_t n) const; // false n times where absent
    std::string text(std::string_view name, std::string fallback) const;

    // An axis of a tensor of that rank, made non-negative.
    size_t axis(std::string_view name, size_t rank, int32_t fallback) const;
    std::vector<bool> axes(std::string_view name, size_t rank) const; // absent: every axis

    [[noreturn]] void wrong(std::string_view argument, const std::string &expected, const std::string &got) const;

  private:
    void needs_data(std::string_view name) const;
};

using TypeRule = std::vector<Type> (*)(const Call &call); // the types of the results

struct OpRecord {
    const char *name;
    int since;       // the first opset that has it: 15 for ios15
    DTypes dtypes;   // what T may be
    DTypes dtypes17; // ... from ios17 on
    std::vector<Parameter> parameters;
    TypeRule rule;

    const Parameter *find(std::string_view parameter) const;
};

void add_op(const OpRecord &record);                 // while the library is loaded: before any text is read
const OpRecord *find_op(std::string_view name);      // nullptr where there is no record
std::string nearest_op(std::string_view name);       // for "did you mean"; "" where nothing is near
std::string parameter_names(const OpRecord &record); // "x, y, transpose_x"
std::string spelled(DTypes dtypes);                  // "fp16, fp32"

// Checks the arguments against the record and infers the results. `constexpr_results[id]` says
// which values come from constexpr_ ops: they count as constants. Throws Failure.
std::vector<Type> check_operation(const OpRecord &record, const Call &call, const std::vector<bool> &constexpr_results);

} // namespace anefast::mil
