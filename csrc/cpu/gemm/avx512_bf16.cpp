// Relaxed matrix products for x86-64 with AVX-512 BF16: operands rounded to the nearest bf16, two k to a
// multiplication, twice the rate of fp32 where the processor has two such units. Only for who asks (gemm.h).
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../target.h"

AVX512_BEGIN("avx512f,avx512bw,avx512vl,avx512bf16")

namespace anefast {
namespace {

#include "pairs.h"

constexpr int ROWS = 8, VECTORS = 2; // of C in registers

// ROWS rows of C from `row` of the strip on, those that are there; A's panel and B's are whole, padded with 0.
void tile(const Strip &t, int64_t row) {
    const __mmask32 columns = first_of_32(t.columns);
    const auto there = [&](int64_t i, int v) {
        return static_cast<__mmask16>(row + i < t.rows ? columns >> 16 * v : 0);
    };
    __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v)
            sum[i][v] =
                t.start ? load(t.start + (row + i) * t.start_row_stride + 16 * v, there(i, v)) : _mm512_setzero_ps();

    const uint16_t *a = static_cast<const uint16_t *>(t.a) + row * SIDE, *b = static_cast<const uint16_t *>(t.b);
    for (int64_t k = 0; k < t.k_count; k += SIDE, a += BLOCK, b += BLOCK)
#pragma GCC unroll 4
        for (int64_t pair = 0; pair < SIDE; pair += 2) {
            const Words left = _mm512_load_si512(b + pair * 16), right = _mm512_load_si512(b + pair * 16 + TILE);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                int32_t both;
                __builtin_memcpy(&both, a + i * SIDE + pair, sizeof both);
                const Words x = _mm512_set1_epi32(both);
                sum[i][0] = _mm512_dpbf16_ps(sum[i][0], (__m512bh)x, (__m512bh)left);
                sum[i][1] = _mm512_dpbf16_ps(sum[i][1], (__m512bh)x, (__m512bh)right);
            }
        }

#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) put(t, row + i, 16 * v, there(i, v), sum[i][v]);
}

void strip(const Strip &s) {
    for (int64_t panel = 0; panel < s.rows; panel += SIDE) {
        const Strip t = s.part(panel, SIDE, SIDE);
        for (int64_t row = 0; row < t.rows; row += ROWS) tile(t, row);
    }
}

double in_registers(int64_t rounds) {
    const Words ones = _mm512_set1_epi32(0x3f803f80);
    alignas(64) float c[ROWS * SIDE];
    for (int i = 0; i < ROWS * SIDE; ++i) // no two sums alike, and none unused: each has to be made
        c[i] = static_cast<float>(i);
    __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) sum[i][v] = load(c + i * SIDE + 16 * v, 0xffff);
    for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)ones, (__m512bh)ones);
    double all = 0;
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; ++v) {
            _mm512_store_ps(c, sum[i][v]);
            all += static_cast<double>(c[0]);
        }
    return all > 0 ? 4.0 * ROWS * SIDE * static_cast<double>(rounds) : 0;
}

} // namespace

const GemmKernels *gemm_kernels_avx512_relaxed() {
    constexpr Parts NEAREST = Parts::nearest;
    static constexpr GemmKernels kernels{"AVX-512 BF16 relaxed",
                                         ROWS,
                                         SIDE,
                                         SIDE,
                                         SIDE,
                                         PACKED_BYTES<NEAREST>,
                                         nullptr,
                                         strip,
                                         pack_b<NEAREST>,
                                         nullptr,
                                         pack_a_panels<NEAREST>,
                                         nullptr,
                                         nullptr,
                                         in_registers};
    return &kernels;
}

} // namespace anefast

AVX512_END

#else
namespace anefast {
const GemmKernels *gemm_kernels_avx512_relaxed() { return nullptr; }
} // namespace anefast
#endif
