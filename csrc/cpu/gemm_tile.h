// The inner loops of the matrix product, written once against a vector type and compiled per instruction set.
//
// Not a header to include alone. The including file has opened its namespace and target and defined
//   Vec, WIDTH, load(const float *), store(float *, Vec), splat(float), fma(Vec a, float b, Vec c) = a * b + c,
//   load_half(const uint16_t *), store_half(uint16_t *, Vec), transpose(Vec[WIDTH]), MR, NV (vectors per tile row).
// No standard templates may be instantiated here: the linker could keep this file's copy for everyone.

constexpr int NR = NV * WIDTH;

static inline float element(const MatrixView &v, int64_t i, int64_t j) {
    const int64_t at = i * v.row_stride + j * v.col_stride;
    return v.elem == Elem::f32 ? static_cast<const float *>(v.data)[at]
                               : half_to_float(static_cast<const uint16_t *>(v.data)[at]);
}

static inline const float *as_f32(const MatrixView &v) { return static_cast<const float *>(v.data); }
static inline const uint16_t *as_f16(const MatrixView &v) { return static_cast<const uint16_t *>(v.data); }

// ROWS x NR elements of C in registers; a broadcast from A feeds NV fused multiply-adds.
template <int ROWS, bool PANEL> static void tile_rows(const Strip &t) {
    Vec sum[ROWS][NV];
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < NV; ++v)
            sum[i][v] = t.start ? load(t.start + i * t.start_row_stride + v * WIDTH) : splat(0);

    // The tile below is next. Its C is far away as a rule, and no multiplication could start without it.
    if (t.start)
        for (int i = 0; i < ROWS; ++i) {
            __builtin_prefetch(t.start + (MR + i) * t.start_row_stride);
            __builtin_prefetch(t.start + (MR + i) * t.start_row_stride + NR - 1);
        }

    const float *a = static_cast<const float *>(t.a), *b = static_cast<const float *>(t.b);
    const int64_t row_stride = PANEL ? 1 : t.a_row_stride, step = PANEL ? MR : 1;
#pragma GCC unroll 4
    for (int64_t k = 0; k < t.k_count; ++k, a += step, b += NR) {
        Vec bv[NV];
        for (int v = 0; v < NV; ++v)
            bv[v] = load(b + v * WIDTH);
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < NV; ++v)
                sum[i][v] = fma(bv[v], a[i * row_stride], sum[i][v]);
    }

    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < NV; ++v)
            if (t.c_half)
                store_half(static_cast<uint16_t *>(t.c) + i * t.c_row_stride + v * WIDTH, sum[i][v]);
            else
                store(static_cast<float *>(t.c) + i * t.c_row_stride + v * WIDTH, sum[i][v]);
}

template <int ROWS> static void tile_at_most(const Strip &t) {
    if (t.rows == ROWS)
        return t.a_row_stride ? tile_rows<ROWS, false>(t) : tile_rows<ROWS, true>(t);
    if constexpr (ROWS > 1)
        tile_at_most<ROWS - 1>(t);
}

static void tile(const Strip &t) {
    if (t.columns == NR)
        return tile_at_most<MR>(t);
    // A narrow tile goes through a full-width copy, so that nothing outside C is touched.
    alignas(64) float from[MR * NR];
    alignas(64) float to[MR * NR];
    Strip full = t;
    full.columns = NR;
    full.c = to;
    full.c_row_stride = NR;
    if (t.start) {
        for (int64_t i = 0; i < t.rows; ++i)
            for (int64_t j = 0; j < NR; ++j)
                from[i * NR + j] = j < t.columns ? t.start[i * t.start_row_stride + j] : 0;
        full.start = from;
        full.start_row_stride = NR;
    }
    tile_at_most<MR>(full);
    const int64_t size = t.c_half ? sizeof(uint16_t) : sizeof(float);
    for (int64_t i = 0; i < t.rows; ++i)
        memcpy(static_cast<char *>(t.c) + i * t.c_row_stride * size,
               reinterpret_cast<const char *>(to) + i * NR * size, t.columns * size);
}

static void strip(const Strip &s) {
    for (Strip t = s; t.rows > 0; t = t.below(MR)) {
        Strip first = t;
        first.rows = t.rows < MR ? t.rows : MR;
        tile(first);
    }
}

// One element at a time: what is left over where whole vectors do not fit, and any strides.
static void pack_b_plain(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                         float *out) {
    for (int64_t k = 0; k < k_count; ++k)
        for (int64_t j = 0; j < NR; ++j)
            out[k * NR + j] = j < columns ? element(b, k_first + k, column + j) : 0;
}

static void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                   void *panels, int64_t panel_bytes) {
    float *const out = static_cast<float *>(panels);
    const int64_t panel_stride = panel_bytes / static_cast<int64_t>(sizeof(float));
    const bool half = b.elem == Elem::f16;
    const int64_t full = columns / NR;
    int64_t packed = 0; // k done in the full panels
    if (b.col_stride == 1) { // rows are contiguous: copy or convert, along the row
        for (; packed < k_count; ++packed) {
            const int64_t at = (k_first + packed) * b.row_stride + column;
            for (int64_t p = 0; p < full; ++p)
                for (int v = 0; v < NV; ++v) {
                    const int64_t j = p * NR + v * WIDTH;
                    store(out + p * panel_stride + packed * NR + v * WIDTH,
                          half ? load_half(as_f16(b) + at + j) : load(as_f32(b) + at + j));
                }
        }
    } else if (b.row_stride == 1) { // columns are contiguous: transpose WIDTH x WIDTH squares
        packed = k_count / WIDTH * WIDTH;
        for (int64_t p = 0; p < full; ++p)
            for (int64_t k = 0; k < packed; k += WIDTH)
                for (int v = 0; v < NV; ++v) {
                    Vec square[WIDTH];
                    for (int j = 0; j < WIDTH; ++j) {
                        const int64_t at = k_first + k + (column + p * NR + v * WIDTH + j) * b.col_stride;
                        square[j] = half ? load_half(as_f16(b) + at) : load(as_f32(b) + at);
                    }
                    transpose(square);
                    for (int j = 0; j < WIDTH; ++j)
                        store(out + p * panel_stride + (k + j) * NR + v * WIDTH, square[j]);
                }
    }
    for (int64_t p = 0; p < full; ++p)
        pack_b_plain(b, k_first + packed, k_count - packed, column + p * NR, NR,
                     out + p * panel_stride + packed * NR);
    if (full * NR < columns)
        pack_b_plain(b, k_first, k_count, column + full * NR, columns - full * NR, out + full * panel_stride);
}

static void pack_a_rows(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count,
                        float *out, int64_t out_stride) {
    const bool half = a.elem == Elem::f16;
    for (int64_t i = 0; i < rows; ++i, out += out_stride) {
        const int64_t at = (row + i) * a.row_stride + k_first;
        int64_t k = 0;
        for (; k + WIDTH <= k_count; k += WIDTH)
            store(out + k, half ? load_half(as_f16(a) + at + k) : load(as_f32(a) + at + k));
        for (; k < k_count; ++k)
            out[k] = element(a, row + i, k_first + k);
    }
}

// MR rows of one k, count of them there, the rest 0.
static inline void copy_column(const MatrixView &a, int64_t at, int64_t count, float *out) {
    float wide[(MR + WIDTH - 1) / WIDTH * WIDTH] = {};
    if (a.elem == Elem::f16) {
        uint16_t halves[sizeof wide / sizeof *wide] = {};
        memcpy(halves, as_f16(a) + at, count * sizeof(uint16_t));
        for (int i = 0; i < MR; i += WIDTH)
            store(wide + i, load_half(halves + i));
    } else {
        memcpy(wide, as_f32(a) + at, count * sizeof(float));
    }
    memcpy(out, wide, MR * sizeof(float));
}

static void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count,
                          void *panels) {
    float *const out = static_cast<float *>(panels);
    const bool half = a.elem == Elem::f16;
    if (a.row_stride != 1) { // any strides, one element at a time
        for (int64_t i0 = 0; i0 < rows; i0 += MR)
            for (int64_t k = 0; k < k_count; ++k)
                for (int64_t i = 0; i < MR; ++i)
                    out[i0 * k_count + k * MR + i] = i0 + i < rows ? element(a, row + i0 + i, k_first + k) : 0;
        return;
    }
    // Whole vectors read and write past a panel's MR rows, so they stop where there are no more rows to read, and
    // before the last k, where nothing would overwrite what they spilled.
    constexpr int64_t SPAN = (MR + WIDTH - 1) / WIDTH * WIDTH, SPILL = (SPAN - MR + MR - 1) / MR;
    const int64_t wide = rows < SPAN ? 0 : (rows - SPAN) / MR * MR + MR;
    const int64_t size = half ? 2 : 4, ahead = 16 * a.col_stride * size;
    for (int64_t k = 0; k < k_count; ++k) {
        const int64_t at = row + (k_first + k) * a.col_stride;
        const char *const line = static_cast<const char *>(a.data) + at * size + ahead;
        for (int64_t i = 0; i < rows * size; i += 64)
            __builtin_prefetch(line + i); // k apart lie rows apart, too far for the hardware to guess
        int64_t i0 = 0;
        for (; i0 < wide && k + SPILL < k_count; i0 += MR)
            for (int64_t i = 0; i < SPAN; i += WIDTH)
                store(out + i0 * k_count + k * MR + i,
                      half ? load_half(as_f16(a) + at + i0 + i) : load(as_f32(a) + at + i0 + i));
        for (; i0 < rows; i0 += MR)
            copy_column(a, at + i0, rows - i0 < MR ? rows - i0 : MR, out + i0 * k_count + k * MR);
    }
}

// fp32 rows could always be read where they lie, but a straight copy meets far memory more gracefully
// than a tile's few words from each of MR rows; it pays once there are a few tiles to share it.
static bool in_place(const Gemm &g) { return g.a.elem == Elem::f32 && g.a.col_stride == 1 && g.n <= 4 * NR; }

static constexpr GemmKernels kernels_of(const char *isa) {
    return {isa,  MR,     NR,          1,             sizeof(float), in_place,
            strip, pack_b, pack_a_rows, pack_a_panels, nullptr,       nullptr};
}
