// The inner loops of the matrix product, written once against a vector type and compiled per instruction set.
//
// Not a header to include alone. The including file has opened its namespace and target and defined
//   Vec, WIDTH, load(const float *), store(float *, Vec), splat(float), fma(Vec a, float b, Vec c) = a * b + c,
//   load_half(const uint16_t *), store_half(uint16_t *, Vec), transpose(Vec[WIDTH]), MR, NV (vectors per tile row),
//   and AHEAD: so many k ahead B is fetched, 0 where a panel of it stays in the first cache.
// No standard templates may be instantiated here: the linker could keep this file's copy for everyone.

constexpr int NR = NV * WIDTH;

constexpr int PANEL_ROWS = WIDTH % MR ? MR : WIDTH; // of A: as many as a vector holds, where those are whole tiles

static inline float element(const MatrixView &v, int64_t i, int64_t j) {
    const int64_t at = i * v.row_stride + j * v.col_stride;
    return v.elem == Elem::f32 ? static_cast<const float *>(v.data)[at]
                               : half_to_float(static_cast<const uint16_t *>(v.data)[at]);
}

static inline const float *as_f32(const MatrixView &v) { return static_cast<const float *>(v.data); }
static inline const uint16_t *as_f16(const MatrixView &v) { return static_cast<const uint16_t *>(v.data); }

static inline void store(uint16_t *p, Vec v) { store_half(p, v); }

template <int ROWS, int VECTORS, class T>
static inline __attribute__((always_inline)) void put(const Vec (&sum)[ROWS][VECTORS], T *c, int64_t stride) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) store(c + i * stride + v * WIDTH, sum[i][v]);
}

// ROWS rows by VECTORS vectors of C in registers; a broadcast from A feeds VECTORS fused multiply-adds. Its own
// function, and every loop but that over k unrolled: all registers are spoken for.
template <int ROWS, int VECTORS, bool PANEL> static __attribute__((noinline)) void tile_of(const Strip &t) {
    Vec sum[ROWS][VECTORS];
    if (t.start) {
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) {
                sum[i][v] = load(t.start + i * t.start_row_stride + v * WIDTH);
                // The tile below is next. Its C is far away as a rule, and no multiplication could start without it.
                __builtin_prefetch(t.start + (MR + i) * t.start_row_stride + v * WIDTH);
            }
    } else {
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sum[i][v] = splat(0);
    }

    const float *a = static_cast<const float *>(t.a), *b = static_cast<const float *>(t.b);
    const int64_t row_stride = PANEL ? 1 : t.a_row_stride, step = PANEL ? PANEL_ROWS : 1;
#pragma GCC unroll 4
    for (int64_t k = t.k_count; k > 0; --k, a += step, b += NR) {
        Vec bv[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; ++v) {
            bv[v] = load(b + v * WIDTH);
            if (AHEAD) __builtin_prefetch(b + AHEAD * NR + v * WIDTH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; ++v) sum[i][v] = fma(bv[v], a[i * row_stride], sum[i][v]);
    }

    if (t.c_half) put(sum, static_cast<uint16_t *>(t.c), t.c_row_stride);
    else put(sum, static_cast<float *>(t.c), t.c_row_stride);
}

// The last rows, too few for a whole tile.
template <int ROWS, int VECTORS, bool PANEL> static void last_rows(const Strip &t) {
    if (t.rows == ROWS) return tile_of<ROWS, VECTORS, PANEL>(t);
    if constexpr (ROWS > 1) last_rows<ROWS - 1, VECTORS, PANEL>(t);
}

template <int VECTORS, bool PANEL> static void tiles_down(const Strip &s) {
    int64_t row = 0;
    for (; row + MR <= s.rows; row += MR) tile_of<MR, VECTORS, PANEL>(s.part(row, MR, PANEL_ROWS));
    if (row < s.rows) last_rows<MR - 1, VECTORS, PANEL>(s.part(row, MR, PANEL_ROWS));
}

// A strip of whole vectors in the narrowest tiles that hold it.
template <int VECTORS> static void strip_at_most(const Strip &s) {
    if constexpr (VECTORS > 1)
        if (s.columns <= (VECTORS - 1) * WIDTH) return strip_at_most<VECTORS - 1>(s);
    return s.a_row_stride ? tiles_down<VECTORS, false>(s) : tiles_down<VECTORS, true>(s);
}

static void strip(const Strip &s) {
    if (s.columns % WIDTH == 0) return strip_at_most<NV>(s);
    // Part of a vector goes through a copy as wide as the whole, so that nothing outside C is touched.
    for (int64_t row = 0; row < s.rows; row += MR) {
        const Strip t = s.part(row, MR, PANEL_ROWS);
        alignas(64) float from[MR * NR];
        alignas(64) float to[MR * NR];
        Strip whole = t;
        whole.columns = (t.columns + WIDTH - 1) / WIDTH * WIDTH;
        whole.c = to;
        whole.c_row_stride = NR;
        if (t.start) {
            for (int64_t i = 0; i < t.rows; ++i)
                for (int64_t j = 0; j < whole.columns; ++j)
                    from[i * NR + j] = j < t.columns ? t.start[i * t.start_row_stride + j] : 0;
            whole.start = from;
            whole.start_row_stride = NR;
        }
        strip_at_most<NV>(whole);
        const int64_t size = t.c_half ? sizeof(uint16_t) : sizeof(float);
        for (int64_t i = 0; i < t.rows; ++i)
            memcpy(static_cast<char *>(t.c) + i * t.c_row_stride * size,
                   reinterpret_cast<const char *>(to) + i * NR * size, t.columns * size);
    }
}

// WIDTH columns from `column` on, `columns` of them there, the rest 0, one element at a time: where vectors cannot
// read.
static void pack_b_plain(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                         float *out) {
    for (int64_t k = 0; k < k_count; ++k)
        for (int64_t j = 0; j < WIDTH; ++j) out[k * NR + j] = j < columns ? element(b, k_first + k, column + j) : 0;
}

// The transpose of WIDTH columns that are contiguous, for k a multiple of WIDTH.
static void pack_b_turned(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, float *out) {
    for (int64_t k = 0; k < k_count; k += WIDTH, out += WIDTH * NR) {
        Vec square[WIDTH];
        for (int j = 0; j < WIDTH; ++j) {
            const int64_t at = k_first + k + (column + j) * b.col_stride;
            square[j] = b.elem == Elem::f16 ? load_half(as_f16(b) + at) : load(as_f32(b) + at);
        }
        transpose(square);
        for (int j = 0; j < WIDTH; ++j) store(out + j * NR, square[j]);
    }
}

static void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns, void *panels,
                   int64_t panel_bytes) {
    float *const out = static_cast<float *>(panels);
    const int64_t panel_stride = panel_bytes / static_cast<int64_t>(sizeof(float));
    const int64_t whole = columns / WIDTH * WIDTH;
    int64_t packed = 0;      // k done in whole vectors
    if (b.col_stride == 1) { // rows are contiguous: copy or convert, along the row
        for (; packed < k_count; ++packed) {
            const int64_t at = (k_first + packed) * b.row_stride + column;
            float *panel = out + packed * NR;
            for (int64_t j = 0; j < whole; panel += panel_stride)
                for (int v = 0; v < NV && j < whole; ++v, j += WIDTH)
                    store(panel + v * WIDTH,
                          b.elem == Elem::f16 ? load_half(as_f16(b) + at + j) : load(as_f32(b) + at + j));
        }
    } else if (b.row_stride == 1) {
        packed = k_count / WIDTH * WIDTH;
    }
    for (int64_t j = 0; j < columns; j += WIDTH) {
        float *const to = out + j / NR * panel_stride + j % NR;
        const int64_t done = j < whole ? packed : 0, there = columns - j < WIDTH ? columns - j : WIDTH;
        if (b.col_stride != 1) pack_b_turned(b, k_first, done, column + j, to);
        pack_b_plain(b, k_first + done, k_count - done, column + j, there, to + done * NR);
    }
}

static void pack_a_rows(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, float *out,
                        int64_t out_stride) {
    const bool half = a.elem == Elem::f16;
    for (int64_t i = 0; i < rows; ++i, out += out_stride) {
        const int64_t at = (row + i) * a.row_stride + k_first, size = half ? 2 : 4;
        const char *const next = static_cast<const char *>(a.data) + (at + 2 * a.row_stride) * size;
        for (int64_t k = 0; k < k_count * size && k_count < a.row_stride; k += 64)
            __builtin_prefetch(next + k); // the hardware does not foresee the next of many pieces of rows
        int64_t k = 0;
        for (; k + WIDTH <= k_count; k += WIDTH)
            store(out + k, half ? load_half(as_f16(a) + at + k) : load(as_f32(a) + at + k));
        for (; k < k_count; ++k) out[k] = element(a, row + i, k_first + k);
    }
}

// PANEL_ROWS rows of one k, count of them there, the rest 0.
static inline void copy_column(const MatrixView &a, int64_t at, int64_t count, float *out) {
    float wide[(PANEL_ROWS + WIDTH - 1) / WIDTH * WIDTH] = {};
    if (a.elem == Elem::f16) {
        uint16_t halves[sizeof wide / sizeof *wide] = {};
        memcpy(halves, as_f16(a) + at, count * sizeof(uint16_t));
        for (int i = 0; i < PANEL_ROWS; i += WIDTH) store(wide + i, load_half(halves + i));
    } else {
        memcpy(wide, as_f32(a) + at, count * sizeof(float));
    }
    memcpy(out, wide, PANEL_ROWS * sizeof(float));
}

static void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count,
                          void *panels) {
    float *const out = static_cast<float *>(panels);
    const bool half = a.elem == Elem::f16;
    if (a.row_stride != 1) { // any strides, one element at a time
        for (int64_t i0 = 0; i0 < rows; i0 += PANEL_ROWS)
            for (int64_t k = 0; k < k_count; ++k)
                for (int64_t i = 0; i < PANEL_ROWS; ++i)
                    out[i0 * k_count + k * PANEL_ROWS + i] = i0 + i < rows ? element(a, row + i0 + i, k_first + k) : 0;
        return;
    }
    // Whole vectors read and write past a panel's PANEL_ROWS rows, so they stop where there are no more rows to read,
    // and before the last k, where nothing would overwrite what they spilled.
    constexpr int64_t SPAN = (PANEL_ROWS + WIDTH - 1) / WIDTH * WIDTH, SPILL = (SPAN - 1) / PANEL_ROWS;
    const int64_t wide = rows < SPAN ? 0 : (rows - SPAN) / PANEL_ROWS * PANEL_ROWS + PANEL_ROWS;
    const int64_t size = half ? 2 : 4, ahead = 16 * a.col_stride * size;
    for (int64_t k = 0; k < k_count; ++k) {
        const int64_t at = row + (k_first + k) * a.col_stride;
        const char *const line = static_cast<const char *>(a.data) + at * size + ahead;
        for (int64_t i = 0; i < rows * size; i += 64)
            __builtin_prefetch(line + i); // k apart lie rows apart, too far for the hardware to guess
        int64_t i0 = 0;
        for (; i0 < wide && k + SPILL < k_count; i0 += PANEL_ROWS)
            for (int64_t i = 0; i < SPAN; i += WIDTH)
                store(out + i0 * k_count + k * PANEL_ROWS + i,
                      half ? load_half(as_f16(a) + at + i0 + i) : load(as_f32(a) + at + i0 + i));
        for (; i0 < rows; i0 += PANEL_ROWS)
            copy_column(a, at + i0, rows - i0 < PANEL_ROWS ? rows - i0 : PANEL_ROWS,
                        out + i0 * k_count + k * PANEL_ROWS);
    }
}

// fp32 rows could always be read where they lie, but a straight copy meets far memory more gracefully
// than a tile's few words from each of MR rows; it pays once there are a few tiles to share it.
static bool in_place(const Gemm &g) { return g.a.elem == Elem::f32 && g.a.col_stride == 1 && g.n <= 4 * NR; }

#include "thin_tile.h"

static constexpr GemmKernels kernels_of(const char *isa) {
    return {isa,           MR,      NR,      PANEL_ROWS, 1, sizeof(float), in_place, strip, pack_b, pack_a_rows,
            pack_a_panels, nullptr, nullptr, nullptr,    0, false,         thin};
}
