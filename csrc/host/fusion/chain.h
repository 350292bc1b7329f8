// A chain: elementwise operations over one shape, and reductions (sum, mean, maximum) down one axis of it, as one
// pass in blocks that stay in the nearest cache. Every operation still rounds to fp16; what nobody else reads never
// leaves.
//
// A reduction ends a stage: every block of columns is walked up to it, then again with its result. What a later stage
// needs of an earlier one, and is not in memory, is computed again. Read find_chains.cpp (which operations go
// together), attach.cpp (which chain goes with a product), build.cpp, block_program.cpp (from a chain to its kernel),
// block_kernel.cpp.
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "../../cpu/halves.h"
#include "fusion.h"
#include "../ops/registry.h"

namespace anefast::host {

enum class Kind : uint8_t { none, binary, looked_up, magnitude, sum, largest };

// What an operation is to a chain.
struct Member {
    Kind kind = Kind::none;
    Binary binary = Binary::add;
    std::shared_ptr<const Halves> values;
    int32_t axis = -1; // of a reduction
    bool mean = false;
    int level = 0; // 2 s: full-sized, of stage s; 2 s + 1: of one row, made once stage s has been walked

    bool reduces() const { return kind == Kind::sum || kind == Kind::largest; }
    int stage() const { return level / 2; }
    bool is_row() const { return level % 2 == 1; }
};

// Stages of a chain: each is another walk over its block, and more values that are computed again.
constexpr int STAGES = 3;

// Part of another tensor: element 0 and the strides of each axis, in elements.
struct Strided {
    int32_t value = -1;
    int64_t offset = 0;
    std::vector<int64_t> strides;
};

struct Chain {
    std::vector<int32_t> shape;     // that all full-sized results have
    int32_t axis = -1;              // which reductions run down
    std::vector<size_t> operations; // that compute, ascending
    std::vector<size_t> moved;      // slices and concats that come down to strides
};

std::vector<int64_t> strides_in_elements(const std::vector<int32_t> &shape);
// Axes of a shape that are longer than 1; a chain's blocks are columns of the last and rows of the one before.
std::vector<size_t> long_axes(const std::vector<int32_t> &shape);

Member member_of(const DefUse &uses, const mil::Operation &op);
// Sets the level of each member. False where that would take more than STAGES.
bool set_levels(const DefUse &uses, const Chain &chain, std::vector<Member> &members);

// How a chain goes with a product, as its prologue or its epilogue.
struct Link {
    const Chain *chain = nullptr; // or none
    std::set<int32_t> values;     // what the product reads or makes, under all shapes that it has on the way
    std::set<size_t> reshapes;
};

// The fusion that runs a chain. Without operations where the chain is too long for its memory.
Fusion chain_fusion(const DefUse &uses, const Chain &chain, const std::vector<Member> &members);
// A product (ops/registry.h, Parts) with a prologue, the chain that makes its right operand, some columns at a time,
// and an epilogue, a chain without reductions that goes through its result, row by row; either may be none. Without
// operations where that cannot be.
Fusion product_fusion(const DefUse &uses, size_t product, const Link &prologue, const Link &epilogue,
                      const std::vector<Member> &members);
// Makes fusions of chains, with products or without.
void link_chains(const DefUse &uses, const std::vector<Chain> &chains, const std::vector<Member> &members,
                 Claimed &claimed, std::vector<Fusion> &fusions);
void find_chains(const DefUse &uses, Claimed &claimed, std::vector<Fusion> &fusions);

} // namespace anefast::host
