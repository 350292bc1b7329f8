// A chain as it runs: what each operation reads and writes as rows of a block, and the blocks in order.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <vector>

#include "chain.h"

namespace anefast::host {

// Where an operand or a result of a block is.
struct Place {
    enum Where : uint8_t { memory, slot, row } where = memory; // row: of the whole block of columns
    Ref ref;
    int32_t value = -1;           // whose memory
    int64_t offset = 0;           // in elements
    std::vector<int64_t> strides; // of the dimensions walked, in elements
    int index = 0;                // of a slot or a row
};

struct Instruction {
    // The last five: into an accumulator, and out of it. greatest: the largest magnitude.
    enum Do : uint8_t {
        binary,
        lookup,
        magnitude,
        spread,
        copy,
        add,
        largest,
        greatest,
        finish,
        finish_largest
    } act = binary;
    int z = -1, a = -1, b = -1; // places
    Binary op = Binary::add;
    const uint16_t *values = nullptr;
    int sum = 0;      // which accumulator, of its kind
    double count = 1; // divides the sum
};

// One walk over a block of columns, then what is computed of its reductions: one row.
struct Stage {
    std::vector<Instruction> walk, rows;
};

class ChainKernel {
  public:
    static constexpr int64_t BLOCK_ELEMENTS = 1024, COLUMNS = 64; // COLUMNS where there are reductions: two cache lines
    static constexpr int SLOTS = 24, REDUCTIONS = 8, PLACES = 128;

    std::vector<int64_t> dims; // outer ones, rows, columns
    std::vector<Place> places;
    std::vector<Stage> stages;
    std::vector<std::shared_ptr<const Halves>> tables;
    bool reduces = false;

    int64_t outer() const { return std::accumulate(dims.begin(), dims.end() - 2, int64_t{1}, std::multiplies<>()); }
    int64_t rows() const { return dims[dims.size() - 2]; }
    int64_t columns() const { return dims.back(); }

    // All of it, in one parallel region.
    void run(const Frame &frame) const;
    // On this thread, some columns of `count` rows from `first_row` on, counted over all outer indices; with
    // reductions, of whole outer indices.
    void run_rows(const Frame &frame, int64_t first_row, int64_t count, int64_t column, int64_t columns) const;
    // How many rows of `values`, which are matrices of so many rows and columns, go with each of the chain's own, one
    // after the other. 0 where they do not.
    int64_t rows_each(const std::set<int32_t> &values, int64_t most, int64_t wide) const;

  private:
    struct Block {
        std::array<uint16_t *, PLACES> base; // of memory, at the block's column and the outer indices
        uint16_t slots[SLOTS][BLOCK_ELEMENTS];
        uint16_t lines[SLOTS][COLUMNS];
        double totals[REDUCTIONS][COLUMNS];
        int16_t most[REDUCTIONS][COLUMNS]; // as HalfKernels has them
    };

    int64_t width() const { return reduces ? COLUMNS : std::min(columns(), BLOCK_ELEMENTS); } // of a block
    Rows at(Block &block, int place, int64_t row, int64_t columns) const;
    void run_list(const std::vector<Instruction> &list, Block &block, int64_t row, int64_t n, int64_t columns) const;
    void set_base(const Frame &frame, Block &block, int64_t outer, int64_t column) const;
    // `count` rows of `columns` columns: with reductions, all there are.
    void run_columns(Block &block, int64_t row, int64_t count, int64_t columns) const;
    // Some rows of one outer index, by columns from `begin` to `end`.
    void run_part(const Frame &frame, Block &block, int64_t outer, int64_t row, int64_t count, int64_t begin,
                  int64_t end) const;
};

// A chain's kernel, but for the addresses; null where it is too long for a block. inside: the operations whose values
// need no memory for each other. in_rows: a row is not joined to the next, as what it reads comes by rows.
std::shared_ptr<const ChainKernel> make_kernel(const DefUse &uses, const Chain &chain,
                                               const std::vector<Member> &members, const std::vector<size_t> &inside,
                                               bool in_rows);

} // namespace anefast::host
