// The loops of update.cpp, compiled once per instruction set. Not a header to include alone: the including file has
// opened a namespace (and perhaps a target) and defined Constants, Loops, LINE and AHEAD. No templates: a template
// keeps the target of the place that defines it.

// Calls one(i) for each of n values, by lines, and fetches what is read, g and those that are written, ahead. The
// compiler makes vectors of it; sqrtf needs -fno-math-errno for that.
#define UPDATE_EACH(...)                                                                                               \
    int64_t i = 0;                                                                                                     \
    for (; i + LINE <= n; i += LINE) {                                                                                 \
        for (const float *p : {__VA_ARGS__}) __builtin_prefetch(p + i + AHEAD, 1);                                     \
        __builtin_prefetch(g + i + AHEAD);                                                                             \
        for (int64_t j = 0; j < LINE; ++j) one(i + j);                                                                 \
    }                                                                                                                  \
    for (; i < n; ++i) one(i);

static void adamw_loop(float *__restrict w, const float *__restrict g, float *__restrict m, float *__restrict v,
                       int64_t n, const Constants &c) {
    const auto one = [&](int64_t i) {
        const float grad = g[i] * c.factor;
        const float mean = c.beta1 * m[i] + c.rest1 * grad, square = c.beta2 * v[i] + c.rest2 * grad * grad;
        m[i] = mean;
        v[i] = square;
        w[i] = w[i] * c.keep - c.rate * mean / (sqrtf(square) * c.correct + c.epsilon);
    };
    UPDATE_EACH(w, m, v)
}

static void lion_loop(float *__restrict w, const float *__restrict g, float *__restrict m, float *, int64_t n,
                      const Constants &c) {
    const auto one = [&](int64_t i) {
        const float grad = g[i] * c.factor, mixed = c.beta1 * m[i] + c.rest1 * grad;
        const float sign = (mixed > 0.0f ? 1.0f : 0.0f) - (mixed < 0.0f ? 1.0f : 0.0f);
        m[i] = c.beta2 * m[i] + c.rest2 * grad;
        w[i] = w[i] * c.keep - c.rate * sign;
    };
    UPDATE_EACH(w, m)
}

static void sgd_loop(float *__restrict w, const float *__restrict g, float *__restrict m, float *, int64_t n,
                     const Constants &c) {
    const float ahead = c.nesterov ? c.beta1 : 1.0f, now = c.nesterov ? 1.0f : 0.0f;
    const auto one = [&](int64_t i) {
        const float grad = g[i] * c.factor, momentum = c.beta1 * m[i] + grad;
        m[i] = momentum;
        w[i] = w[i] * c.keep - c.rate * (now * grad + ahead * momentum);
    };
    UPDATE_EACH(w, m)
}

static void plain_sgd_loop(float *__restrict w, const float *__restrict g, float *, float *, int64_t n,
                           const Constants &c) {
    const auto one = [&](int64_t i) { w[i] = w[i] * c.keep - c.rate * (g[i] * c.factor); };
    UPDATE_EACH(w)
}

static void average_loop(float *__restrict w, const float *__restrict g, int64_t n,
                         float part) { // w: averages; g: values
    const auto one = [&](int64_t i) { w[i] += part * (g[i] - w[i]); };
    UPDATE_EACH(w)
}

#undef UPDATE_EACH

static double square_loop(const float *x, int64_t n) {
    typedef float Four __attribute__((vector_size(16)));
    typedef double Wide __attribute__((vector_size(32)));
    Wide lanes[2] = {};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 2; ++j) {
            Four four;
            memcpy(&four, x + i + 4 * j, sizeof four);
            const Wide wide = __builtin_convertvector(four, Wide);
            lanes[j] += wide * wide;
        }
    double sums[8], total = 0;
    memcpy(sums, lanes, sizeof sums);
    for (; i < n; ++i) sums[i % 8] += static_cast<double>(x[i]) * x[i];
    for (double sum : sums) total += sum;
    return total;
}

static constexpr Loops LOOPS{adamw_loop, lion_loop, sgd_loop, plain_sgd_loop, average_loop, square_loop};
