// The inner loops of Q15.16 products (fixed.h), written once and compiled per instruction set.
//
// Not a header to include alone. The including file has opened its namespace and target and defined
//   Vec and Int of WIDTH floats and int32, load, splat, size_of, sign_of (of a float), zero, add, store(int32_t *,
//   Int), term(a, least, half, b, size, sign): trunc(a b + (half ^ sign)) where size >= least, else 0, MR rows and NV
//   vectors of a tile.
// Where no partial sum of a tile can overflow, which norms of its operands tell, sums are int32. Elsewhere
// they are doubles, which hold every sum exactly and keep an infinity.

static constexpr int NR = NV * WIDTH;
static constexpr int PER_FACTOR = 3; // floats of A in a panel: the factor, its least partner, 0.5 with its sign
// Sums of magnitudes in units below this stay below FIXED_END, though they are taken in fp32 and terms are rounded.
static constexpr float SAFE = 2.0e9f;

static void finish(const Strip &s, int64_t row, const uint16_t *line) {
    std::memcpy(static_cast<uint16_t *>(s.c) + row * s.c_row_stride, line,
                static_cast<size_t>(s.columns) * sizeof *line);
}

// s begins at a panel of A.
static void tile(const Strip &s) {
    const float *a = static_cast<const float *>(s.a), *b = static_cast<const float *>(s.b);
    Int sum[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[i][v] = zero();
    for (int64_t k = 0; k < s.k_count; ++k, a += PER_FACTOR * MR, b += NR) {
        Vec bv[NV], size[NV], sign[NV];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) {
            bv[v] = load(b + v * WIDTH);
            size[v] = size_of(bv[v]);
            sign[v] = sign_of(bv[v]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
            const Vec x = splat(a[i]), least = splat(a[MR + i]), half = splat(a[2 * MR + i]);
#pragma GCC unroll 4
            for (int v = 0; v < NV; ++v) sum[i][v] = add(sum[i][v], term(x, least, half, bv[v], size[v], sign[v]));
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
        if (i >= s.rows) return;
        alignas(64) int32_t units[NR];
        uint16_t line[NR];
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) store(units + v * WIDTH, sum[i][v]);
        for (int j = 0; j < NR; ++j) line[j] = fixed_to_half(units[j]);
        finish(s, i, line);
    }
}

// The same where sums may overflow.
static void careful_tile(const Strip &s) {
    for (int64_t i = 0; i < s.rows; ++i) {
        const float *a = static_cast<const float *>(s.a) + i, *b = static_cast<const float *>(s.b);
        double sum[NR] = {};
        for (int64_t k = 0; k < s.k_count; ++k, a += PER_FACTOR * MR, b += NR)
            for (int j = 0; j < NR; ++j) sum[j] = fixed_add(sum[j], fixed_term(a[0], a[MR], b[j]));
        uint16_t line[NR];
        for (int j = 0; j < NR; ++j) line[j] = fixed_result(sum[j]);
        finish(s, i, line);
    }
}

static void strip(const Strip &s) {
    const float *const b = static_cast<const float *>(s.b);
    float largest[NR] = {};
    for (int64_t k = 0; k < s.k_count; ++k)
        for (int j = 0; j < NR; ++j) {
            const float size = std::fabs(b[k * NR + j]);
            largest[j] = size > largest[j] ? size : largest[j];
        }
    float most = 0;
    for (float x : largest) most = x > most ? x : most;
    for (int64_t row = 0; row < s.rows; row += MR) {
        const Strip part = s.part(row, MR, MR);
        const float *a = static_cast<const float *>(part.a);
        float norm[MR] = {};
        for (int64_t k = 0; k < s.k_count; ++k, a += PER_FACTOR * MR)
            for (int i = 0; i < MR; ++i) norm[i] += std::fabs(a[i]);
        float bound = 0;
        for (float x : norm) bound = x > bound ? x : bound;
        if (bound * most + static_cast<float>(s.k_count) < SAFE) tile(part);
        else careful_tile(part);
    }
}

static void pack_b(const MatrixView &b, int64_t k_first, int64_t k_count, int64_t column, int64_t columns, void *out,
                   int64_t panel_bytes) {
    for (int64_t first = 0; first < columns; first += NR, out = static_cast<char *>(out) + panel_bytes) {
        const int64_t n = columns - first < NR ? columns - first : NR;
        auto *to = static_cast<float *>(out);
        for (int64_t k = 0; k < k_count; ++k, to += NR) {
            const auto *from =
                static_cast<const uint16_t *>(b.data) + (k_first + k) * b.row_stride + (column + first) * b.col_stride;
            uint16_t line[NR] = {};
            if (b.col_stride == 1) std::memcpy(line, from, static_cast<size_t>(n) * sizeof *line);
            else
                for (int64_t j = 0; j < n; ++j) line[j] = from[j * b.col_stride];
            for (int j = 0; j < NR; ++j) to[j] = fixed_factor(line[j]);
        }
    }
}

static void pack_a_panels(const MatrixView &a, int64_t row, int64_t rows, int64_t k_first, int64_t k_count, void *out) {
    auto *to = static_cast<float *>(out);
    for (int64_t first = 0; first < rows; first += MR) {
        const int64_t n = rows - first < MR ? rows - first : MR;
        for (int64_t k = 0; k < k_count; ++k, to += PER_FACTOR * MR) {
            const auto *from =
                static_cast<const uint16_t *>(a.data) + (row + first) * a.row_stride + (k_first + k) * a.col_stride;
            uint16_t line[MR] = {};
            for (int64_t i = 0; i < n; ++i) line[i] = from[i * a.row_stride];
            for (int i = 0; i < MR; ++i) {
                const float x = fixed_factor(line[i]);
                to[i] = FIXED_ONE * x;
                to[MR + i] = fixed_least(x);
                to[2 * MR + i] = std::copysign(0.5f, x);
            }
        }
    }
}

static constexpr GemmKernels kernels_of(const char *isa) {
    GemmKernels kernels{isa,           MR,      NR,     MR, 1, sizeof(float), nullptr, strip, pack_b, nullptr,
                        pack_a_panels, nullptr, nullptr};
    kernels.a_packed_bytes = PER_FACTOR * sizeof(float);
    kernels.whole_k = true;
    return kernels;
}
