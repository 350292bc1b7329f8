// Fusions: operations that run as one kernel, which rounds wherever the single operations would.
//
// They are found by what flows where, never by name, between parsing and planning (memory_plan.h). What a fusion
// computes for itself alone gets no memory in the arena. A fusion changes no bit of any result: with
// groups=off every operation runs by itself, and that is the reference the fusions are tested against.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../memory_plan.h"
#include "def_use.h"

namespace anefast::host {

struct Fusion {
    std::string name;                       // what it runs as: "attention", "chain", or the type of its product
    std::vector<size_t> prologue, epilogue; // of a product: what is computed just before and just behind it
    std::vector<size_t> operations;         // their places in the function, ascending
    std::vector<int32_t> reads, writes;     // values of others and constants, and values others will read
    size_t workspace_bytes = 0;             // scratch in the arena while it runs
    std::function<Runnable(const MemoryPlan &, Ref workspace)> build;
};

// Operations already claimed by a fusion are passed over.
using Claimed = std::vector<bool>;
// Backward first: it computes probabilities again, so that its operations (`rereads`) do not read them.
void find_attention_backward(const DefUse &uses, Claimed &claimed, std::vector<bool> &rereads,
                             std::vector<Fusion> &fusions);
void find_attention(const DefUse &uses, const std::vector<bool> &rereads, Claimed &claimed,
                    std::vector<Fusion> &fusions);
void find_cached_attention(const DefUse &uses, Claimed &claimed, std::vector<Fusion> &fusions);

// All fusions of a function, each of which can run as if it were one operation.
std::vector<Fusion> find_fusions(const mil::Function &f);

// What a function runs, in order: a line a task, with the bytes that it writes. tasks.cpp.
std::string tasks_of(const mil::Function &f, const MemoryPlan &plan, const std::vector<Fusion> &fusions);

// Whether no fusion would have to wait for itself.
bool can_be_ordered(const mil::Function &f, const std::vector<Fusion> &fusions);
// What runs, in an order in which every value is there before it is read; the function's own order
// where fusions leave a choice.
std::vector<Task> schedule(const mil::Function &f, const std::vector<Fusion> &fusions);

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
