// Operands as words of 16 bits in blocks of 32 lanes by 32 k: what instructions that multiply pairs of k read. Written
// once, compiled by amx.cpp for tiles and by avx512_bf16.cpp for vectors.
//
// Not a header to include alone: the including file has opened its namespace and its target, AVX-512 F, BW, VL and
// BF16. A lane is a row of A or a column of B. A block is two tiles: of A, 16 rows each of 32 k; of B, 16 rows each of
// pairs of k, for 16 columns.

constexpr int64_t SIDE = 32;           // rows, columns and k of a block
constexpr int64_t TILE = 16 * 32;      // words in a tile register
constexpr int64_t BLOCK = SIDE * SIDE; // words in a block
using Words = __m512i;                 // a row of a tile: 32 words, or 16 pairs of them

// What becomes of a value: fp16 stays as it is, or it is rounded to the nearest bf16, or split into that and the
// nearest to what is left, two blocks one after the other.
enum class Parts { fp16, nearest, two };

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
    for (int i = 0; i < 32; ++i) o.word[i] = static_cast<uint16_t>(first + i / 2 * step_even + i % 2 * step_odd);
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

// Up to 16 sums of row i of a strip's C, from column j on, as what C holds. Elsewhere nothing is touched.
inline void put(const Strip &t, int64_t i, int64_t j, __mmask16 there, const __m512 &sum) {
    const int64_t at = i * t.c_row_stride + j;
    if (t.c_half)
        _mm256_mask_storeu_epi16(static_cast<uint16_t *>(t.c) + at, there,
                                 _mm512_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT));
    else _mm512_mask_storeu_ps(static_cast<float *>(t.c) + at, there, sum);
}

// 32 values as words.
template <Parts PARTS, class T> Words words(const T *p, __mmask32 there) {
    if constexpr (PARTS == Parts::fp16) return _mm512_maskz_loadu_epi16(there, p);
    else return (Words)_mm512_cvtne2ps_pbh(load(p + 16, there >> 16), load(p, static_cast<__mmask16>(there)));
}

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
        const auto quarter = [&](int64_t row) {
            return _mm_loadu_si128(reinterpret_cast<const __m128i *>(from + row * SIDE + 2 * q));
        };
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

// Packs one block. Of A and of B one layout each comes straight from rows of memory, the other through a transpose.
template <Parts PARTS, bool IS_A, class T> void pack_block(const Source<T> &s, uint16_t *out) {
    constexpr int64_t TILES = PARTS == Parts::two ? 4 : 2;
    alignas(64) uint16_t turned[TILES * TILE];
    const bool turns = s.by_lanes != IS_A;
    uint16_t *const to = turns ? turned : out;
    const __mmask32 columns = first_of_32(s.columns);
    for (int64_t i = 0; i < SIDE; i += 2) {
        const __mmask32 first = i < s.rows ? columns : 0, second = i + 1 < s.rows ? columns : 0;
        const T *const row = s.data + (first ? i * s.stride : 0), *const next = second ? row + s.stride : row;
        fetch(row + s.ahead);
        fetch(next + s.ahead);
        if constexpr (PARTS == Parts::two) {
            const HighLow even = split(row, first), odd = split(next, second);
            place(s.by_lanes, i, even.high, odd.high, to);
            place(s.by_lanes, i, even.low, odd.low, to + BLOCK);
        } else {
            place(s.by_lanes, i, words<PARTS>(row, first), words<PARTS>(next, second), to);
        }
    }
    if (turns)
        for (int64_t tile = 0; tile < TILES; ++tile) transpose(turned + tile * TILE, out + tile * TILE);
}

template <Parts PARTS> constexpr int64_t PACKED_BYTES = PARTS == Parts::two ? 4 : 2;

template <Parts PARTS, bool IS_A, class T>
void pack(const MatrixView &view, int64_t lane, int64_t lanes, int64_t k, int64_t ks, void *out, int64_t panel_bytes) {
    const int64_t lane_stride = IS_A ? view.row_stride : view.col_stride,
                  k_stride = IS_A ? view.col_stride : view.row_stride;
    const bool by_lanes = k_stride == 1;
    const int64_t rows = by_lanes ? lanes : ks, stride = by_lanes ? lane_stride : k_stride;
    const int64_t columns = by_lanes ? ks : lanes, column_stride = by_lanes ? 1 : lane_stride;
    const T *const data = static_cast<const T *>(view.data) + lane * lane_stride + k * k_stride;
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t j = 0; j < columns; j += SIDE) {
            Source<T> s{data + i * stride + j * column_stride, stride,
                        rows - i < SIDE ? rows - i : SIDE,     columns - j < SIDE ? columns - j : SIDE,
                        i + SIDE < rows ? SIDE * stride : 0,   by_lanes};
            T copy[BLOCK];
            if (column_stride != 1) { // nothing is contiguous
                for (int64_t r = 0; r < s.rows; ++r)
                    for (int64_t c = 0; c < s.columns; ++c) copy[r * SIDE + c] = s.data[r * stride + c * column_stride];
                s.data = copy;
                s.stride = SIDE;
                s.ahead = 0;
            }
            const int64_t l = by_lanes ? i : j, at = by_lanes ? j : i; // of lanes, of k
            auto *const panel = static_cast<uint8_t *>(out) + l / SIDE * panel_bytes;
            pack_block<PARTS, IS_A>(s, reinterpret_cast<uint16_t *>(panel + at * SIDE * PACKED_BYTES<PARTS>));
        }
}

template <Parts PARTS, bool IS_A, class... Arguments> void pack_any(const MatrixView &view, Arguments... arguments) {
    if constexpr (PARTS != Parts::fp16)
        if (view.elem == Elem::f32) return pack<PARTS, IS_A, float>(view, arguments...);
    pack<PARTS, IS_A, uint16_t>(view, arguments...);
}

template <Parts PARTS> void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column,
                                   int64_t columns, void *out, int64_t panel_bytes) {
    pack_any<PARTS, false>(b, column, columns, k_first, k_count, out, panel_bytes);
}

template <Parts PARTS>
void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, void *out) {
    const int64_t padded = (k_count + SIDE - 1) / SIDE * SIDE;
    pack_any<PARTS, true>(a, row, rows, k_first, k_count, out, padded * SIDE * PACKED_BYTES<PARTS>);
}
