// Constant matrices once more, in blocks of rows (gemm_block_rows): what products of few columns read at the speed of
// the memory. Each is made when it is first asked for, and kept as long as its program.
#pragma once

#include <map>

#include "../cpu/gemm/gemm.h"
#include "pages.h"

namespace anefast::host {

class Blocks {
  public:
    // Of A, which stays where it is. Evaluations of one program take turns, so nobody else is here.
    const uint16_t *of(const Gemm &g) {
        Memory &kept = kept_[g.a.data];
        if (!kept.data) {
            Memory made = make_memory(gemm_blocked_size(g.m, g.k) * sizeof(uint16_t));
            gemm_block_rows(static_cast<const uint16_t *>(g.a.data), g.m, g.k,
                            reinterpret_cast<uint16_t *>(made.data.get()));
            kept = std::move(made);
        }
        return reinterpret_cast<const uint16_t *>(kept.data.get());
    }

  private:
    std::map<const void *, Memory> kept_;
};

} // namespace anefast::host
