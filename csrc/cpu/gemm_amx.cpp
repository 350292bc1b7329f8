// Matrix product kernels for x86-64 with AMX: 32 x 32 tiles of C in four tile registers, k by 32.
//
// fp16 operands multiply as they are where the processor has AMX-FP16. With AMX-BF16 only, and for
// fp32 operands, each value is split into two bf16, x = high + low, and three products are summed
// (low times low is left out): exact to 2^-18 for fp16 operands, to 2^-16 for fp32 ones.
// The numbers are not those of the other paths: see gemm.h. Packing needs no more than AVX2.
#include "gemm_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include "../half.h"

#ifndef ANEFAST_TILES // tests put the instructions' meaning in their place
#define ANEFAST_TILES "amx_tiles.h"
#endif
#include ANEFAST_TILES

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace anefast {
namespace {

constexpr int64_t SIDE = 32;                  // rows, columns and k of a block
constexpr int64_t TILE = 16 * 32;             // halves in a tile register
constexpr int64_t BLOCK = SIDE * SIDE;        // halves in a block: two tiles
enum class Axis { lane, k };                  // a lane is a row of A or a column of B

// SIDE x SIDE values as 16-bit words, the named axis outermost.
struct Block {
    const uint16_t *words;
    int64_t stride;
    Axis outer;
};

// Where a block's values are: lane l and k at data[l * lane_stride + k * k_stride].
struct Source {
    const MatrixView &view;
    int64_t lane_stride, k_stride, lane, lanes, k, ks; // lanes and ks up to SIDE; beyond them is 0

    Axis outer() const { return k_stride == 1 ? Axis::lane : Axis::k; }
    int64_t at(int64_t l, int64_t i) const { return (lane + l) * lane_stride + (k + i) * k_stride; }
    int64_t outer_count() const { return outer() == Axis::lane ? lanes : ks; }
    int64_t inner_count() const { return outer() == Axis::lane ? ks : lanes; }
    int64_t outer_stride() const { return outer() == Axis::lane ? lane_stride : k_stride; }
    int64_t inner_stride() const { return outer() == Axis::lane ? k_stride : lane_stride; }
};

// dst[p][l] is the pair (src[2p][l], src[2p + 1][l]): k outermost becomes pairs of k outermost.
void interleave(const uint16_t *src, int64_t stride, uint32_t *dst) {
    for (int64_t p = 0; p < SIDE / 2; ++p, src += 2 * stride, dst += SIDE)
        for (int64_t l = 0; l < SIDE; l += 16) {
            const __m256i even = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(src + l));
            const __m256i odd = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(src + stride + l));
            const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(dst + l), _mm256_permute2x128_si256(low, high, 0x20));
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(dst + l + 8), _mm256_permute2x128_si256(low, high, 0x31));
        }
}

// The transpose of 8 x 8 pairs; strides in pairs.
void transpose8(const uint32_t *src, int64_t src_stride, uint32_t *dst, int64_t dst_stride) {
    __m256i r[8], s[8];
    for (int i = 0; i < 8; ++i)
        r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(src + i * src_stride));
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            r[i + 2 * j] = _mm256_unpacklo_epi64(s[i + j], s[i + j + 2]);
            r[i + 2 * j + 1] = _mm256_unpackhi_epi64(s[i + j], s[i + j + 2]);
        }
    for (int i = 0; i < 4; ++i) {
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(dst + i * dst_stride), _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(dst + (i + 4) * dst_stride), _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
    }
}

// A's two tiles: 16 rows each of 32 k.
void place_a(const Block &b, uint16_t *out) {
    if (b.outer == Axis::lane) {
        for (int64_t row = 0; row < SIDE; ++row)
            memcpy(out + row * SIDE, b.words + row * b.stride, SIDE * sizeof(uint16_t));
        return;
    }
    uint32_t pairs[SIDE / 2 * SIDE];
    interleave(b.words, b.stride, pairs);
    auto *const to = reinterpret_cast<uint32_t *>(out); // rows of 16 pairs
    for (int64_t p = 0; p < SIDE / 2; p += 8)
        for (int64_t row = 0; row < SIDE; row += 8)
            transpose8(pairs + p * SIDE + row, SIDE, to + row * SIDE / 2 + p, SIDE / 2);
}

// B's two tiles: 16 rows each of pairs of k, for 16 columns.
void place_b(const Block &b, uint16_t *out) {
    auto *const to = reinterpret_cast<uint32_t *>(out);
    if (b.outer == Axis::lane) {
        for (int64_t column = 0; column < SIDE; column += 8)
            for (int64_t p = 0; p < SIDE / 2; p += 8)
                transpose8(reinterpret_cast<const uint32_t *>(b.words + column * b.stride + 2 * p), b.stride / 2,
                           to + column / 16 * TILE / 2 + p * 16 + column % 16, 16);
        return;
    }
    uint32_t pairs[SIDE / 2 * SIDE];
    interleave(b.words, b.stride, pairs);
    for (int64_t tile = 0; tile < 2; ++tile)
        for (int64_t p = 0; p < SIDE / 2; ++p)
            memcpy(to + tile * TILE / 2 + p * 16, pairs + p * SIDE + tile * 16, 16 * sizeof(uint32_t));
}

// The fp16 words of a block: where they lie if it is whole and its rows are, else a copy.
Block words_of(const Source &s, uint16_t *copy) {
    const auto *data = static_cast<const uint16_t *>(s.view.data);
    // Pairs are read as 32-bit words, so a row must start on an even element.
    if (s.lanes == SIDE && s.ks == SIDE && s.inner_stride() == 1 && s.outer_stride() % 2 == 0)
        return {data + s.at(0, 0), s.outer_stride(), s.outer()};
    memset(copy, 0, BLOCK * sizeof(uint16_t));
    const uint16_t *const first = data + s.at(0, 0);
    for (int64_t i = 0; i < s.outer_count(); ++i)
        for (int64_t j = 0; j < s.inner_count(); ++j)
            copy[i * SIDE + j] = first[i * s.outer_stride() + j * s.inner_stride()];
    return {copy, SIDE, s.outer()};
}

// Words of finite fp32, rounded to the upper halves that are their nearest bf16, ties to even; the rest is not cleared.
inline __m256i nearest_bf16(__m256i bits) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}

inline __m256i is_special(__m256i bits) { // an infinity or NaN
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    return _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), exponent);
}

// x as two words whose upper halves are bf16: the nearest, and the nearest to what is left, which is 0 of what is not
// finite. Lower halves are of no meaning.
inline void split8(__m256 x, __m256i *high, __m256i *low) {
    const __m256i bits = _mm256_castps_si256(x), upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    // A NaN may have all its bits in the lower half: one in the upper half keeps it a NaN.
    const __m256i plain = _mm256_cmpeq_epi32(_mm256_andnot_si256(upper, bits), _mm256_setzero_si256());
    const __m256i kept = _mm256_or_si256(bits, _mm256_andnot_si256(plain, _mm256_set1_epi32(0x400000)));
    *high = _mm256_and_si256(_mm256_blendv_epi8(nearest_bf16(bits), kept, is_special(bits)), upper);
    const __m256 rest = _mm256_sub_ps(x, _mm256_castsi256_ps(*high));
    *low = _mm256_andnot_si256(is_special(*high), nearest_bf16(_mm256_castps_si256(rest)));
}

// The upper halves of 16 words.
inline void store_upper(uint16_t *to, __m256i first, __m256i second) {
    const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(first, 16), _mm256_srli_epi32(second, 16));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_permute4x64_epi64(packed, 0xd8)); // it packs by halves
}

inline __m256 load8(const float *p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }

template <class T> void split_row(const T *row, uint16_t *high, uint16_t *low) {
    for (int64_t j = 0; j < SIDE; j += 16) {
        __m256i h[2], l[2];
        split8(load8(row + j), &h[0], &l[0]);
        split8(load8(row + j + 8), &h[1], &l[1]);
        store_upper(high + j, h[0], h[1]);
        store_upper(low + j, l[0], l[1]);
    }
}

// The high and the low bf16 of a block's values.
void split(const Source &s, uint16_t *high, uint16_t *low) {
    const bool half = s.view.elem == Elem::f16, whole = s.inner_count() == SIDE && s.inner_stride() == 1;
    for (int64_t i = 0; i < SIDE; ++i, high += SIDE, low += SIDE) {
        const int64_t first = s.at(0, 0) + i * s.outer_stride();
        const auto *halves = static_cast<const uint16_t *>(s.view.data) + first;
        const auto *floats = static_cast<const float *>(s.view.data) + first;
        const bool there = i < s.outer_count();
        if (there && whole) {
            half ? split_row(halves, high, low) : split_row(floats, high, low);
            continue;
        }
        float row[SIDE] = {};
        for (int64_t j = 0; there && j < s.inner_count(); ++j)
            row[j] = half ? half_to_float(halves[j * s.inner_stride()]) : floats[j * s.inner_stride()];
        split_row(row, high, low);
    }
}

// Packs one block: fp16 as two tiles, bf16 as two of the high parts and two of the low.
template <bool SPLIT, bool IS_A> void pack_block(const Source &s, uint16_t *out) {
    alignas(64) uint16_t high[BLOCK], low[BLOCK];
    const auto place = IS_A ? place_a : place_b;
    if constexpr (SPLIT) {
        split(s, high, low);
        place({high, SIDE, s.outer()}, out);
        place({low, SIDE, s.outer()}, out + BLOCK);
    } else {
        place(words_of(s, high), out);
    }
}

template <bool SPLIT> constexpr int64_t PACKED_BYTES = SPLIT ? 4 : 2;

template <bool SPLIT, bool IS_A>
void pack(const MatrixView &view, int64_t lane, int64_t lanes, int64_t k, int64_t ks, void *out, int64_t panel_bytes) {
    const int64_t lane_stride = IS_A ? view.row_stride : view.col_stride, k_stride = IS_A ? view.col_stride : view.row_stride;
    for (int64_t l = 0; l < lanes; l += SIDE)
        for (int64_t i = 0; i < ks; i += SIDE) {
            const Source s{view, lane_stride, k_stride, lane + l, lanes - l < SIDE ? lanes - l : SIDE,
                           k + i, ks - i < SIDE ? ks - i : SIDE};
            auto *const panel = static_cast<uint8_t *>(out) + l / SIDE * panel_bytes;
            pack_block<SPLIT, IS_A>(s, reinterpret_cast<uint16_t *>(panel + i * SIDE * PACKED_BYTES<SPLIT>));
        }
}

template <bool SPLIT>
void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns, void *out,
            int64_t panel_bytes) {
    pack<SPLIT, false>(b, column, columns, k_first, k_count, out, panel_bytes);
}

template <bool SPLIT>
void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, void *out) {
    const int64_t padded = (k_count + SIDE - 1) / SIDE * SIDE;
    pack<SPLIT, true>(a, row, rows, k_first, k_count, out, padded * SIDE * PACKED_BYTES<SPLIT>);
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
    if (t.start && whole) {
        const int64_t stride = t.start_row_stride * 4;
        tiles::load<0>(t.start, stride);
        tiles::load<1>(t.start + 16, stride);
        tiles::load<2>(t.start + 16 * t.start_row_stride, stride);
        tiles::load<3>(t.start + 16 * t.start_row_stride + 16, stride);
    } else if (t.start) {
        memset(mine, 0, sizeof mine);
        for (int64_t i = 0; i < t.rows; ++i)
            memcpy(mine + i * SIDE, t.start + i * t.start_row_stride, t.columns * sizeof(float));
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
    for (int64_t i = 0; i < t.rows; ++i)
        if (t.c_half)
            half_from_floats(mine + i * SIDE, static_cast<uint16_t *>(t.c) + i * t.c_row_stride, t.columns);
        else
            memcpy(static_cast<float *>(t.c) + i * t.c_row_stride, mine + i * SIDE, t.columns * sizeof(float));
}

template <bool SPLIT> void strip(const Strip &s) {
    for (Strip t = s; t.rows > 0; t = t.below(SIDE)) {
        Strip first = t;
        first.rows = t.rows < SIDE ? t.rows : SIDE;
        tile<SPLIT>(first);
    }
}

// Rows of fp16 need no packing where they fill whole tiles.
bool in_place(const Gemm &g) {
    return g.a.elem == Elem::f16 && g.a.col_stride == 1 && g.m % SIDE == 0 && g.k % SIDE == 0;
}

template <bool SPLIT> constexpr GemmKernels kernels_of(const char *isa) {
    return {isa,         SIDE,          SIDE,    SIDE,                 PACKED_BYTES<SPLIT>, SPLIT ? nullptr : in_place,
            strip<SPLIT>, pack_b<SPLIT>, nullptr, pack_a_panels<SPLIT>, tiles::enter,        tiles::leave};
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

#ifdef __clang__
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
