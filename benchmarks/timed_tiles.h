// Stands in for csrc/cpu/gemm/amx_tiles.h: tiles that cost what they cost and compute nothing (model_amx.py). Loads
// read their rows, stores write zeros, and a multiplication keeps its unit for MULTIPLY_WAITS dependent scalar ones, so
// that the processor overlaps it with everything but other multiplications, as it does with a tile's.
#pragma once

#include <cstdint>

#pragma GCC push_options
#pragma GCC target("avx512f")

namespace anefast {
namespace tiles {

inline void enter() {}
inline void leave() {}
template <int T> inline void zero() {}

template <int T> inline void load(const void *at, int64_t stride) {
    for (int64_t row = 0; row < 16; ++row)
        __asm__ volatile("vmovups (%0), %%zmm30" ::"r"(static_cast<const char *>(at) + row * stride)
                         : "memory", "xmm30");
}

template <int T> inline void store(void *at, int64_t stride) {
    for (int64_t row = 0; row < 16; ++row)
        __asm__ volatile(
            "vpxord %%zmm30, %%zmm30, %%zmm30\n\tvmovups %%zmm30, (%0)" ::"r"(static_cast<char *>(at) + row * stride)
            : "memory", "xmm30");
}

inline void multiply() { // nothing else is kept in xmm31, so each waits on the one before
    __asm__ volatile(".rept %c0\n\tvmulss %%xmm31, %%xmm31, %%xmm31\n\t.endr" ::"i"(MULTIPLY_WAITS) : "xmm31");
}
template <int C, int A, int B> inline void multiply_fp16() { multiply(); }
template <int C, int A, int B> inline void multiply_bf16() { multiply(); }

} // namespace tiles
} // namespace anefast

#pragma GCC pop_options
