// Matrix product kernels for x86-64 with AMX: 32 x 32 tiles of C in four tile registers, k by 32.
//
// fp16 operands multiply as they are where the processor has AMX-FP16. With AMX-BF16 only, and for
// fp32 operands, each value is split into two bf16, x = high + low, and three products are summed
// (low times low is left out): exact to 2^-18 for fp16 operands, to 2^-16 for fp32 ones. Relaxed, the low parts are
// left out altogether. The numbers are not those of the other paths: see gemm.h. What surrounds the tiles is AVX-512,
// which every processor with AMX has.
#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#ifndef ANEFAST_TILES // tests put the instructions' meaning in their place
#define ANEFAST_TILES "amx_tiles.h"
#endif
#include ANEFAST_TILES

#include "../target.h"

AVX512_BEGIN("avx512f,avx512bw,avx512vl,avx512bf16")

namespace anefast {
namespace {

#include "pairs.h"

// C's quarters are tiles 0 to 3; A's halves pass through 4 and 5, B's through 6 and 7.
template <bool BF16, int C, int A, int B> void multiply() {
    if constexpr (BF16) tiles::multiply_bf16<C, A, B>();
    else tiles::multiply_fp16<C, A, B>();
}

template <bool BF16> void sum(const uint8_t *a, int64_t a_stride, int64_t a_step, const uint8_t *b, int64_t blocks) {
    for (; blocks > 0; --blocks, a += a_step, b += BLOCK * 2) {
        tiles::load<6>(b, 64);
        tiles::load<4>(a, a_stride);
        multiply<BF16, 0, 4, 6>();
        tiles::load<7>(b + TILE * 2, 64);
        multiply<BF16, 1, 4, 7>();
        tiles::load<5>(a + 16 * a_stride, a_stride);
        multiply<BF16, 2, 5, 6>();
        multiply<BF16, 3, 5, 7>();
    }
}

template <bool BF16> void multiply_all() {
    multiply<BF16, 0, 4, 6>();
    multiply<BF16, 1, 4, 7>();
    multiply<BF16, 2, 5, 6>();
    multiply<BF16, 3, 5, 7>();
}

template <Parts PARTS> double in_registers(int64_t rounds) {
    constexpr int PASSES = PARTS == Parts::two ? 3 : 1;
    for (int64_t r = 0; r < rounds * PASSES; ++r) multiply_all<PARTS != Parts::fp16>();
    return 2.0 * SIDE * SIDE * SIDE * static_cast<double>(rounds);
}

void sum_of_two(const uint8_t *a, const uint8_t *b, int64_t blocks) {
    constexpr int64_t LOW = BLOCK * 2; // bytes from the high parts to the low
    for (; blocks > 0; --blocks, a += 2 * LOW, b += 2 * LOW) {
        tiles::load<6>(b, 64);
        tiles::load<7>(b + TILE * 2, 64);
        for (int64_t low = 1; low >= 0; --low) { // A's low parts by B's high ones, then high by high
            const uint8_t *const part = a + low * LOW;
            tiles::load<4>(part, 64);
            tiles::multiply_bf16<0, 4, 6>();
            tiles::multiply_bf16<1, 4, 7>();
            tiles::load<5>(part + TILE * 2, 64);
            tiles::multiply_bf16<2, 5, 6>();
            tiles::multiply_bf16<3, 5, 7>();
        }
        tiles::load<6>(b + LOW, 64); // high low, A's high parts still in place
        tiles::load<7>(b + LOW + TILE * 2, 64);
        multiply_all<true>();
    }
}

template <Parts PARTS> void tile(const Strip &t) {
    alignas(64) float mine[BLOCK]; // C, where it is not a whole tile of fp32 in place
    const bool whole = t.rows == SIDE && t.columns == SIDE;
    const __mmask32 columns = first_of_32(t.columns);
    if (t.start && whole) {
        const int64_t stride = t.start_row_stride * 4;
        tiles::load<0>(t.start, stride);
        tiles::load<1>(t.start + 16, stride);
        tiles::load<2>(t.start + 16 * t.start_row_stride, stride);
        tiles::load<3>(t.start + 16 * t.start_row_stride + 16, stride);
    } else if (t.start) {
        for (int64_t i = 0; i < SIDE; ++i) {
            const __mmask32 there = i < t.rows ? columns : 0;
            const float *const from = t.start + (there ? i * t.start_row_stride : 0);
            _mm512_store_ps(mine + i * SIDE, load(from, static_cast<__mmask16>(there)));
            _mm512_store_ps(mine + i * SIDE + 16, load(from + 16, there >> 16));
        }
        tiles::load<0>(mine, SIDE * 4);
        tiles::load<1>(mine + 16, SIDE * 4);
        tiles::load<2>(mine + 16 * SIDE, SIDE * 4);
        tiles::load<3>(mine + 16 * SIDE + 16, SIDE * 4);
    } else {
        tiles::zero<0>();
        tiles::zero<1>();
        tiles::zero<2>();
        tiles::zero<3>();
    }

    const auto *a = static_cast<const uint8_t *>(t.a), *b = static_cast<const uint8_t *>(t.b);
    const int64_t blocks = (t.k_count + SIDE - 1) / SIDE;
    if constexpr (PARTS == Parts::two) sum_of_two(a, b, blocks);
    else if (t.a_row_stride) sum<PARTS == Parts::nearest>(a, t.a_row_stride * 2, SIDE * 2, b, blocks);
    else sum<PARTS == Parts::nearest>(a, SIDE * 2, BLOCK * 2, b, blocks);

    const bool in_place = whole && !t.c_half;
    float *const c = in_place ? static_cast<float *>(t.c) : mine;
    const int64_t width = in_place ? t.c_row_stride : SIDE;
    tiles::store<0>(c, width * 4);
    tiles::store<1>(c + 16, width * 4);
    tiles::store<2>(c + 16 * width, width * 4);
    tiles::store<3>(c + 16 * width + 16, width * 4);
    if (in_place) return;
    for (int64_t i = 0; i < t.rows; ++i) {
        put(t, i, 0, static_cast<__mmask16>(columns), _mm512_load_ps(mine + i * SIDE));
        put(t, i, 16, columns >> 16, _mm512_load_ps(mine + i * SIDE + 16));
    }
}

template <Parts PARTS> void strip(const Strip &s) {
    for (int64_t row = 0; row < s.rows; row += SIDE) tile<PARTS>(s.part(row, SIDE, SIDE));
}

// Rows of fp16 need no packing where they fill whole tiles.
bool in_place(const Gemm &g) {
    return g.a.elem == Elem::f16 && g.a.col_stride == 1 && g.m % SIDE == 0 && g.k % SIDE == 0;
}

template <Parts PARTS> constexpr GemmKernels kernels_of(const char *isa) {
    return {isa,
            SIDE,
            SIDE,
            SIDE,
            SIDE,
            PACKED_BYTES<PARTS>,
            PARTS == Parts::fp16 ? in_place : nullptr,
            strip<PARTS>,
            pack_b<PARTS>,
            nullptr,
            pack_a_panels<PARTS>,
            tiles::enter,
            tiles::leave,
            in_registers<PARTS>};
}

} // namespace

const GemmKernels *gemm_kernels_amx_fp16() {
    static constexpr GemmKernels kernels = kernels_of<Parts::fp16>("AMX-FP16");
    return &kernels;
}

const GemmKernels *gemm_kernels_amx_bf16() {
    static constexpr GemmKernels kernels = kernels_of<Parts::two>("AMX-BF16");
    return &kernels;
}

const GemmKernels *gemm_kernels_amx_relaxed() {
    static constexpr GemmKernels kernels = kernels_of<Parts::nearest>("AMX-BF16 relaxed");
    return &kernels;
}

} // namespace anefast

AVX512_END

#else
namespace anefast {
const GemmKernels *gemm_kernels_amx_fp16() { return nullptr; }
const GemmKernels *gemm_kernels_amx_bf16() { return nullptr; }
const GemmKernels *gemm_kernels_amx_relaxed() { return nullptr; }
} // namespace anefast
#endif
