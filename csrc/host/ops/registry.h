// One kernel per operation: how what runs is built, and how much scratch memory it wants.
//
// A Runnable is built once, at compile, with every shape known; it captures what it needs and is then run
// with a Frame, which says where memory is today.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unordered_map>

#include "../../mil/declare.h"
#include "../memory_plan.h"

namespace anefast::host {

// A result that is made in parts: matrices of so many rows and columns, one after the other. No columns: it is not.
struct Parts {
    int64_t rows = 0, columns = 0;
    int32_t right =
        -1; // the operand that has a matrix of as many columns for each of those, one after the other; or none
    int64_t right_rows = 0;
};

// A product's prologue: makes columns of one of the right operand's matrices just before they are read.
using FusedPrologue = std::function<void(const Frame &, int64_t matrix, int64_t column, int64_t columns)>;

// A product's epilogue: runs on each part of the result as soon as it is there; rows are counted over all matrices.
struct FusedEpilogue {
    std::function<void(const Frame &, int64_t row, int64_t rows, int64_t column, int64_t columns)> run;
    int64_t unit = 1; // as an Epilogue's
};

// What a kernel's `build` sees: its operation, the types, and where the values will be.
class Builder {
  public:
    Builder(const mil::Function &f, const mil::Operation &op, const MemoryPlan &plan, size_t index)
        : f(f), op(op), plan(plan), index(index) {}
    bool fixed = false, away = false; // of a chip: Q15.16 products; elementwise results rounded half away from zero
    const mil::Function &f;
    const mil::Operation &op;
    const MemoryPlan &plan;
    const size_t index;
    FusedPrologue prologue; // of an operation whose result is made in parts, this and the next; or none
    FusedEpilogue epilogue;

    // The value id of a required operand.
    int32_t operand(const char *name) const;
    bool has(const char *name) const { return f.operand(op, name) >= 0; }
    const mil::Type &type(int32_t value) const { return f.values[value].type; }
    const mil::Type &type(const char *name) const { return type(operand(name)); }
    Ref at(int32_t value) const { return plan.where[value]; }
    Ref at(const char *name) const { return at(operand(name)); }
    int32_t result(size_t i = 0) const { return op.results[i]; }
    const mil::Type &result_type(size_t i = 0) const { return type(result(i)); }
    Ref workspace() const { return plan.workspace[index]; }
    // A constant one-element operand as a number. Refuses anything else.
    double constant(const char *name) const;
    // `axis` (or each of `axes`) counted from the front.
    size_t axis(size_t rank, int32_t fallback = 0) const;
    std::vector<bool> axes(size_t rank) const; // true where the axis is named; all where none is
    [[noreturn]] void refuse(const std::string &why) const;
};

using Halves = std::array<uint16_t, 65536>; // a function of fp16: its value for every bit pattern

struct OpKernel {
    Runnable (*build)(const Builder &b);
    size_t (*workspace)(const mil::Function &f, const mil::Operation &op) = nullptr;
    // All values of an operation on one fp16 tensor, where they are looked up; may give null.
    std::shared_ptr<const Halves> (*values)(const Builder &b) = nullptr;
    Parts (*parts)(const mil::Function &f, const mil::Operation &op) = nullptr;
};

namespace declare = mil::declare; // the words of records

// The operations this executor runs, by type.
class Table {
  public:
    // What MIL text may say of an operation, with its type rule, and how it runs: all that C++ knows of it.
    void add(const mil::OpRecord &record, OpKernel kernel);
    // One that no text can name.
    void add_hidden(const char *type, OpKernel kernel) { kernels_[type] = kernel; }
    const OpKernel *find(const std::string &type) const; // or null
    const OpKernel &at(const std::string &type) const { return kernels_.at(type); }

  private:
    std::unordered_map<std::string, OpKernel> kernels_;
};

const Table &table();

// Whether this operation multiplies by its constant weight as well where that lies turned (mil::Value::turned).
bool takes_turned(const mil::Function &f, const mil::Operation &op);

} // namespace anefast::host
