// What the AMX instructions of csrc/cpu/gemm/amx_tiles.h do, in plain C++: so that everything around them
// runs on a processor without them. Meaning from Intel's instruction set reference: TDPFP16PS and
// TDPBF16PS sum the even and the odd k of a tile apart, with fused multiply-adds, then add the two
// to each other and to C; fp32 subnormals are taken and given as 0, fp16 ones are not.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "half.h"

namespace anefast {
namespace tiles {

struct State {
    uint8_t tile[8][16][64];
    bool configured = false;
};
inline State &state() {
    static thread_local State s;
    return s;
}
inline State &ready() {
    if (!state().configured) std::abort(); // a tile instruction outside enter .. leave faults
    return state();
}

inline void enter() {
    std::memset(state().tile, 0xa5, sizeof state().tile);
    state().configured = true;
}
inline void leave() { state().configured = false; }

template <int T> void zero() { std::memset(ready().tile[T], 0, 1024); }
template <int T> void load(const void *at, int64_t stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(ready().tile[T][r], static_cast<const uint8_t *>(at) + r * stride, 64);
}
template <int T> void store(void *at, int64_t stride) {
    for (int r = 0; r < 16; ++r) std::memcpy(static_cast<uint8_t *>(at) + r * stride, ready().tile[T][r], 64);
}

inline float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f * x : x; }
inline float from_fp16(uint16_t h) { return half_to_float(h); }
inline float from_bf16(uint16_t h) {
    const uint32_t bits = uint32_t{h} << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return flushed(x);
}

template <class Widen> void multiply(int c, int a, int b, Widen widen) {
    State &s = ready();
    float y[16][32], x[32], sum[16], even[16], odd[16]; // y[k]: columns of even k, then of odd k
    for (int k = 0; k < 16; ++k)
        for (int n = 0; n < 16; ++n) {
            uint16_t pair[2];
            std::memcpy(pair, s.tile[b][k] + 4 * n, 4);
            y[k][n] = widen(pair[0]);
            y[k][16 + n] = widen(pair[1]);
        }
    for (int m = 0; m < 16; ++m) {
        for (int k = 0; k < 32; ++k) {
            uint16_t word;
            std::memcpy(&word, s.tile[a][m] + 2 * k, 2);
            x[k] = widen(word);
        }
        std::memcpy(sum, s.tile[c][m], 64);
        for (int n = 0; n < 16; ++n) even[n] = odd[n] = 0;
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 16; ++n) {
                even[n] = flushed(__builtin_fmaf(x[2 * k], y[k][n], even[n]));
                odd[n] = flushed(__builtin_fmaf(x[2 * k + 1], y[k][16 + n], odd[n]));
            }
        for (int n = 0; n < 16; ++n) sum[n] = flushed(flushed(sum[n]) + flushed(even[n] + odd[n]));
        std::memcpy(s.tile[c][m], sum, 64);
    }
}
template <int C, int A, int B> void multiply_fp16() { multiply(C, A, B, from_fp16); }
template <int C, int A, int B> void multiply_bf16() { multiply(C, A, B, from_bf16); }

} // namespace tiles
} // namespace anefast
