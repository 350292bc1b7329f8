// The two loops of adamw.cpp, compiled once per instruction set. Not a header to include alone: the including file has
// opened a namespace (and perhaps a target) and defined Constants, Loops, LINE and AHEAD. No templates: a template
// keeps the target of the place that defines it.

// The compiler makes vectors of it; sqrtf needs -fno-math-errno for that.
static void update_loop(float *__restrict w, const float *__restrict g, float *__restrict m, float *__restrict v, int64_t n,
                        const Constants &c) {
    const auto one = [&](int64_t i) {
        const float grad = g[i] * c.factor;
        const float mean = c.beta1 * m[i] + c.rest1 * grad, square = c.beta2 * v[i] + c.rest2 * grad * grad;
        m[i] = mean;
        v[i] = square;
        w[i] = w[i] * c.keep - c.rate * mean / (sqrtf(square) * c.correct + c.epsilon);
    };
    int64_t i = 0;
    for (; i + LINE <= n; i += LINE) {
        for (const float *p : {w, m, v})
            __builtin_prefetch(p + i + AHEAD, 1);
        __builtin_prefetch(g + i + AHEAD);
        for (int64_t j = 0; j < LINE; ++j)
            one(i + j);
    }
    for (; i < n; ++i)
        one(i);
}

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
    for (; i < n; ++i)
        sums[i % 8] += static_cast<double>(x[i]) * x[i];
    for (double sum : sums)
        total += sum;
    return total;
}

static constexpr Loops LOOPS{update_loop, square_loop};
