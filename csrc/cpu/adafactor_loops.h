// The loops of adafactor.cpp along rows, compiled once per instruction set. Not a header to include alone: the
// including file has opened a namespace (and perhaps a target) and defined Row, Loops, LANES, BLOCK and AHEAD. No
// templates: a template keeps the target of the place that defines it.
//
// Value j of a row is added in lane j % LANES, and the lanes in halves, so that the bytes are those of any target.

typedef float Eight __attribute__((vector_size(32)));

static inline void load(Eight &v, const float *p) { memcpy(&v, p, sizeof v); }
static inline void store(float *p, const Eight &v) { memcpy(p, &v, sizeof v); }

static inline float sum(float *lanes) {
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

// Adds the squares of factor * gradient to `column`, and gives their sum and that of the weights' squares.
static void square_loop(const Row &r, float *__restrict column, float &grads, float &weights) {
    Eight of_grads[LANES / 8] = {}, of_weights[LANES / 8] = {};
    int64_t j = 0;
    for (; j + LANES <= r.columns; j += LANES) {
        for (int k = 0; k < LANES / 8; ++k) {
            Eight g, w, c;
            load(g, r.grad + j + 8 * k);
            load(w, r.weight + j + 8 * k);
            load(c, column + j + 8 * k);
            g *= r.factor;
            g *= g;
            of_grads[k] += g;
            of_weights[k] += w * w;
            store(column + j + 8 * k, c + g);
        }
    }
    float g_lanes[LANES], w_lanes[LANES];
    memcpy(g_lanes, of_grads, sizeof g_lanes);
    memcpy(w_lanes, of_weights, sizeof w_lanes);
    for (int lane = 0; j < r.columns; ++j, ++lane) {
        const float g = r.grad[j] * r.factor;
        g_lanes[lane] += g * g;
        w_lanes[lane] += r.weight[j] * r.weight[j];
        column[j] += g * g;
    }
    grads = sum(g_lanes);
    weights = sum(w_lanes);
}

// Adds factor * gradient, squared and times its row's weight, of BLOCK rows to `column`. Their gradients were just
// read.
static void weigh_loop(const float *const *grad, const float *weight, int64_t columns, float factor,
                       float *__restrict column) {
    int64_t j = 0;
    for (; j + 8 <= columns; j += 8) {
        Eight c;
        load(c, column + j);
        for (int k = 0; k < BLOCK; ++k) {
            Eight g;
            load(g, grad[k] + j);
            g *= factor;
            c += g * g * weight[k];
        }
        store(column + j, c);
    }
    for (; j < columns; ++j)
        for (int k = 0; k < BLOCK; ++k) {
            const float g = grad[k][j] * factor;
            column[j] += g * g * weight[k];
        }
}

// The sum of squares of the update before it is scaled: factor * gradient * min(by * column, most).
static float size_loop(const Row &r, const float *column) {
    const Eight most = Eight{} + r.most;
    Eight squares[LANES / 8] = {};
    int64_t j = 0;
    for (; j + LANES <= r.columns; j += LANES) {
        __builtin_prefetch(r.grad + j + AHEAD);
        for (int k = 0; k < LANES / 8; ++k) {
            Eight g, c;
            load(g, r.grad + j + 8 * k);
            load(c, column + j + 8 * k);
            c *= r.by;
            g = g * r.factor * (c < most ? c : most);
            squares[k] += g * g;
        }
    }
    float lanes[LANES];
    memcpy(lanes, squares, sizeof lanes);
    for (int lane = 0; j < r.columns; ++j, ++lane) {
        const float update = r.grad[j] * r.factor * std::min(column[j] * r.by, r.most);
        lanes[lane] += update * update;
    }
    return sum(lanes);
}

// weight = weight * keep - update * rate
static void apply_loop(const Row &r, const float *column, float keep, float rate) {
    const Eight most = Eight{} + r.most;
    int64_t j = 0;
    for (; j + LANES <= r.columns; j += LANES) {
        __builtin_prefetch(r.grad + j + AHEAD);
        __builtin_prefetch(r.weight + j + AHEAD, 1);
        for (int k = 0; k < LANES / 8; ++k) {
            Eight g, w, c;
            load(g, r.grad + j + 8 * k);
            load(w, r.weight + j + 8 * k);
            load(c, column + j + 8 * k);
            c *= r.by;
            g = g * r.factor * (c < most ? c : most);
            store(r.weight + j + 8 * k, w * keep - g * rate);
        }
    }
    for (; j < r.columns; ++j) {
        const float update = r.grad[j] * r.factor * std::min(column[j] * r.by, r.most);
        r.weight[j] = r.weight[j] * keep - update * rate;
    }
}

static constexpr Loops LOOPS{square_loop, weigh_loop, size_loop, apply_loop};
