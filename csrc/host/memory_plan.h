// Where every value of a function lives while it runs. Decided once, at compile.
//
// Reshapes and contiguous slices cost nothing (they are views); the operands of a contiguous concat
// are computed in place inside its result; outputs are computed inside their surfaces and inputs read
// from theirs wherever packed rows and 64-byte rows agree; everything else shares one arena, reused
// by lifetime. It changes no bit of any result. Kernels are in the files beside this one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../anefast.h"
#include "../mil/program.h"

namespace anefast::host {

// An address known up to the base it counts from: 0 itself (constants), the arena, or a surface.
struct Ref {
    uint32_t base = 0;
    uintptr_t offset = 0;
    bool operator==(const Ref &o) const { return base == o.base && offset == o.offset; }
};
enum : uint32_t { ABSOLUTE = 0, ARENA = 1, SURFACES = 2 }; // inputs' surfaces, then outputs'

// What one evaluation adds: where the bases are.
struct Frame {
    const uintptr_t *bases;
    template <class T = uint8_t> T *at(Ref r) const { return reinterpret_cast<T *>(bases[r.base] + r.offset); }
};

using Runnable = std::function<void(const Frame &)>;

// Thrown while compiling: this executor cannot run that operation.
struct Refusal {
    mil::Position where;
    std::string message;
};

struct PortLayout {
    int32_t value;
    std::string name;
    const char *dtype;
    size_t rows, row_bytes, row_stride; // row_bytes packed; row_stride: of the whole, rounded up to 64
    anefast_port c;
    bool packed() const { return rows <= 1 || row_bytes == row_stride; }
};

// What is to run: one operation, or a fusion of them (fusion/fusion.h).
struct Task {
    size_t operation;    // its place in the function; of a fusion, its first operation's
    int32_t fusion = -1; // which fusion it is
};

struct MemoryPlan {
    std::vector<Task> tasks;                   // in the order they run
    std::vector<PortLayout> inputs, outputs;   // in ASCII order of name
    std::vector<Ref> where;                    // of each value
    std::vector<Ref> workspace;                // of each operation; a fusion's is its first operation's
    std::vector<bool> is_view;                 // of each operation: nothing to run
    std::vector<size_t> copied_in, copied_out; // ports whose rows are repacked through the arena
    size_t arena_bytes = 0;
    std::shared_ptr<class Blocks> blocks; // of constants, where products of few columns are to come; or none
};

// `workspace_bytes` says how much scratch memory an operation wants while it runs.
using WorkspaceBytes = std::function<size_t(const mil::Function &, const mil::Operation &)>;
struct Fusion;
// whole: where f is a part of another function (part.h), that one, whose surfaces it reads and writes.
MemoryPlan plan_memory(const mil::Function &f, const std::vector<Fusion> &fusions,
                       const WorkspaceBytes &workspace_bytes, const mil::Function *whole = nullptr);

// What a program's arena would come to, fusions included; throws Refusal. For planners: nothing is compiled,
// and constants need no data.
size_t scratch_bytes(mil::Function &f);

// Both sides of a slice, for slice_by_size and slice_by_index alike.
struct Slice {
    std::vector<int64_t> begin, stride, size; // of each axis of x; `size` before squeezing
};
Slice slice_of(const mil::Function &f, const mil::Operation &op);
// The lengths split() cuts its axis into.
std::vector<int64_t> split_sizes(const mil::Function &f, const mil::Operation &op);

} // namespace anefast::host
