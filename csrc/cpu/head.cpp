// Final RMSNorm, classifier and cross-entropy, forward and backward, a block of tokens at a time.
//
// A block holds xn (C, T), logits (V, T) and what softmax needs, all fp32, T <= 256 tokens side by side (several short
// sequences share one). The vocabulary is cut in fixed chunks, so every sum has one order:
//   1) chunk by chunk: logits = W xn, their maximum and the sum of exp(logit - maximum), stored in place;
//   2) the chunks' sums meet in chunk order, in double: nll, and the factor that turns exponentials to gradients;
//   3) a stretch of chunks at a time, hot in cache: dlogits, dW += dlogits xn^T, dxn += W^T dlogits;
//   4) the norm's gradients.
#include "head.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "../half.h"
#include "../span.h"
#include "gemm.h"
#include "pool.h"
#include "vecmath.h"

namespace anefast {
namespace {

constexpr int64_t TOKENS = 256;       // per block
constexpr int64_t CHUNK = 192;        // vocabulary rows whose softmax sums are taken together
constexpr int64_t STRETCH = CHUNK * 20; // vocabulary rows whose gradients go through the cache together
constexpr int64_t LANES = 32;         // tokens normalised together

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

MatrixView rows_of(const float *data, int64_t stride) { return {data, Elem::f32, stride, 1}; }
MatrixView transposed(const float *data, int64_t stride) { return {data, Elem::f32, 1, stride}; }

Gemm product(int64_t m, int64_t n, int64_t k, MatrixView a, MatrixView b, float *c, int64_t c_stride,
             bool accumulate) {
    return Gemm{m, n, k, a, b, c, Elem::f32, c_stride, accumulate, true};
}

// A block of up to TOKENS consecutive positions (b * seq + s), and its buffers.
class Block {
  public:
    Block(const Head &head, int64_t most)
        : head(head), C(head.channels), V(head.vocab), chunks(ceil_div(V, CHUNK)), room(most), xn(C * most),
          rstd(most), logits(new float[V * most]), maxima(chunks * most), sums(chunks * most) {}

    void take(int64_t first_token, int64_t count) {
        first = first_token;
        T = count;
    }

    // xn = h * rstd * norm, and rstd, from the sums of squares taken in double, channels ascending.
    void normalise() {
        span::Span timed(span::Component::ELEMENTWISE);
        over_lanes([&](int64_t t, int64_t n) {
            float h[LANES];
            double squares[LANES] = {};
            for (int64_t c = 0; c < C; ++c) {
                read(head.h, c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    squares[i] += static_cast<double>(h[i]) * h[i];
            }
            for (int64_t i = 0; i < n; ++i)
                rstd[t + i] = static_cast<float>(1.0 / std::sqrt(squares[i] / C + head.epsilon));
            for (int64_t c = 0; c < C; ++c) {
                read(head.h, c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    xn[c * T + t + i] = h[i] * rstd[t + i] * head.norm[c];
            }
        });
    }

    // Step 1. Afterwards logits hold exp(logit - its chunk's maximum); `picked` the target logits.
    void classify(const int32_t *targets, std::vector<float> &picked) {
        {
            span::Span timed(span::Component::CLASSIFIER, 0, 2 * V * T * C);
            gemm(product(V, T, C, rows_of(head.weight, C), rows_of(xn.data(), T), logits.get(), T, false));
        }
        for (int64_t t = 0; t < T; ++t)
            picked[t] = targets[first + t] < 0 ? 0 : logits[targets[first + t] * T + t];
        Pool::shared().parallel(chunks, [&](int64_t chunk) {
            const int64_t v = chunk * CHUNK, rows = std::min(CHUNK, V - v);
            float *const most = &maxima[chunk * room], *const sum = &sums[chunk * room];
            std::fill(most, most + T, -INFINITY);
            std::fill(sum, sum + T, 0.0f);
            max_down(&logits[v * T], rows, T, T, most);
            exp_sum_down(&logits[v * T], rows, T, T, most, sum);
        });
    }

    // Step 2. Writes nll, adds to `loss`, and turns `sums` into the factors of step 3.
    void score(const int32_t *targets, const std::vector<float> &picked, float scale, float *nll, HeadLoss &loss) {
        for (int64_t t = 0; t < T; ++t) {
            float most = maxima[t];
            for (int64_t k = 1; k < chunks; ++k)
                most = std::max(most, maxima[k * room + t]);
            double sum = 0;
            for (int64_t k = 0; k < chunks; ++k) {
                float &m = maxima[k * room + t];
                m = exp_float(m - most);
                sum += static_cast<double>(sums[k * room + t]) * m;
            }
            const bool counts = targets[first + t] >= 0;
            const double one = counts ? std::log(sum) + most - picked[t] : 0;
            nll[first + t] = static_cast<float>(one);
            loss.sum += one;
            loss.count += counts;
            for (int64_t k = 0; k < chunks; ++k)
                sums[k * room + t] = counts ? static_cast<float>(maxima[k * room + t] * (scale / sum)) : 0.0f;
        }
    }

    // Step 3. dxn (C, T) is written, dweight added to.
    void classifier_grad(const int32_t *targets, float scale, float *dweight, std::vector<float> &dxn) {
        std::vector<Gemm> parts;
        for (int64_t v = 0; v < V; v += STRETCH) {
            const int64_t rows = std::min(STRETCH, V - v);
            Pool::shared().parallel(ceil_div(rows, CHUNK), [&](int64_t i) {
                const int64_t from = v + i * CHUNK, count = std::min(CHUNK, V - from);
                scale_down(&logits[from * T], count, T, T, &sums[from / CHUNK * room]);
                for (int64_t t = 0; t < T; ++t) {
                    const int64_t row = targets[first + t];
                    if (row >= from && row < from + count)
                        logits[row * T + t] -= scale;
                }
            });
            span::Span timed(span::Component::CLASSIFIER, 0, 4 * rows * T * C);
            const float *const dlogits = &logits[v * T];
            gemm(product(rows, C, T, rows_of(dlogits, T), transposed(xn.data(), T), dweight + v * C, C, true));
            gemm(product(C, T, rows, transposed(head.weight + v * C, C), rows_of(dlogits, T), dxn.data(), T, v > 0));
        }
    }

    // Step 4. dh = rstd * (dxn * norm - h * rstd^2 * mean over C of dxn * norm * h); dnorm += dxn * h * rstd.
    void norm_grad(const std::vector<float> &dxn, uint16_t *dh, float *dnorm) {
        span::Span timed(span::Component::ELEMENTWISE);
        over_lanes([&](int64_t t, int64_t n) {
            float h[LANES], d[LANES];
            double dots[LANES] = {};
            for (int64_t c = 0; c < C; ++c) {
                read(head.h, c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    dots[i] += static_cast<double>(dxn[c * T + t + i]) * head.norm[c] * h[i];
            }
            float pull[LANES];
            for (int64_t i = 0; i < n; ++i) {
                const double r = rstd[t + i];
                pull[i] = static_cast<float>(dots[i] / C * r * r);
            }
            for (int64_t c = 0; c < C; ++c) {
                read(head.h, c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    d[i] = rstd[t + i] * (dxn[c * T + t + i] * head.norm[c] - h[i] * pull[i]);
                runs(t, n, [&](int64_t at, int64_t b, int64_t s, int64_t count) {
                    half_from_floats(d + at, dh + (b * C + c) * head.seq + s, count);
                });
            }
        });
        Pool::shared().parallel(ceil_div(C, 16), [&](int64_t task) {
            float h[LANES];
            for (int64_t c = task * 16; c < std::min(C, task * 16 + 16); ++c) {
                double sum = 0;
                for (int64_t t = 0; t < T; t += LANES) {
                    const int64_t n = std::min(LANES, T - t);
                    read(head.h, c, t, n, h);
                    for (int64_t i = 0; i < n; ++i)
                        sum += static_cast<double>(dxn[c * T + t + i]) * h[i] * rstd[t + i];
                }
                dnorm[c] = static_cast<float>(dnorm[c] + sum);
            }
        });
    }

  private:
    template <class Body> void over_lanes(const Body &body) {
        Pool::shared().parallel(ceil_div(T, LANES), [&](int64_t task) {
            const int64_t t = task * LANES;
            body(t, std::min(LANES, T - t));
        });
    }

    // Cuts block tokens t..t+n-1 where sequences end: body(offset from t, sequence, position, count).
    template <class Body> void runs(int64_t t, int64_t n, const Body &body) const {
        for (int64_t at = 0; at < n;) {
            const int64_t token = first + t + at, s = token % head.seq, count = std::min(n - at, head.seq - s);
            body(at, token / head.seq, s, count);
            at += count;
        }
    }

    void read(const uint16_t *x, int64_t c, int64_t t, int64_t n, float *to) const {
        runs(t, n, [&](int64_t at, int64_t b, int64_t s, int64_t count) {
            half_to_floats(x + (b * C + c) * head.seq + s, to + at, count);
        });
    }

    const Head &head;
    const int64_t C, V, chunks, room;
    int64_t first = 0, T = 0;
    std::vector<float> xn, rstd;
    std::unique_ptr<float[]> logits; // large: left uninitialised
    std::vector<float> maxima, sums; // (chunks, room)
};

HeadLoss run(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
             float *dweight) {
    const int64_t tokens = head.batch * head.seq, most = std::min(TOKENS, tokens);
    HeadLoss loss{0, 0, -1};
    for (int64_t t = 0; t < tokens && loss.bad < 0; ++t)
        if (targets[t] >= head.vocab)
            loss.bad = t;
    if (loss.bad >= 0 || tokens == 0)
        return loss;
    Block block(head, most);
    std::vector<float> picked(most), dxn(dh ? head.channels * most : 0);
    for (int64_t t = 0; t < tokens; t += most) {
        block.take(t, std::min(most, tokens - t));
        block.normalise();
        block.classify(targets, picked);
        block.score(targets, picked, scale, nll, loss);
        if (dh) {
            span::InPhase backward(span::Phase::BACKWARD);
            block.classifier_grad(targets, scale, dweight, dxn);
            block.norm_grad(dxn, dh, dnorm);
        }
    }
    return loss;
}

} // namespace

HeadLoss head_loss(const Head &head, const int32_t *targets, float *nll) {
    return run(head, targets, 1, nll, nullptr, nullptr, nullptr);
}

HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh,
                        float *dnorm, float *dweight) {
    return run(head, targets, scale, nll, dh, dnorm, dweight);
}

int64_t head_logits(const Head &head, const int32_t *positions, float *out) {
    const int64_t B = head.batch, C = head.channels;
    for (int64_t b = 0; b < B; ++b)
        if (positions[b] < 0 || positions[b] >= head.seq)
            return b;
    std::vector<float> xn(B * C); // (B, C)
    for (int64_t b = 0; b < B; ++b) {
        double squares = 0;
        for (int64_t c = 0; c < C; ++c) {
            const float h = half_to_float(head.h[(b * C + c) * head.seq + positions[b]]);
            xn[b * C + c] = h;
            squares += static_cast<double>(h) * h;
        }
        const float rstd = static_cast<float>(1.0 / std::sqrt(squares / C + head.epsilon));
        for (int64_t c = 0; c < C; ++c)
            xn[b * C + c] = xn[b * C + c] * rstd * head.norm[c];
    }
    // The vocabulary on M reads the weights once, where they lie; a transposed copy brings out (B, V).
    std::vector<float> logits(head.vocab * B);
    gemm(product(head.vocab, B, C, rows_of(head.weight, C), transposed(xn.data(), C), logits.data(), B, false));
    for (int64_t b = 0; b < B; ++b)
        for (int64_t v = 0; v < head.vocab; ++v)
            out[b * head.vocab + v] = logits[v * B + b];
    return -1;
}

} // namespace anefast
