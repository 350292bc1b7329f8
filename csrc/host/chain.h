// A chain: elementwise operations over one shape, and sums down one axis of it, as one pass in blocks that
// stay in the nearest cache. Every operation still rounds to fp16; what nobody else reads never leaves.
//
// chain_find.cpp says which operations go together, chain.cpp runs them: by themselves or, without a sum, part by part
// as a product makes what they read. With a sum the pass is made twice
// for every block of columns: up to the sum, then with it; what lies between is computed twice.
#pragma once

#include <memory>
#include <set>
#include <vector>

#include "../cpu/halves.h"
#include "groups.h"
#include "ops.h"

namespace anefast::host {

enum class Kind : uint8_t { none, binary, looked_up, sum };

// What an operation is to a chain.
struct Member {
    Kind kind = Kind::none;
    Binary binary = Binary::add;
    std::shared_ptr<const Halves> values;
    int32_t axis = -1;   // of a sum
    bool mean = false;
    int level = 0;       // 0: before any sum, 1: of one row, 2: with a sum's result
};

// Part of another tensor: element 0 and the strides of each axis, in elements.
struct Strided {
    int32_t value = -1;
    int64_t offset = 0;
    std::vector<int64_t> strides;
};

// The product whose result a chain reads, with what it is called under other shapes on the way.
struct Source {
    size_t product = 0;
    std::set<size_t> reshapes;
    std::set<int32_t> values;
};

struct Chain {
    std::vector<int32_t> shape; // that all full-sized results have
    int32_t axis = -1;          // which sums run down
    std::vector<size_t> operations; // that compute, ascending
    std::vector<size_t> moved;      // slices and concats that come down to strides
};

std::vector<int64_t> strides_in_elements(const std::vector<int32_t> &shape);
// Axes of a shape that are longer than 1; a chain's blocks are columns of the last and rows of the one before.
std::vector<size_t> long_axes(const std::vector<int32_t> &shape);

Member member_of(const Flow &flow, const mil::Operation &op);
// Sets the level of each member. False where a sum would need another sum first.
bool set_levels(const Flow &flow, const Chain &chain, std::vector<Member> &members);

// The group that runs a chain, behind the product that makes what it reads or, without a source, by itself; one
// without operations where the chain is too long for its memory, or does not go through the product row by row.
Group chain_group(const Flow &flow, const Chain &chain, const std::vector<Member> &members, const Source *source = nullptr);
void find_chains(const Flow &flow, Claimed &claimed, std::vector<Group> &groups);

} // namespace anefast::host
