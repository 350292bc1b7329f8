// Groups: operations that run as one kernel, which rounds wherever the single operations would.
//
// They are found by what flows where, never by name, between parsing and planning (memory_plan.h). What a group
// computes for itself alone gets no memory in the arena. A group changes no bit of any result: with
// groups=off every operation runs by itself, and that is the reference the groups are tested against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../memory_plan.h"

namespace anefast::host {

struct Group {
    std::string name;                       // what it runs as: "attention", "chain", or the type of its product
    std::vector<size_t> prologue, epilogue; // of a product: what is computed just before and just behind it
    std::vector<size_t> operations;         // their places in the function, ascending
    std::vector<int32_t> reads, writes;     // values of others and constants, and values others will read
    size_t workspace_bytes = 0;             // scratch in the arena while it runs
    std::function<Step(const Plan &, Ref workspace)> build;
};

// Who makes and who reads each value of a function.
class Flow {
  public:
    explicit Flow(const mil::Function &f);
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

// Operations already claimed by a group are passed over.
using Claimed = std::vector<bool>;
// Backward first: it computes probabilities again, so that its operations (`rereads`) do not read them.
void find_attention_backward(const Flow &flow, Claimed &claimed, std::vector<bool> &rereads,
                             std::vector<Group> &groups);
void find_attention(const Flow &flow, const std::vector<bool> &rereads, Claimed &claimed, std::vector<Group> &groups);
void find_cached_attention(const Flow &flow, Claimed &claimed, std::vector<Group> &groups);

// All groups of a function, each of which can run as if it were one operation.
std::vector<Group> find_groups(const mil::Function &f);

// What a function runs, in order: a line a task, with the bytes that it writes. tasks.cpp.
std::string tasks_of(const mil::Function &f, const Plan &plan, const std::vector<Group> &groups);

// Whether no group would have to wait for itself.
bool can_be_ordered(const mil::Function &f, const std::vector<Group> &groups);
// What runs, in an order in which every value is there before it is read; the function's own order
// where groups leave a choice.
std::vector<Task> schedule(const mil::Function &f, const std::vector<Group> &groups);

// Scratch of a kernel whose threads each need their own: `lanes` pieces, whatever the pool's size is later.
class Lanes {
  public:
    explicit Lanes(size_t bytes_each);
    size_t bytes() const { return count_ * each_; }
    // body(i, scratch) for i in 0..turns-1, in parallel; bodies with the same scratch follow each other.
    void run(uint8_t *workspace, int64_t turns, const std::function<void(int64_t, uint8_t *)> &body) const;

  private:
    size_t count_, each_;
};

} // namespace anefast::host
