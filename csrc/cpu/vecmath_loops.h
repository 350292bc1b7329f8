// The array functions of vecmath.h, compiled once per instruction set by vecmath.cpp. Not a header to include alone:
// the including file has opened a namespace and defined F and I, vectors of WIDTH floats and int32_t, and perhaps
// STREAM(p, v), a store of an aligned vector past the caches, and STREAMED(), after which others may read them.

#include "vecmath_body.h"

#ifndef STREAM
#define STREAM(p, v) store(p, v)
#define STREAMED()
#endif

static inline void load(F &v, const float *p) { memcpy(&v, p, sizeof v); }
static inline void store(float *p, const F &v) { memcpy(p, &v, sizeof v); }

// Whole vectors from memory; what is left goes through a padded copy.
template <void (*f)(F &)> static void each(const float *x, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        F v;
        load(v, x + i);
        f(v);
        store(y + i, v);
    }
    if (i < n) {
        F rest = F{};
        memcpy(&rest, x + i, (n - i) * sizeof(float));
        f(rest);
        memcpy(y + i, &rest, (n - i) * sizeof(float));
    }
}

static void max_rows(const float *x, int64_t rows, int64_t stride, int64_t n, float *most) {
    for (int64_t i = 0; i < rows; ++i, x += stride) {
        int64_t j = 0;
        for (; j + WIDTH <= n; j += WIDTH) {
            F v, m;
            load(v, x + j);
            load(m, most + j);
            m = m < v ? v : m;
            store(most + j, m);
        }
        for (; j < n; ++j) most[j] = most[j] < x[j] ? x[j] : most[j];
    }
}

static void exp_sum_rows(const float *x, int64_t rows, int64_t stride, int64_t n, const float *most, float *sum,
                         float *y) {
    const bool aligned =
        (reinterpret_cast<uintptr_t>(y) | static_cast<uintptr_t>(stride * sizeof(float))) % sizeof(F) == 0;
    const bool far = y != x && aligned;
    for (int64_t i = 0; i < rows; ++i, x += stride, y += stride) {
        int64_t j = 0;
        for (; j + WIDTH <= n; j += WIDTH) {
            F v, m, s;
            load(v, x + j);
            load(m, most + j);
            v = v - m;
            exp_in(v);
            if (far) STREAM(y + j, v);
            else store(y + j, v);
            load(s, sum + j);
            s = s + v;
            store(sum + j, s);
        }
        for (; j < n; ++j) {
            y[j] = exp_float(x[j] - most[j]);
            sum[j] += y[j];
        }
    }
    if (far) {
        STREAMED();
    }
}

static void scale_rows(const float *x, int64_t rows, int64_t stride, int64_t n, const float *factor, float *y) {
    for (int64_t i = 0; i < rows; ++i, x += stride, y += stride) {
        int64_t j = 0;
        for (; j + WIDTH <= n; j += WIDTH) {
            F v, f;
            load(v, x + j);
            load(f, factor + j);
            v = v * f;
            store(y + j, v);
        }
        for (; j < n; ++j) y[j] = x[j] * factor[j];
    }
}

constexpr int SUMS = 32, TILE = 8 * WIDTH / SUMS; // a dot product, and how many of them are under way at a time

typedef float Four __attribute__((vector_size(16)));

// Sums in vectors, folded by halves.
static inline float folded(const F *sum) {
    F all[SUMS / WIDTH];
    memcpy(all, sum, sizeof all);
    for (int half = SUMS / WIDTH / 2; half; half /= 2)
        for (int s = 0; s < half; ++s) all[s] += all[s + half];
    Four parts[WIDTH / 4];
    memcpy(parts, all, sizeof parts);
    for (int half = WIDTH / 8; half; half /= 2)
        for (int s = 0; s < half; ++s) parts[s] += parts[s + half];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

// ROWS rows with COLUMNS columns.
template <int ROWS, int COLUMNS>
static void dot_tile(const float *matrix, int64_t n, const float *x, float *out, int64_t stride) {
    F sum[ROWS][COLUMNS][SUMS / WIDTH] = {};
    int64_t k = 0;
    for (; k + SUMS <= n; k += SUMS)
        for (int s = 0; s < SUMS / WIDTH; ++s)
            for (int i = 0; i < ROWS; ++i) {
                F a;
                load(a, matrix + i * n + k + s * WIDTH);
                for (int j = 0; j < COLUMNS; ++j) {
                    F b;
                    load(b, x + j * n + k + s * WIDTH);
                    sum[i][j][s] += a * b;
                }
            }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < COLUMNS; ++j) {
            if (k < n) {
                float all[SUMS];
                memcpy(all, sum[i][j], sizeof all);
                for (int64_t m = 0; k + m < n; ++m) all[m] += matrix[i * n + k + m] * x[j * n + k + m];
                memcpy(sum[i][j], all, sizeof all);
            }
            out[j * stride + i] = folded(sum[i][j]);
        }
}

// All rows with COLUMNS columns, as many rows at a time as a tile has room for.
template <int COLUMNS>
static void dot_columns(const float *matrix, int64_t rows, int64_t n, const float *x, float *out, int64_t stride) {
    constexpr int AT_ONCE = TILE / COLUMNS;
    int64_t i = 0;
    for (; i + AT_ONCE <= rows; i += AT_ONCE) dot_tile<AT_ONCE, COLUMNS>(matrix + i * n, n, x, out + i, stride);
    for (; i < rows; ++i) dot_tile<1, COLUMNS>(matrix + i * n, n, x, out + i, stride);
}

static void dot_rows_in(const float *matrix, int64_t rows, int64_t n, const float *x, int64_t columns, float *out,
                        int64_t stride) {
    int64_t j = 0;
    for (; j + TILE <= columns; j += TILE) dot_columns<TILE>(matrix, rows, n, x + j * n, out + j * stride, stride);
    for (; j < columns; ++j) dot_columns<1>(matrix, rows, n, x + j * n, out + j * stride, stride);
}

static constexpr Loops LOOPS{each<exp_in>, each<sigmoid_in>, each<tanh_in>, max_rows,
                             exp_sum_rows, scale_rows,       dot_rows_in};

#undef STREAM
#undef STREAMED
