// The AMX instructions that amx.cpp uses, eight tiles of 16 rows of 64 bytes.
//
// Written as bytes: assemblers and compilers learnt these names at different times (TDPFP16PS with
// gcc 13), and a build must not depend on that. Encodings are those of Intel's instruction set
// reference; tests/test_isa.py disassembles them, and runs amx.cpp over a header that does in plain C++
// what these do.
#pragma once

#include <cstdint>

namespace anefast {
namespace tiles {

// VEX.128 map 0F38, W0; the third byte carries the prefix and, inverted, a register.
constexpr int NONE = 0x78, F3 = 0x7a, F2 = 0x7b;

inline void enter() { // every tile 16 rows of 64 bytes
    alignas(64) uint8_t shape[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
        shape[16 + 2 * tile] = 64;
        shape[48 + tile] = 16;
    }
    __asm__ volatile(".byte 0xc4, 0xe2, %c1, 0x49, 0x00" ::"a"(shape), "i"(NONE) : "memory"); // ldtilecfg
}

inline void leave() { __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x49, 0xc0" ::"i"(NONE) : "memory"); } // tilerelease

template <int T> inline void zero() {
    __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x49, %c1" ::"i"(F2), "i"(0xc0 | T << 3));
}

// Rows are `stride` bytes apart.
template <int T> inline void load(const void *at, int64_t stride) {
    __asm__ volatile(".byte 0xc4, 0xe2, %c2, 0x4b, %c3, 0x08" ::"a"(at), "c"(stride), "i"(F2), "i"(T << 3 | 4)
                     : "memory");
}

template <int T> inline void store(void *at, int64_t stride) {
    __asm__ volatile(".byte 0xc4, 0xe2, %c2, 0x4b, %c3, 0x08" ::"a"(at), "c"(stride), "i"(F3), "i"(T << 3 | 4)
                     : "memory");
}

// C += A B: A has 16 rows of 32 k, B has 16 rows of pairs of k for 16 columns.
template <int C, int A, int B> inline void multiply_fp16() {
    __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"((15 - B) << 3 | 3), "i"(0xc0 | C << 3 | A));
}
template <int C, int A, int B> inline void multiply_bf16() {
    __asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"((15 - B) << 3 | 2), "i"(0xc0 | C << 3 | A));
}

} // namespace tiles
} // namespace anefast
