// The inner loops of the matrix product, written once against a vector type and compiled per instruction set.
//
// Not a header to include alone. The including file has opened its namespace and target and defined
//   Vec, WIDTH, load(const float *), store(float *, Vec), splat(float), fma(Vec a, float b, Vec c) = a * b + c,
//   load_half(const uint16_t *), store_half(uint16_t *, Vec), transpose(Vec[WIDTH]), MR, NV (vectors per tile row),
//   and AHEAD: so many k ahead B is fetched, 0 where a panel of it stays in the first cache.
// No standard templates may be instantiated here: the linker could keep this file's copy for everyone.

constexpr int NR = NV * WIDTH;

// A panel of A holds whole tiles and whole vectors: the least common multiple.
constexpr int least_common_multiple(int a, int b, int at) { return at % b ? least_common_multiple(a, b, at + a) : at; }
constexpr int PANEL_ROWS = least_common_multiple(MR, WIDTH, MR);

static inline float element(const MatrixView &v, int64_t i, int64_t j) {
    const int64_t at = i * v.row_stride + j * v.col_stride;
    return v.elem == Elem::f32 ? static_cast<const float *>(v.data)[at]
                               : half_to_float(static_cast<const uint16_t *>(v.data)[at]);
}

static inline const float *as_f32(const MatrixView &v) { return static_cast<const float *>(v.data); }
static inline const uint16_t *as_f16(const MatrixView &v) { return static_cast<const uint16_t *>(v.data); }

// ROWS rows by VECTORS vectors of C in registers; a broadcast from A feeds VECTORS fused multiply-adds.
template <int ROWS, int VECTORS, bool PANEL> static void tile_of(const Strip &t) {
    Vec sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v)
            sum[i][v] = t.start ? load(t.start + i * t.start_row_stride + v * WIDTH) : splat(0);

    // The tile below is next. Its C is far away as a rule, and no multiplication could start without it.
    if (t.start)
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v)
                __builtin_prefetch(t.start + (MR + i) * t.start_row_stride + v * WIDTH);

    const float *a = static_cast<const float *>(t.a), *b = static_cast<const float *>(t.b);
    const int64_t row_stride = PANEL ? 1 : t.a_row_stride, step = PANEL ? PANEL_ROWS : 1;
#pragma GCC unroll 2
    for (int64_t k = 0; k < t.k_count; ++k, a += step, b += NR) {
        Vec bv[VECTORS];
        for (int v = 0; v < VECTORS; ++v) {
            bv[v] = load(b + v * WIDTH);
            if (AHEAD)
                __builtin_prefetch(b + AHEAD * NR + v * WIDTH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; ++i)
            for (int v = 0; v < VECTORS; ++v)
                sum[i][v] = fma(bv[v], a[i * row_stride], sum[i][v]);
    }

    for (int i = 0; i < ROWS; ++i)
        for (int v = 0; v < VECTORS; ++v)
            if (t.c_half)
                store_half(static_cast<uint16_t *>(t.c) + i * t.c_row_stride + v * WIDTH, sum[i][v]);
            else
                store(static_cast<float *>(t.c) + i * t.c_row_stride + v * WIDTH, sum[i][v]);
}

// The smallest of the tiles that hold t, whose columns are whole vectors.
template <int ROWS, int VECTORS> static void tile_at_most(const Strip &t) {
    if constexpr (VECTORS > 1)
        if (t.columns <= (VECTORS - 1) * WIDTH)
            return tile_at_most<ROWS, VECTORS - 1>(t);
    if constexpr (ROWS > 1)
        if (t.rows < ROWS)
            return tile_at_most<ROWS - 1, VECTORS>(t);
    return t.a_row_stride ? tile_of<ROWS, VECTORS, false>(t) : tile_of<ROWS, VECTORS, true>(t);
}

static void tile(const Strip &t) {
    if (t.columns % WIDTH == 0)
        return tile_at_most<MR, NV>(t);
    // Part of a vector goes through a copy as wide as the whole, so that nothing outside C is touched.
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
    tile_at_most<MR, NV>(whole);
    const int64_t size = t.c_half ? sizeof(uint16_t) : sizeof(float);
    for (int64_t i = 0; i < t.rows; ++i)
        memcpy(static_cast<char *>(t.c) + i * t.c_row_stride * size,
               reinterpret_cast<const char *>(to) + i * NR * size, t.columns * size);
}

static void strip(const Strip &s) {
    for (int64_t row = 0; row < s.rows; row += MR)
        tile(s.part(row, MR, PANEL_ROWS));
}

// WIDTH columns from `column` on, `columns` of them there, the rest 0, one element at a time: where vectors cannot read.
static void pack_b_plain(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                         float *out) {
    for (int64_t k = 0; k < k_count; ++k)
        for (int64_t j = 0; j < WIDTH; ++j)
            out[k * NR + j] = j < columns ? element(b, k_first + k, column + j) : 0;
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
        for (int j = 0; j < WIDTH; ++j)
            store(out + j * NR, square[j]);
    }
}

static void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns,
                   void *panels, int64_t panel_bytes) {
    float *const out = static_cast<float *>(panels);
    const int64_t panel_stride = panel_bytes / static_cast<int64_t>(sizeof(float));
    const int64_t whole = columns / WIDTH * WIDTH;
    int64_t packed = 0; // k done in whole vectors
    if (b.col_stride == 1) { // rows are contiguous: copy or convert, along the row
        for (; packed < k_count; ++packed) {
            const int64_t at = (k_first + packed) * b.row_stride + column;
            float *panel = out + packed * NR;
            for (int64_t j = 0; j < whole; panel += panel_stride)
                for (int v = 0; v < NV && j < whole; ++v, j += WIDTH)
                    store(panel + v * WIDTH, b.elem == Elem::f16 ? load_half(as_f16(b) + at + j) : load(as_f32(b) + at + j));
        }
    } else if (b.row_stride == 1) {
        packed = k_count / WIDTH * WIDTH;
    }
    for (int64_t j = 0; j < columns; j += WIDTH) {
        float *const to = out + j / NR * panel_stride + j % NR;
        const int64_t done = j < whole ? packed : 0, there = columns - j < WIDTH ? columns - j : WIDTH;
        if (b.col_stride != 1)
            pack_b_turned(b, k_first, done, column + j, to);
        pack_b_plain(b, k_first + done, k_count - done, column + j, there, to + done * NR);
    }
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

// WIDTH rows of one k, count of them there, the rest 0.
static inline void copy_rest(const MatrixView &a, int64_t at, int64_t count, float *out) {
    uint16_t halves[WIDTH] = {};
    float floats[WIDTH] = {};
    if (a.elem == Elem::f16) {
        memcpy(halves, as_f16(a) + at, count * sizeof(uint16_t));
        store(out, load_half(halves));
    } else {
        memcpy(floats, as_f32(a) + at, count * sizeof(float));
        store(out, load(floats));
    }
}

static void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count,
                          void *panels) {
    float *const out = static_cast<float *>(panels);
    const int64_t padded = (rows + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS;
    if (a.row_stride != 1) { // any strides, one element at a time
        for (int64_t i = 0; i < padded; ++i)
            for (int64_t k = 0; k < k_count; ++k)
                out[i / PANEL_ROWS * PANEL_ROWS * k_count + k * PANEL_ROWS + i % PANEL_ROWS] =
                    i < rows ? element(a, row + i, k_first + k) : 0;
        return;
    }
    const bool half = a.elem == Elem::f16;
    const int64_t size = half ? 2 : 4, ahead = 16 * a.col_stride * size, whole = rows / WIDTH * WIDTH;
    for (int64_t k = 0; k < k_count; ++k) {
        const int64_t at = row + (k_first + k) * a.col_stride;
        const char *const line = static_cast<const char *>(a.data) + at * size + ahead;
        for (int64_t i = 0; i < rows * size; i += 64)
            __builtin_prefetch(line + i); // k apart lie rows apart, too far for the hardware to guess
        float *panel = out + k * PANEL_ROWS;
        for (int64_t i = 0; i < padded; panel += PANEL_ROWS * k_count)
            for (int v = 0; v < PANEL_ROWS; v += WIDTH, i += WIDTH)
                if (i < whole)
                    store(panel + v, half ? load_half(as_f16(a) + at + i) : load(as_f32(a) + at + i));
                else
                    copy_rest(a, at + i, i < rows ? rows - i : 0, panel + v);
    }
}

// fp32 rows could always be read where they lie, but a straight copy meets far memory more gracefully
// than a tile's few words from each of MR rows; it pays once there are a few tiles to share it.
static bool in_place(const Gemm &g) { return g.a.elem == Elem::f32 && g.a.col_stride == 1 && g.n <= 4 * NR; }

static constexpr GemmKernels kernels_of(const char *isa) {
    return {isa,  MR,     NR,          PANEL_ROWS,    1,       sizeof(float), in_place,
            strip, pack_b, pack_a_rows, pack_a_panels, nullptr,       nullptr};
}
