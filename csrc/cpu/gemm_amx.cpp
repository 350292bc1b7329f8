// Matrix product kernels for x86-64 with AMX: 32 x 32 tiles of C in four tile registers, k by 32.
//
// fp16 operands multiply as they are where the processor has AMX-FP16. With AMX-BF16 only, and for
// fp32 operands, each value is split into two bf16, x = high + low, and three products are summed
// (low times low is left out): exact to 2^-18 for fp16 operands, to 2^-16 for fp32 ones.
// The numbers are not those of the other paths: see gemm.h. What surrounds the tiles is AVX-512, which every processor
// with AMX has.
#include "gemm_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#ifndef ANEFAST_TILES // tests put the instructions' meaning in their place
#define ANEFAST_TILES "amx_tiles.h"
#endif
#include ANEFAST_TILES

#ifdef ANEFAST_AVX512 // likewise
#include ANEFAST_AVX512
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // gcc 12 warns of its own intrinsics,
#pragma GCC diagnostic ignored "-Wuninitialized"       // and differently where sanitizers are at work
#endif

namespace anefast {
namespace {

constexpr int64_t SIDE = 32;           // rows, columns and k of a block
constexpr int64_t TILE = 16 * 32;      // words in a tile register
constexpr int64_t BLOCK = SIDE * SIDE; // words in a block: two tiles
using Words = __m512i;                 // a row of a tile register: 32 words, or 16 pairs of them

// A block as rows of memory: up to SIDE rows of up to SIDE values. Beyond them is 0.
template <class T> struct Source {
    const T *data;
    int64_t stride, rows, columns;
    int64_t ahead; // elements from a row to the one that is packed a block later, 0 where there is none
    bool by_lanes; // a row holds a lane, which is a row of A or a column of B; else it holds a k
};

inline __mmask32 first_of_32(int64_t count) { return static_cast<__mmask32>((uint64_t{1} << count) - 1); }

// Indices of words in a vector, or in two of them.
struct alignas(64) Order {
    uint16_t word[32];
};
constexpr Order order(int first, int step_even, int step_odd) {
    Order o{};
    for (int i = 0; i < 32; ++i)
        o.word[i] = static_cast<uint16_t>(first + i / 2 * step_even + i % 2 * step_odd);
    return o;
}
inline Words load(const Order &o) { return _mm512_load_si512(&o); }

// The 16 pairs (even[l], odd[l]) from l = FIRST on.
template <int FIRST> Words pairs(Words even, Words odd) {
    static constexpr Order both = order(FIRST, 1, 32);
    return _mm512_permutex2var_epi16(even, load(both), odd);
}

// 16 of 32 bf16, from FIRST on, as fp32.
template <int FIRST> __m512 widened(Words bf16) {
    static constexpr Order upper = order(FIRST, 1, 0);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, load(upper), bf16));
}

// Up to 16 values as fp32. What is not there is 0 and not touched.
inline __m512 load(const float *p, __mmask16 there) { return _mm512_maskz_loadu_ps(there, p); }
inline __m512 load(const uint16_t *p, __mmask16 there) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, p)); }

struct HighLow {
    Words high, low;
};

// 32 values as bf16: the nearest, and the nearest to what is left, which is 0 of what is not finite. The instruction
// takes subnormals for 0, as the tiles would, and keeps a NaN one.
template <class T> HighLow split(const T *p, __mmask32 there) {
    const __m512 a = load(p, static_cast<__mmask16>(there)), b = load(p + 16, there >> 16);
    const Words high = (Words)_mm512_cvtne2ps_pbh(b, a), exponent = _mm512_set1_epi16(0x7f80);
    const __mmask32 finite = _mm512_cmpneq_epi16_mask(_mm512_and_si512(high, exponent), exponent);
    const __m512 rest_a = _mm512_sub_ps(a, widened<0>(high)), rest_b = _mm512_sub_ps(b, widened<16>(high));
    return {high, (Words)_mm512_maskz_cvtne2ps_pbh(finite, rest_b, rest_a)};
}

// The transpose of a tile's 16 x 16 pairs. Quarters of rows are loaded to where the columns want them, which costs no
// shuffle; what remains is 4 x 4 within each.
inline void transpose(const uint16_t *from, uint16_t *to) {
    for (int64_t q = 0; q < 16; q += 4, to += 4 * SIDE) {
        const auto quarter = [&](int64_t row) { return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + row * SIDE + 2 * q)); };
        Words r[4];
        for (int64_t i = 0; i < 4; ++i) {
            r[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 4), 1);
            r[i] = _mm512_inserti32x4(_mm512_inserti32x4(r[i], quarter(i + 8), 2), quarter(i + 12), 3);
        }
        const Words a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpacklo_epi32(r[2], r[3]);
        const Words c = _mm512_unpackhi_epi32(r[0], r[1]), d = _mm512_unpackhi_epi32(r[2], r[3]);
        _mm512_store_si512(to, _mm512_unpacklo_epi64(a, b));
        _mm512_store_si512(to + SIDE, _mm512_unpackhi_epi64(a, b));
        _mm512_store_si512(to + 2 * SIDE, _mm512_unpacklo_epi64(c, d));
        _mm512_store_si512(to + 3 * SIDE, _mm512_unpackhi_epi64(c, d));
    }
}

// Rows i and i + 1 of a block, as words, to where they belong in its tiles.
inline void place(bool by_lanes, int64_t i, Words even, Words odd, uint16_t *tiles) {
    if (by_lanes) {
        _mm512_store_si512(tiles + i * SIDE, even);
        _mm512_store_si512(tiles + (i + 1) * SIDE, odd);
    } else {
        _mm512_store_si512(tiles + i / 2 * SIDE, pairs<0>(even, odd));
        _mm512_store_si512(tiles + i / 2 * SIDE + TILE, pairs<16>(even, odd));
    }
}

// Into the second cache: rows so far apart are not foreseen by the processor's own prefetching.
template <class T> void fetch(const T *row) {
    for (int64_t i = 0; i < SIDE; i += 64 / static_cast<int64_t>(sizeof(T)))
        _mm_prefetch(reinterpret_cast<const char *>(row + i), _MM_HINT_T1);
}

// Packs one block: fp16 as two tiles, bf16 as two of the high parts and two of the low. A's tiles have 16 rows each of
// 32 k, B's 16 rows each of pairs of k, for 16 columns: of either, one comes straight from rows of memory.
template <bool SPLIT, bool IS_A, class T> void pack_block(const Source<T> &s, uint16_t *out) {
    constexpr int64_t TILES = SPLIT ? 4 : 2;
    alignas(64) uint16_t turned[TILES * TILE];
    const bool turns = s.by_lanes != IS_A;
    uint16_t *const to = turns ? turned : out;
    const __mmask32 columns = first_of_32(s.columns);
    for (int64_t i = 0; i < SIDE; i += 2) {
        const __mmask32 first = i < s.rows ? columns : 0, second = i + 1 < s.rows ? columns : 0;
        const T *const row = s.data + (first ? i * s.stride : 0), *const next = second ? row + s.stride : row;
        fetch(row + s.ahead);
        fetch(next + s.ahead);
        if constexpr (SPLIT) {
            const HighLow even = split(row, first), odd = split(next, second);
            place(s.by_lanes, i, even.high, odd.high, to);
            place(s.by_lanes, i, even.low, odd.low, to + BLOCK);
        } else {
            place(s.by_lanes, i, _mm512_maskz_loadu_epi16(first, row), _mm512_maskz_loadu_epi16(second, next), to);
        }
    }
    if (turns)
        for (int64_t tile = 0; tile < TILES; ++tile)
            transpose(turned + tile * TILE, out + tile * TILE);
}

template <bool SPLIT> constexpr int64_t PACKED_BYTES = SPLIT ? 4 : 2;

template <bool SPLIT, bool IS_A, class T>
void pack(const MatrixView &view, int64_t lane, int64_t lanes, int64_t k, int64_t ks, void *out, int64_t panel_bytes) {
    const int64_t lane_stride = IS_A ? view.row_stride : view.col_stride, k_stride = IS_A ? view.col_stride : view.row_stride;
    const bool by_lanes = k_stride == 1;
    const int64_t rows = by_lanes ? lanes : ks, stride = by_lanes ? lane_stride : k_stride;
    const int64_t columns = by_lanes ? ks : lanes, column_stride = by_lanes ? 1 : lane_stride;
    const T *const data = static_cast<const T *>(view.data) + lane * lane_stride + k * k_stride;
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t j = 0; j < columns; j += SIDE) {
            Source<T> s{data + i * stride + j * column_stride, stride, rows - i < SIDE ? rows - i : SIDE,
                        columns - j < SIDE ? columns - j : SIDE, i + SIDE < rows ? SIDE * stride : 0, by_lanes};
            T copy[BLOCK];
            if (column_stride != 1) { // nothing is contiguous
                for (int64_t r = 0; r < s.rows; ++r)
                    for (int64_t c = 0; c < s.columns; ++c)
                        copy[r * SIDE + c] = s.data[r * stride + c * column_stride];
                s.data = copy;
                s.stride = SIDE;
                s.ahead = 0;
            }
            const int64_t l = by_lanes ? i : j, at = by_lanes ? j : i; // of lanes, of k
            auto *const panel = static_cast<uint8_t *>(out) + l / SIDE * panel_bytes;
            pack_block<SPLIT, IS_A>(s, reinterpret_cast<uint16_t *>(panel + at * SIDE * PACKED_BYTES<SPLIT>));
        }
}

template <bool SPLIT, bool IS_A, class... Arguments> void pack_any(const MatrixView &view, Arguments... arguments) {
    if constexpr (SPLIT)
        if (view.elem == Elem::f32)
            return pack<SPLIT, IS_A, float>(view, arguments...);
    pack<SPLIT, IS_A, uint16_t>(view, arguments...);
}

template <bool SPLIT>
void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns, void *out,
            int64_t panel_bytes) {
    pack_any<SPLIT, false>(b, column, columns, k_first, k_count, out, panel_bytes);
}

template <bool SPLIT>
void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, void *out) {
    const int64_t padded = (k_count + SIDE - 1) / SIDE * SIDE;
    pack_any<SPLIT, true>(a, row, rows, k_first, k_count, out, padded * SIDE * PACKED_BYTES<SPLIT>);
}

// C's quarters are tiles 0 to 3; A's halves pass through 4 and 5, B's through 6 and 7.
void sum_fp16(const uint8_t *a, int64_t a_stride, int64_t a_step, const uint8_t *b, int64_t blocks) {
    for (; blocks > 0; --blocks, a += a_step, b += BLOCK * 2) {
        tiles::load<6>(b, 64);
        tiles::load<4>(a, a_stride);
        tiles::multiply_fp16<0, 4, 6>();
        tiles::load<7>(b + TILE * 2, 64);
        tiles::multiply_fp16<1, 4, 7>();
        tiles::load<5>(a + 16 * a_stride, a_stride);
        tiles::multiply_fp16<2, 5, 6>();
        tiles::multiply_fp16<3, 5, 7>();
    }
}

void sum_bf16(const uint8_t *a, const uint8_t *b, int64_t blocks) {
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
        tiles::multiply_bf16<0, 4, 6>();
        tiles::multiply_bf16<1, 4, 7>();
        tiles::multiply_bf16<2, 5, 6>();
        tiles::multiply_bf16<3, 5, 7>();
    }
}

template <bool SPLIT> void tile(const Strip &t) {
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
    if constexpr (SPLIT)
        sum_bf16(a, b, blocks);
    else if (t.a_row_stride)
        sum_fp16(a, t.a_row_stride * 2, SIDE * 2, b, blocks);
    else
        sum_fp16(a, SIDE * 2, BLOCK * 2, b, blocks);

    const bool in_place = whole && !t.c_half;
    float *const c = in_place ? static_cast<float *>(t.c) : mine;
    const int64_t width = in_place ? t.c_row_stride : SIDE;
    tiles::store<0>(c, width * 4);
    tiles::store<1>(c + 16, width * 4);
    tiles::store<2>(c + 16 * width, width * 4);
    tiles::store<3>(c + 16 * width + 16, width * 4);
    if (in_place)
        return;
    for (int64_t i = 0; i < t.rows; ++i) {
        const __m512 left = _mm512_load_ps(mine + i * SIDE), right = _mm512_load_ps(mine + i * SIDE + 16);
        if (t.c_half) {
            uint16_t *const to = static_cast<uint16_t *>(t.c) + i * t.c_row_stride;
            _mm256_mask_storeu_epi16(to, static_cast<__mmask16>(columns), _mm512_cvtps_ph(left, _MM_FROUND_TO_NEAREST_INT));
            _mm256_mask_storeu_epi16(to + 16, columns >> 16, _mm512_cvtps_ph(right, _MM_FROUND_TO_NEAREST_INT));
        } else {
            float *const to = static_cast<float *>(t.c) + i * t.c_row_stride;
            _mm512_mask_storeu_ps(to, static_cast<__mmask16>(columns), left);
            _mm512_mask_storeu_ps(to + 16, columns >> 16, right);
        }
    }
}

template <bool SPLIT> void strip(const Strip &s) {
    for (int64_t row = 0; row < s.rows; row += SIDE)
        tile<SPLIT>(s.part(row, SIDE, SIDE));
}

// Rows of fp16 need no packing where they fill whole tiles.
bool in_place(const Gemm &g) {
    return g.a.elem == Elem::f16 && g.a.col_stride == 1 && g.m % SIDE == 0 && g.k % SIDE == 0;
}

template <bool SPLIT> constexpr GemmKernels kernels_of(const char *isa) {
    return {isa, SIDE, SIDE, SIDE, SIDE, PACKED_BYTES<SPLIT>, SPLIT ? nullptr : in_place,
            strip<SPLIT>, pack_b<SPLIT>, nullptr, pack_a_panels<SPLIT>, tiles::enter, tiles::leave};
}

} // namespace

const GemmKernels *gemm_kernels_amx_fp16() {
    static constexpr GemmKernels kernels = kernels_of<false>("AMX-FP16");
    return &kernels;
}

const GemmKernels *gemm_kernels_amx_bf16() {
    static constexpr GemmKernels kernels = kernels_of<true>("AMX-BF16");
    return &kernels;
}

} // namespace anefast

#ifdef ANEFAST_AVX512
#elif defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
namespace anefast {
const GemmKernels *gemm_kernels_amx_fp16() { return nullptr; }
const GemmKernels *gemm_kernels_amx_bf16() { return nullptr; }
} // namespace anefast
#endif
