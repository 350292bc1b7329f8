// Not a header to include alone: the inner loop of thin products, compiled once per instruction set behind tile.h,
// whose vectors it uses.
//
// The wide operand is read once, where it lies: WIDTH lanes (rows of A or columns of B) by all k. Lanes that lie side
// by side are vectors as they are; where k does, squares of lanes by k are transposed on the way. Every element of C is
// the chain over k that gemm.h promises.

constexpr int64_t THIN_AHEAD = 32; // k whose lanes are fetched before their turn

template <class T> static inline Vec wide_vector(const T *p) {
    if constexpr (sizeof(T) == 2) return load_half(p);
    else return load(p);
}

// `there` of WIDTH elements.
template <class T> static inline Vec wide_part(const T *p, int64_t there) {
    T padded[WIDTH] = {};
    memcpy(padded, p, there * sizeof(T));
    return wide_vector(padded);
}

template <class T> static inline const T *wide_at(const Thin &t, int64_t lane) {
    const T *const wide = static_cast<const T *>(t.wide);
    return t.block ? wide + lane / t.block * t.block * t.k_count + lane % t.block : wide + lane * t.lane_stride;
}

// GROUPS vectors of lanes from `lane` on, `there` lanes of them real. Several vectors keep several chains under way
// where N is small.
template <int N, int GROUPS, bool TURNED, class T>
static __attribute__((noinline)) void thin_lanes(const Thin &t, int64_t lane, int64_t there) {
    alignas(64) float out[N][GROUPS * WIDTH] = {};
    if (t.accumulate)
        for (int64_t i = 0; i < there; ++i)
            for (int j = 0; j < N; ++j)
                out[j][i] = static_cast<float *>(t.c)[(lane + i) * t.c_lane_stride + j * t.c_thin_stride];
    Vec sum[GROUPS][N];
    for (int g = 0; g < GROUPS; ++g)
        for (int j = 0; j < N; ++j) sum[g][j] = load(out[j] + g * WIDTH);
    const float *thin = t.thin;
    if constexpr (TURNED) {
        const T *const wide = wide_at<T>(t, lane);
        // A cache line of each row at a time, through a copy: rows that lie a power of two apart push each other out.
        constexpr int64_t LINE = 64 / sizeof(T);
        alignas(64) T lines[WIDTH][LINE] = {};
        for (int64_t k = 0; k < t.k_count; k += LINE, thin += LINE * N) {
            const int64_t left = t.k_count - k < LINE ? t.k_count - k : LINE;
            for (int g = 0; g < GROUPS; ++g) {
#pragma GCC unroll 16
                for (int i = 0; i < WIDTH; ++i) {
                    const int64_t row = g * WIDTH + i < there ? g * WIDTH + i : there - 1; // past the last: it again
                    const T *const p = wide + row * t.lane_stride + k;
                    __builtin_prefetch(p + GROUPS * WIDTH * t.lane_stride, 0, 2);
                    if (left == LINE) memcpy(lines[i], p, sizeof lines[i]);
                    else memcpy(lines[i], p, left * sizeof(T));
                }
                for (int64_t part = 0; part < left; part += WIDTH) {
                    Vec square[WIDTH];
#pragma GCC unroll 16
                    for (int i = 0; i < WIDTH; ++i) square[i] = wide_vector(lines[i] + part);
                    transpose(square);
                    const float *const factor = thin + part * N;
                    if (part + WIDTH <= left) {
#pragma GCC unroll 16
                        for (int i = 0; i < WIDTH; ++i)
#pragma GCC unroll 8
                            for (int j = 0; j < N; ++j) sum[g][j] = fma(square[i], factor[i * N + j], sum[g][j]);
                    } else {
                        for (int64_t i = 0; i < left - part; ++i)
                            for (int j = 0; j < N; ++j) sum[g][j] = fma(square[i], factor[i * N + j], sum[g][j]);
                    }
                }
            }
        }
    } else {
        const T *wide[GROUPS];
        for (int g = 0; g < GROUPS; ++g) wide[g] = wide_at<T>(t, lane + g * WIDTH);
        for (int64_t k = 0; k < t.k_count; ++k, thin += N)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; ++g) {
                const T *const p = wide[g] + k * t.k_stride;
                __builtin_prefetch(p + THIN_AHEAD * t.k_stride, 0, 3);
                const Vec v = (g + 1) * WIDTH <= there ? wide_vector(p) : wide_part(p, there - g * WIDTH);
#pragma GCC unroll 8
                for (int j = 0; j < N; ++j) sum[g][j] = fma(v, thin[j], sum[g][j]);
            }
    }
    for (int g = 0; g < GROUPS; ++g)
        for (int j = 0; j < N; ++j) store(out[j] + g * WIDTH, sum[g][j]);
    if (!t.c_half) {
        for (int j = 0; j < N; ++j)
            for (int64_t i = 0; i < there; ++i)
                static_cast<float *>(t.c)[(lane + i) * t.c_lane_stride + j * t.c_thin_stride] = out[j][i];
        return;
    }
    uint16_t halves[GROUPS * WIDTH];
    for (int j = 0; j < N; ++j) {
        for (int g = 0; g < GROUPS; ++g) store_half(halves + g * WIDTH, load(out[j] + g * WIDTH));
        for (int64_t i = 0; i < there; ++i)
            static_cast<uint16_t *>(t.c)[(lane + i) * t.c_lane_stride + j * t.c_thin_stride] = halves[i];
    }
}

template <int N, bool TURNED, class T> static void thin_all(const Thin &t) {
    constexpr int GROUPS = TURNED ? (N == 1 ? 2 : 1) : N == 1 ? 4 : N <= 4 ? 2 : 1;
    int64_t lane = 0;
    for (; lane + GROUPS * WIDTH <= t.lanes; lane += GROUPS * WIDTH)
        thin_lanes<N, GROUPS, TURNED, T>(t, lane, GROUPS * WIDTH);
    for (; lane < t.lanes; lane += WIDTH)
        thin_lanes<N, 1, TURNED, T>(t, lane, t.lanes - lane < WIDTH ? t.lanes - lane : WIDTH);
}

template <int N> static void thin_of(const Thin &t) {
    if (t.count != N) {
        if constexpr (N > 1) thin_of<N - 1>(t);
    } else if (t.k_stride == 1) {
        t.wide_half ? thin_all<N, true, uint16_t>(t) : thin_all<N, true, float>(t);
    } else {
        t.wide_half ? thin_all<N, false, uint16_t>(t) : thin_all<N, false, float>(t);
    }
}

static void thin(const Thin &t) { thin_of<THIN_MOST>(t); }
