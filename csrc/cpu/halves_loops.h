// The kernels of halves.h, compiled once per instruction set by halves.cpp. Not a header to include alone: the
// including file has opened a namespace and a target and defined WIDTH, a multiple of 8 that divides 16, vectors
// F and I of WIDTH floats and int32_t, D of WIDTH / 2 doubles, load_half(F &, const uint16_t *) and
// store_half(uint16_t *, const F &), which rounds to nearest, ties to even.

#include "vecmath_body.h"

static inline void load(F &v, const float *p) { memcpy(&v, p, sizeof v); }
static inline void store(float *p, const F &v) { memcpy(p, &v, sizeof v); }

// What is left of a row goes through a padded copy.
static inline void load_some(F &v, const uint16_t *p, int64_t n) {
    uint16_t padded[WIDTH] = {};
    memcpy(padded, p, n * sizeof(uint16_t));
    load_half(v, padded);
}
static inline void store_some(uint16_t *p, const F &v, int64_t n) {
    uint16_t padded[WIDTH];
    store_half(padded, v);
    memcpy(p, padded, n * sizeof(uint16_t));
}

#define BINARY(NAME, EXPRESSION)                                                                   \
    static void NAME(Rows z, Rows a, Rows b, int64_t rows, int64_t columns) {                      \
        for (int64_t i = 0; i < rows; ++i, z.data += z.stride, a.data += a.stride, b.data += b.stride) { \
            int64_t j = 0;                                                                         \
            F x, y, r;                                                                             \
            for (; j + WIDTH <= columns; j += WIDTH) {                                             \
                load_half(x, a.data + j);                                                          \
                load_half(y, b.data + j);                                                          \
                r = EXPRESSION;                                                                    \
                store_half(z.data + j, r);                                                         \
            }                                                                                      \
            if (j < columns) {                                                                     \
                load_some(x, a.data + j, columns - j);                                             \
                load_some(y, b.data + j, columns - j);                                             \
                r = EXPRESSION;                                                                    \
                store_some(z.data + j, r, columns - j);                                            \
            }                                                                                      \
        }                                                                                          \
    }
BINARY(add, x + y)
BINARY(sub, x - y)
BINARY(mul, x *y)
BINARY(divide, x / y)
BINARY(maximum, ((x > y) | (x != x)) ? x : y)
BINARY(minimum, ((x < y) | (x != x)) ? x : y)
#undef BINARY

// Doubles of the even half and the odd half of a vector: lanes 0.. and WIDTH / 2..
static inline void widen(const F &v, D &low, D &high) {
    float lanes[WIDTH];
    store(lanes, v);
    for (int i = 0; i < WIDTH / 2; ++i) {
        low[i] = static_cast<double>(lanes[i]);
        high[i] = static_cast<double>(lanes[WIDTH / 2 + i]);
    }
}

static void add_rows(Rows a, int64_t rows, int64_t columns, double *sum) {
    for (int64_t i = 0; i < rows; ++i, a.data += a.stride) {
        int64_t j = 0;
        for (; j + WIDTH <= columns; j += WIDTH) {
            F x;
            D low, high, s[2];
            load_half(x, a.data + j);
            widen(x, low, high);
            memcpy(s, sum + j, sizeof s);
            s[0] += low;
            s[1] += high;
            memcpy(sum + j, s, sizeof s);
        }
        if (j < columns) {
            F x;
            float lanes[WIDTH];
            load_some(x, a.data + j, columns - j);
            store(lanes, x);
            for (int k = 0; j < columns; ++j, ++k)
                sum[j] += static_cast<double>(lanes[k]);
        }
    }
}

// Sums as host/blocks.h's Sum8 does: eight chains by position modulo 8, then the chains.
struct Chains {
    double lane[8];
    void add(const F &v) {
        float lanes[WIDTH];
        store(lanes, v);
        for (int k = 0; k < WIDTH; k += 8)
            for (int j = 0; j < 8; ++j)
                lane[j] += static_cast<double>(lanes[k + j]);
    }
    double total() const {
        return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
};

// To fp16 and back.
static inline void round_in(F &x) {
    uint16_t rounded[WIDTH];
    store_half(rounded, x);
    load_half(x, rounded);
}

static float softmax(const uint16_t *scores, float scale, const uint16_t *mask, int64_t n, float least, float *e,
                     uint16_t *probs) {
    const float lowest = -__builtin_inff();
    const int64_t whole = n / WIDTH * WIDTH;
    F top = F{} + lowest;
    // 1) scores * scale + mask, rounded as operations of their own; the largest of them, NaN where there is one
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t left = n - j;
        F x;
        if (left >= WIDTH) load_half(x, scores + j);
        else load_some(x, scores + j, left);
        if (scale != 1) {
            x = x * scale;
            round_in(x);
        }
        if (mask) {
            F m;
            if (left >= WIDTH) load_half(m, mask + j);
            else load_some(m, mask + j, left);
            x = x + m;
            round_in(x);
        }
        if (left >= WIDTH) {
            store(e + j, x);
            top = ((x > top) | (x != x)) ? x : top;
        } else {
            float lanes[WIDTH];
            store(lanes, x);
            memcpy(e + j, lanes, left * sizeof(float));
            for (int64_t k = left; k < WIDTH; ++k)
                lanes[k] = lowest;
            load(x, lanes);
            top = ((x > top) | (x != x)) ? x : top;
        }
    }
    float lanes[WIDTH], most = lowest;
    store(lanes, top);
    for (int k = 0; k < WIDTH; ++k)
        most = (lanes[k] > most || lanes[k] != lanes[k]) ? lanes[k] : most;
    if (!(most >= least) && !(most != most && least == lowest)) return most;
    // 2) exp and its sum
    Chains sum = {};
    for (int64_t j = 0; j < whole; j += WIDTH) {
        F x;
        load(x, e + j);
        x = x - most;
        exp_in(x);
        store(e + j, x);
        sum.add(x);
    }
    if (whole < n) {
        F x = F{};
        memcpy(&x, e + whole, (n - whole) * sizeof(float));
        x = x - most;
        exp_in(x);
        memcpy(e + whole, &x, (n - whole) * sizeof(float));
        for (int64_t j = whole; j < n; ++j)
            sum.lane[j % 8] += static_cast<double>(e[j]);
    }
    const float total = static_cast<float>(sum.total());
    // 3) rounded once
    for (int64_t j = 0; j < whole; j += WIDTH) {
        F x;
        load(x, e + j);
        x = x / total;
        store_half(probs + j, x);
    }
    if (whole < n) {
        F x = F{};
        memcpy(&x, e + whole, (n - whole) * sizeof(float));
        x = x / total;
        store_some(probs + whole, x, n - whole);
    }
    return most;
}

static float softmax_grad(const uint16_t *p, const uint16_t *dp, float scale, int64_t n, uint16_t *ds) {
    Chains sum = {};
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t left = n - j;
        F x, y;
        if (left >= WIDTH) {
            load_half(x, p + j);
            load_half(y, dp + j);
        } else {
            load_some(x, p + j, left);
            load_some(y, dp + j, left);
        }
        x = y * x;
        round_in(x);
        sum.add(x); // what pads a short vector is 0
    }
    const float total = half_to_float(half_from_double(sum.total()));
    for (int64_t j = 0; j < n; j += WIDTH) {
        const int64_t left = n - j;
        F x, y;
        if (left >= WIDTH) {
            load_half(x, p + j);
            load_half(y, dp + j);
        } else {
            load_some(x, p + j, left);
            load_some(y, dp + j, left);
        }
        y = y - total;
        round_in(y);
        x = x * y;
        if (scale != 1) {
            round_in(x);
            x = x * scale;
        }
        if (left >= WIDTH) store_half(ds + j, x);
        else store_some(ds + j, x, left);
    }
    return total;
}

static constexpr HalfKernels KERNELS{{add, sub, mul, divide, maximum, minimum}, add_rows, softmax, softmax_grad};
