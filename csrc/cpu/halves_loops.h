// The kernels of halves.h, compiled once per instruction set by halves.cpp. Not a header to include alone: the
// including file has opened a namespace and a target and defined WIDTH, a multiple of 8 that divides 16, vectors
// F and I of WIDTH floats and int32_t, H and D of WIDTH / 2 floats and doubles, load_half(F &, const uint16_t *),
// store_half(uint16_t *, const F &), which rounds to nearest, ties to even, and round_half(F &), to fp16 and back.
// It may have defined WIDEN(v, low, high) as well, a vector's halves as doubles.

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

#define BINARY(NAME, EXPRESSION)                                                                                       \
    static void NAME(Rows z, Rows a, Rows b, int64_t rows, int64_t columns) {                                          \
        for (int64_t i = 0; i < rows; ++i, z.data += z.stride, a.data += a.stride, b.data += b.stride) {               \
            int64_t j = 0;                                                                                             \
            F x, y, r;                                                                                                 \
            for (; j + WIDTH <= columns; j += WIDTH) {                                                                 \
                load_half(x, a.data + j);                                                                              \
                load_half(y, b.data + j);                                                                              \
                r = EXPRESSION;                                                                                        \
                store_half(z.data + j, r);                                                                             \
            }                                                                                                          \
            if (j < columns) {                                                                                         \
                load_some(x, a.data + j, columns - j);                                                                 \
                load_some(y, b.data + j, columns - j);                                                                 \
                r = EXPRESSION;                                                                                        \
                store_some(z.data + j, r, columns - j);                                                                \
            }                                                                                                          \
        }                                                                                                              \
    }
BINARY(add, x + y)
BINARY(sub, x - y)
BINARY(mul, x *y)
BINARY(divide, x / y)
BINARY(maximum, ((x > y) | (x != x)) ? x : y)
BINARY(minimum, ((x < y) | (x != x)) ? x : y)
#undef BINARY

// Doubles of the lower and of the upper half of a vector.
static inline void widen(const F &v, D &low, D &high) {
#ifdef WIDEN
    WIDEN(v, low, high);
#else
    H half[2];
    memcpy(half, &v, sizeof v);
    low = __builtin_convertvector(half[0], D);
    high = __builtin_convertvector(half[1], D);
#endif
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
            for (int k = 0; j < columns; ++j, ++k) sum[j] += static_cast<double>(lanes[k]);
        }
    }
}

// 16 halves as integers, and how the magnitudes and ranks of halves.h are made of them.
typedef int16_t K __attribute__((vector_size(32)));
static inline void magnitude_in(K &h) { h = h & 0x7fff; }
static inline void rank_in(K &h) {
    const K size = h & 0x7fff;
    h = size > 0x7c00 ? size : (h < 0 ? h ^ 0x7fff : h);
}

template <void (*AS)(K &)> static inline void raise(const uint16_t *a, int64_t n, int16_t *most) {
    K h = {}, m = {};
    memcpy(&h, a, n * sizeof *a);
    memcpy(&m, most, n * sizeof *most);
    AS(h);
    m = h > m ? h : m;
    memcpy(most, &m, n * sizeof *most);
}

template <void (*AS)(K &)> static void raise_rows(Rows a, int64_t rows, int64_t columns, int16_t *most) {
    constexpr int64_t LANES = sizeof(K) / sizeof(int16_t);
    for (int64_t i = 0; i < rows; ++i, a.data += a.stride) {
        int64_t j = 0;
        for (; j + LANES <= columns; j += LANES) raise<AS>(a.data + j, LANES, most + j);
        if (j < columns) raise<AS>(a.data + j, columns - j, most + j);
    }
}

static void magnitudes(Rows z, Rows a, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i, z.data += z.stride, a.data += a.stride)
        for (int64_t j = 0; j < columns; ++j) z.data[j] = a.data[j] & 0x7fff;
}

// Sums as host/ops/convert.h's Sum8 does: eight chains by position modulo 8, then the chains.
struct Chains {
    D lanes[16 / WIDTH];
    void add(const F &v) {
        D low, high;
        widen(v, low, high);
        lanes[0] += low;
        lanes[16 / WIDTH - 1] += high;
    }
    double total() const {
        double lane[8];
        memcpy(lane, lanes, sizeof lane);
        return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
};

// The units of exp_sum.h, in as many chains as a vector has lanes: their order is free.
struct Exponentials {
    typedef int64_t L __attribute__((vector_size(WIDTH / 2 * sizeof(int64_t))));
    L lanes[2];
    void add(const F &v) {
        D half[2];
        widen(v, half[0], half[1]);
        for (int i = 0; i < 2; ++i) {
            half[i] = half[i] * EXP_UNIT + EXP_SHIFT;
            L bits;
            memcpy(&bits, &half[i], sizeof bits);
            lanes[i] += bits - EXP_SHIFT_BITS;
        }
    }
    int64_t total() const {
        int64_t lane[WIDTH], sum = 0;
        memcpy(lane, lanes, sizeof lane);
        for (int i = 0; i < WIDTH; ++i) sum += lane[i];
        return sum;
    }
};

// The vector at j of a row of `room` halves. Beyond them it reads 0 and writes nothing.
static inline void load_at(F &v, const uint16_t *row, int64_t j, int64_t room) {
    if (j + WIDTH <= room) load_half(v, row + j);
    else load_some(v, row + j, room - j);
}
static inline void store_at(uint16_t *row, int64_t j, int64_t room, const F &v) {
    if (j + WIDTH <= room) store_half(row + j, v);
    else store_some(row + j, v, room - j);
}

// Lanes from `count` on become `rest`.
static inline void keep_first(F &x, int64_t count, float rest) {
    if (count >= WIDTH) return;
    I lane;
    for (int k = 0; k < WIDTH; ++k) lane[k] = k;
    x = lane < static_cast<int32_t>(count) ? x : F{} + rest;
}

// The largest lane; where one is not a number, the last of those. By halves, without a branch that values decide.
static inline float largest(const F &v) {
    H half[2];
    memcpy(half, &v, sizeof v);
    half[0] = ((half[1] > half[0]) | (half[1] != half[1])) ? half[1] : half[0];
    constexpr int LANES = WIDTH / 2;
    float lanes[LANES], most[LANES];
    memcpy(lanes, half, sizeof lanes);
    memcpy(most, half, sizeof most);
    for (int n = LANES / 2; n; n /= 2)
        for (int k = 0; k < n; ++k) most[k] = most[k + n] > most[k] ? most[k + n] : most[k];
    bool numbers = true;
    for (int k = 0; k < LANES; ++k) numbers &= lanes[k] == lanes[k];
    for (int k = 0; !numbers && k < LANES; ++k) most[0] = lanes[k] != lanes[k] ? lanes[k] : most[0];
    return most[0];
}

static float softmax(const uint16_t *scores, float scale, const uint16_t *mask, int64_t n, int64_t room, float least,
                     float *e, uint16_t *probs) {
    const float lowest = -__builtin_inff();
    F top = F{} + lowest;
    // 1) scores * scale + mask, rounded as operations of their own; the largest of them, NaN where there is one
    for (int64_t j = 0; j < n; j += WIDTH) {
        F x;
        load_at(x, scores, j, room);
        if (scale != 1) {
            x = x * scale;
            round_half(x);
        }
        if (mask) {
            F m;
            load_at(m, mask, j, room);
            x = x + m;
            round_half(x);
        }
        keep_first(x, n - j, lowest);
        store(e + j, x);
        top = ((x > top) | (x != x)) ? x : top;
    }
    const float most = largest(top);
    if (!(most >= least) && !(most != most && least == lowest)) return most;
    // 2) exp and its sum
    Exponentials sum = {};
    for (int64_t j = 0; j < n; j += WIDTH) {
        F x;
        load(x, e + j);
        x = x - most;
        exp_in(x);
        keep_first(x, n - j, 0);
        store(e + j, x);
        sum.add(x);
    }
    const float total = exp_total(sum.total(), most);
    // 3) rounded once
    for (int64_t j = 0; j < room; j += WIDTH) {
        F x = F{};
        if (j < n) {
            load(x, e + j);
            x = x / total;
            keep_first(x, n - j, 0);
        }
        store_at(probs, j, room, x);
    }
    return most;
}

static float softmax_grad(const uint16_t *p, const uint16_t *dp, float scale, int64_t n, int64_t room, uint16_t *ds) {
    Chains sum = {};
    for (int64_t j = 0; j < n; j += WIDTH) {
        F x, y;
        load_at(x, p, j, room);
        load_at(y, dp, j, room);
        x = y * x;
        round_half(x);
        keep_first(x, n - j, 0);
        sum.add(x);
    }
    const float total = half_to_float(half_from_double(sum.total()));
    for (int64_t j = 0; j < room; j += WIDTH) {
        F x = F{}, y;
        if (j < n) {
            load_at(x, p, j, room);
            load_at(y, dp, j, room);
            y = y - total;
            round_half(y);
            x = x * y;
            if (scale != 1) {
                round_half(x);
                x = x * scale;
            }
            keep_first(x, n - j, 0);
        }
        store_at(ds, j, room, x);
    }
    return total;
}

static constexpr HalfKernels KERNELS{{add, sub, mul, divide, maximum, minimum},
                                     add_rows,
                                     magnitudes,
                                     raise_rows<rank_in>,
                                     raise_rows<magnitude_in>,
                                     softmax,
                                     softmax_grad};
