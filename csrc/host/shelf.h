// What the programs of a process need at the same time and need not each have: matrices that never change, and
// memory to compute in. Neither changes a bit of any result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "pages.h"

namespace anefast::host {

// A matrix of halves, row-major. Programs that hold the same one hold it together.
struct Matrix {
    const int64_t rows, columns;
    const uint64_t key; // by which the shelf finds it
    const Memory memory;
    Matrix(int64_t rows, int64_t columns, uint64_t key, Memory memory)
        : rows(rows), columns(columns), key(key), memory(std::move(memory)) {}
    ~Matrix();
};

// The matrix of these values: one that a program holds already, or a copy. Where `turned` is given, its transpose will
// do too, and *turned says whether it is that. Throws std::bad_alloc.
std::shared_ptr<const Matrix> shelved(const uint8_t *values, int64_t rows, int64_t columns, bool *turned);

// Memory for intermediate values, lent to one evaluation at a time. As many blocks exist as evaluations have run at
// once, each as large as the largest of a program that is there; so a hundred programs, run in turn, have one.
class Arena {
  public:
    explicit Arena(size_t bytes); // of a program that is there from now on
    ~Arena();
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;
    size_t bytes() const { return bytes_; }

    class Lent { // until it goes
      public:
        explicit Lent(const Arena &arena); // throws std::bad_alloc
        ~Lent();
        Lent(const Lent &) = delete;
        Lent &operator=(const Lent &) = delete;
        uint8_t *data() const { return memory_.data.get(); }

      private:
        Memory memory_;
    };

  private:
    size_t bytes_;
};

} // namespace anefast::host
