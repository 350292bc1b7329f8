// Parameter gradients as background jobs: one product per sequence, or one pass over the channels.
#include "weight_grad.h"

#include <algorithm>

#include "../half.h"
#include "../round.h"
#include "gemm/gemm.h"
#include "gemm/panels.h"
#include "pool.h"

namespace anefast {
namespace {

constexpr int64_t BLOCK = 256; // positions converted at a time

// acc[c] = (fresh ? 0 : acc[c]) + sum over b, s of term(b, c, s): eight lanes by position, folded in a fixed order.
void sum_channel(const uint16_t *dy, const uint16_t *x, float *acc, int64_t c, int64_t batch, int64_t seq,
                 int64_t channels, bool fresh) {
    float a[BLOCK], b[BLOCK];
    double lanes[8] = {};
    for (int64_t n = 0; n < batch; ++n)
        for (int64_t s = 0; s < seq; s += BLOCK) {
            const int64_t count = std::min(BLOCK, seq - s), at = (n * channels + c) * seq + s;
            half_to_floats(dy + at, a, count);
            if (x) {
                half_to_floats(x + at, b, count);
                for (int64_t i = 0; i < count; ++i) a[i] *= b[i]; // exact: two halves fit a float
            }
            for (int64_t i = 0; i < count; ++i) lanes[i % 8] += a[i];
        }
    for (int i = 1; i < 8; ++i) lanes[0] += lanes[i];
    acc[c] = static_cast<float>((fresh ? 0.0f : acc[c]) + lanes[0]);
}

void enqueue_sums(const uint16_t *dy, const uint16_t *x, float *acc, int64_t batch, int64_t seq, int64_t channels,
                  bool fresh, FirstError &failure) {
    const int64_t per = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, batch * seq)); // some 50 us a task
    Pool::shared().enqueue(
        acc, ceil_div(channels, per),
        [=](int64_t task) {
            for (int64_t c = task * per; c < std::min(channels, (task + 1) * per); ++c)
                sum_channel(dy, x, acc, c, batch, seq, channels, fresh);
        },
        failure);
}

} // namespace

void weight_grad(const uint16_t *dy, const uint16_t *x, float *acc, int64_t batch, int64_t seq, int64_t out_channels,
                 int64_t in_channels, bool fresh, FirstError &failure) {
    for (int64_t b = 0; b < batch; ++b) {
        Gemm g;
        g.m = out_channels, g.n = in_channels, g.k = seq;
        g.a = {dy + b * out_channels * seq, Elem::f16, seq, 1};
        g.b = {x + b * in_channels * seq, Elem::f16, 1, seq};
        g.c = acc, g.c_elem = Elem::f32, g.c_row_stride = in_channels;
        g.accumulate = b > 0 || !fresh;
        g.any_order = true;
        gemm_enqueue(acc, g, failure);
    }
}

FlowingGrad weight_grad_flowing(const uint16_t *dy, const uint16_t *x, int64_t batch, int64_t seq, int64_t out_channels,
                                int64_t in_channels) {
    constexpr int64_t PART = 64; // positions of a piece
    const int64_t parts = ceil_div(seq, PART), panels = b_panels_floats(seq, in_channels, Elem::f16);
    return {out_channels,
            in_channels,
            batch * panels,
            batch * parts,
            [=](int64_t piece, float *shared) {
                const int64_t b = piece / parts, s = piece % parts * PART;
                pack_b_panels({x + b * in_channels * seq, Elem::f16, 1, seq}, seq, in_channels, s,
                              std::min(PART, seq - s), shared + b * panels);
            },
            [=](int64_t first, int64_t rows, const float *shared, float *out) {
                for (int64_t b = 0; b < batch; ++b)
                    gemm_panels({rows,
                                 in_channels,
                                 seq,
                                 {dy + (b * out_channels + first) * seq, Elem::f16, seq, 1},
                                 shared + b * panels,
                                 out,
                                 in_channels,
                                 b > 0});
            }};
}

void scale_grad(const uint16_t *dy, const uint16_t *x, float *acc, int64_t batch, int64_t seq, int64_t channels,
                bool fresh, FirstError &failure) {
    enqueue_sums(dy, x, acc, batch, seq, channels, fresh, failure);
}

void bias_grad(const uint16_t *dy, float *acc, int64_t batch, int64_t seq, int64_t channels, bool fresh,
               FirstError &failure) {
    enqueue_sums(dy, nullptr, acc, batch, seq, channels, fresh, failure);
}

} // namespace anefast
