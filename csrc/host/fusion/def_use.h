// Who makes and who reads each value of a function: what fusions are found by.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../../mil/program.h"

namespace anefast::host {

class DefUse {
  public:
    explicit DefUse(const mil::Function &f);
    const mil::Function &f;

    // The operation that makes `value`, if it is of `type`; else null.
    const mil::Operation *maker(int32_t value, const char *type) const;
    int32_t made_by(int32_t value) const { return made_by_[value]; } // -1: an input or a constant
    const std::vector<size_t> &readers(int32_t value) const { return readers_[value]; }
    bool is_output(int32_t value) const { return is_output_[value]; }
    size_t index(const mil::Operation *op) const { return static_cast<size_t>(op - f.operations.data()); }
    bool is_made_by(const std::vector<size_t> &operations, int32_t value) const;
    // body(value) for each operand of an operation, in the order of its arguments.
    template <class F> void operands(size_t operation, F &&body) const {
        for (const mil::Argument &a : f.operations[operation].arguments)
            for (int32_t v : a.values) body(v);
    }
    // Whether anybody but `inside` wants the value.
    bool wanted_outside(int32_t value, const std::vector<size_t> &inside) const;
    // A constant's only number.
    bool scalar(int32_t value, double *number) const;

  private:
    std::vector<int32_t> made_by_;
    std::vector<std::vector<size_t>> readers_;
    std::vector<bool> is_output_;
};

} // namespace anefast::host
