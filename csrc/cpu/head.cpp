// Final norm, classifier and cross-entropy, forward and backward, a block of tokens at a time.
//
// A block is T <= HEAD_TOKENS tokens side by side (several short sequences share one), normalised and packed once as
// the operand of two products. The vocabulary is cut in chunks of a fixed size, so every sum has one order whoever runs
// it, and each chunk stays in its thread's cache from product to product:
//   1) logits = W xn, their maximum and the sum of exp(logit - maximum); the exponentials are kept for step 3, unless
//      they are more than KEPT_FLOATS: then step 3 makes them again, to the same bytes;
//   2) the chunks' sums meet in chunk order, in double: nll, and the factor that turns exponentials to gradients;
//   3) dlogits, dW += dlogits xn^T, dxn += W^T dlogits, where neighbouring chunks (a slab) share one dxn;
//   4) the slabs' dxn are added up in order, and the norm's gradients follow.
// Where dW is wanted later and by rows, dlogits and the packed xn outlive the block instead (HeadTaps).
// That is three products, four where exponentials are made again, and one pass each way over them; one less for a
// frozen classifier, which has no dW.
#include "head.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "../half.h"
#include "../round.h"
#include "../span.h"
#include "gemm/panels.h"
#include "pool.h"
#include "scratch.h"
#include "vecmath.h"

namespace anefast {
namespace {

constexpr int64_t CHUNK = 192;               // vocabulary rows that go through the cache together
constexpr int64_t SLABS_MOST = 32;           // sums of dxn side by side,
constexpr int64_t SLAB_FLOATS = 3000 * 1000; // in about so much memory
constexpr int64_t LANES = 32;                // tokens normalised together
constexpr int64_t AHEAD_FLOATS = 56 * 1024;  // of weights fetched before their turn: what a second cache has room for
constexpr int64_t FAR_FLOATS = 2000 * 1000;  // 8 MB: more does not come back from a cache
constexpr int64_t KEPT_FLOATS = HEAD_KEPT;   // of exponentials

MatrixView rows_of(const float *data, int64_t stride) { return {data, Elem::f32, stride, 1}; }
MatrixView transposed(const float *data, int64_t stride) { return {data, Elem::f32, 1, stride}; }

// Floats that are wanted soon, on their way into the cache.
void fetch(const float *data, int64_t floats) {
    for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(data + i, 0, 2);
}

// Of the thread that calls: the block. exps is V x T floats, 32 MB for a vocabulary of 32,000.
struct BlockMemory {
    Scratch xn, panels, transposed_panels, exps, dxn;
};
thread_local BlockMemory block_memory;

// Of each thread that works on chunks.
struct ChunkMemory {
    Scratch logits, dlogits, weights;
};
thread_local ChunkMemory chunk_memory;

// Rows of the weight as fp32. Of one in fp16 they are in memory of the thread, until it asks again.
const float *rows_of_weight(const Head &head, int64_t first, int64_t rows) {
    const int64_t at = first * head.channels, count = rows * head.channels;
    if (head.weight) return head.weight + at;
    float *const out = chunk_memory.weights.get(count);
    half_to_floats(head.halves + at, out, count);
    return out;
}

// A block of up to HEAD_TOKENS consecutive positions (b * seq + s), and its buffers.
class Block {
  public:
    Block(const Head &head, int64_t most, bool with_grad, bool with_dweight, HeadTaps *taps)
        : head(head), taps(taps), C(head.channels), V(head.vocab), chunks(ceil_div(V, CHUNK)), room(most),
          slabs(std::min({chunks, SLABS_MOST, std::max<int64_t>(4, SLAB_FLOATS / (C * most))})),
          far(with_grad && V * most > FAR_FLOATS), rstd(most), mean(head.bias ? most : 0), picked(most),
          maxima(chunks * most), sums(chunks * most), xn(block_memory.xn.get(C * most)),
          panels(block_memory.panels.get(b_panels_floats(C, most))),
          transposed_panels(with_dweight
                                ? (taps ? taps->xn : block_memory.transposed_panels).get(b_panels_floats(most, C))
                                : nullptr),
          exps(taps                                   ? taps->dlogits.get(V * most)
               : with_grad && V * most <= KEPT_FLOATS ? block_memory.exps.get(V * most)
                                                      : nullptr),
          dxn(with_grad ? block_memory.dxn.get(slabs * C * most) : nullptr) {}

    void take(int64_t first_token, int64_t count) {
        first = first_token;
        T = count;
    }

    // xn = h * rstd * norm, and rstd, from the sums of squares taken in double, channels ascending. Of a LayerNorm, h
    // is what it is less its mean, and the bias is added.
    void normalise() {
        span::Span timed(span::Component::ELEMENTWISE);
        over_lanes([&](int64_t t, int64_t n) {
            float h[LANES];
            double squares[LANES] = {};
            if (head.bias) find_means(t, n);
            for (int64_t c = 0; c < C; ++c) {
                read_centred(c, t, n, h);
                for (int64_t i = 0; i < n; ++i) squares[i] += static_cast<double>(h[i]) * h[i];
            }
            for (int64_t i = 0; i < n; ++i)
                rstd[t + i] = static_cast<float>(1.0 / std::sqrt(squares[i] / C + head.epsilon));
            for (int64_t c = 0; c < C; ++c) {
                read_centred(c, t, n, h);
                for (int64_t i = 0; i < n; ++i) xn[c * T + t + i] = h[i] * rstd[t + i] * head.norm[c];
                if (head.bias)
                    for (int64_t i = 0; i < n; ++i) xn[c * T + t + i] += head.bias[c];
            }
        });
        constexpr int64_t PART = 64; // of either operand's k
        const int64_t parts = ceil_div(C, PART);
        Pool::shared().parallel(parts + (transposed_panels ? ceil_div(T, PART) : 0), [&](int64_t task) {
            if (task < parts) {
                const int64_t c = task * PART;
                pack_b_panels(rows_of(xn, T), C, T, c, std::min(PART, C - c), panels);
            } else {
                const int64_t t = (task - parts) * PART;
                pack_b_panels(transposed(xn, T), T, C, t, std::min(PART, T - t), transposed_panels);
            }
        });
    }

    // Step 1. Afterwards exps, if it is wanted, holds exp(logit - its chunk's maximum).
    void classify(const int32_t *targets) {
        span::Span timed(span::Component::CLASSIFIER, 0, 2 * V * T * C);
        Pool::shared().parallel_apart(chunks, [&](int64_t chunk) {
            const int64_t v = chunk * CHUNK, rows = std::min(CHUNK, V - v);
            float *const logits = exps && !far ? exps + v * T : chunk_memory.logits.get(CHUNK * room);
            gemm_panels({rows, T, C, rows_of(rows_of_weight(head, v, rows), C), panels, logits, T, false});
            for (int64_t t = 0; t < T; ++t)
                if (const int64_t row = targets[first + t] - v; row >= 0 && row < rows) picked[t] = logits[row * T + t];
            float *const most = &maxima[chunk * room], *const sum = &sums[chunk * room];
            std::fill(most, most + T, -INFINITY);
            std::fill(sum, sum + T, 0.0f);
            max_down(logits, rows, T, T, most);
            const int64_t next = // this thread's next rows, as a rule
                head.weight ? std::min({CHUNK, V - v - rows, AHEAD_FLOATS / C}) : 0;
            for (int64_t row = 0; row < rows; ++row) {
                if (row < next) fetch(head.weight + (v + rows + row) * C, C);
                exp_sum_down(logits + row * T, 1, T, T, most, sum, (exps ? exps + v * T : logits) + row * T);
            }
        });
    }

    // Step 2. Writes nll, adds to `loss`, and turns `sums` into the factors of step 3.
    void score(const int32_t *targets, float scale, float *nll, HeadLoss &loss) {
        std::vector<double> ones(T);
        std::atomic<bool> finite{true}; // every logit, as none that is not leaves its sum finite
        over_lanes([&](int64_t t, int64_t n) {
            float most[LANES];
            double sum[LANES] = {};
            std::fill(most, most + n, -INFINITY);
            max_down(&maxima[t], chunks, room, n, most);
            for (int64_t k = 0; k < chunks; ++k) {
                float *const m = &maxima[k * room + t];
                for (int64_t i = 0; i < n; ++i) m[i] -= most[i];
                exp_floats(m, m, n);
                for (int64_t i = 0; i < n; ++i) sum[i] += static_cast<double>(sums[k * room + t + i]) * m[i];
            }
            double over[LANES];
            for (int64_t i = 0; i < n; ++i) {
                const bool counts = targets[first + t + i] >= 0;
                if (!std::isfinite(sum[i])) finite = false;
                ones[t + i] = counts ? std::log(sum[i]) + most[i] - picked[t + i] : 0;
                over[i] = counts ? scale / sum[i] : 0;
            }
            for (int64_t k = 0; k < chunks; ++k)
                for (int64_t i = 0; i < n; ++i)
                    sums[k * room + t + i] = static_cast<float>(maxima[k * room + t + i] * over[i]);
        });
        if (taps) {
            taps->vocab = V, taps->channels = C, taps->tokens = T;
            taps->finite = finite;
        }
        for (int64_t t = 0; t < T; ++t) {
            nll[first + t] = static_cast<float>(ones[t]);
            loss.sum += ones[t];
            loss.count += targets[first + t] >= 0;
        }
    }

    // Step 3, and the sum of step 4. dxn (C, T) is written, dweight, if it is wanted, written or added to.
    void classifier_grad(const int32_t *targets, float scale, float *dweight, bool adds) {
        const int64_t products = 1 + (dweight != nullptr) + (exps == nullptr);
        span::Span timed(span::Component::CLASSIFIER, 0, 2 * products * V * T * C);
        Pool::shared().parallel(slabs, [&](int64_t slab) {
            float *const dlogits = chunk_memory.dlogits.get(b_panels_floats(CHUNK, T));
            const int64_t begin = slab * chunks / slabs, end = (slab + 1) * chunks / slabs;
            for (int64_t chunk = begin; chunk < end; ++chunk) {
                const int64_t v = chunk * CHUNK, rows = std::min(CHUNK, V - v);
                float *const e = taps ? exps + v * T : chunk_memory.logits.get(CHUNK * room);
                if (!exps) exponentials(v, rows, e);
                scale_down(exps ? exps + v * T : e, rows, T, T, &sums[chunk * room], e);
                for (int64_t t = 0; t < T; ++t)
                    if (const int64_t row = targets[first + t] - v; row >= 0 && row < rows) e[row * T + t] -= scale;
                if (dweight) gemm_panels({rows, C, T, rows_of(e, T), transposed_panels, dweight + v * C, C, adds});
                pack_b_panels(rows_of(e, T), rows, T, 0, rows, dlogits);
                gemm_panels(
                    {C, T, rows, transposed(head.weight + v * C, C), dlogits, dxn + slab * C * T, T, chunk > begin});
            }
        });
        Pool::shared().parallel(ceil_div(C, LANES), [&](int64_t task) {
            const int64_t from = task * LANES * T, to = std::min(C, (task + 1) * LANES) * T;
            for (int64_t slab = 1; slab < slabs; ++slab)
                for (int64_t i = from; i < to; ++i) dxn[i] += dxn[slab * C * T + i];
        });
    }

    // exp(logit - its chunk's maximum) of a chunk once more, as classify made them.
    void exponentials(int64_t v, int64_t rows, float *out) const {
        std::vector<float> most(T, -INFINITY), sum(T);
        gemm_panels({rows, T, C, rows_of(head.weight + v * C, C), panels, out, T, false});
        max_down(out, rows, T, T, most.data());
        for (int64_t row = 0; row < rows; ++row)
            exp_sum_down(out + row * T, 1, T, T, most.data(), sum.data(), out + row * T);
    }

    // The rest of step 4. dh = rstd * (dxn * norm - h * rstd^2 * mean over C of dxn * norm * h), of a LayerNorm less
    // the mean over C of dxn * norm within; dnorm, or dnorm +=, dxn * h * rstd; dbias likewise, dxn.
    void norm_grad(uint16_t *dh, float *dnorm, float *dbias, bool adds) {
        span::Span timed(span::Component::ELEMENTWISE);
        over_lanes([&](int64_t t, int64_t n) {
            float h[LANES], d[LANES];
            double dots[LANES] = {};
            for (int64_t c = 0; c < C; ++c) {
                read_centred(c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    dots[i] += static_cast<double>(dxn[c * T + t + i]) * head.norm[c] * h[i];
            }
            float pull[LANES], level[LANES] = {};
            if (head.bias) {
                double sums_of[LANES] = {};
                for (int64_t c = 0; c < C; ++c)
                    for (int64_t i = 0; i < n; ++i)
                        sums_of[i] += static_cast<double>(dxn[c * T + t + i]) * head.norm[c];
                for (int64_t i = 0; i < n; ++i) level[i] = static_cast<float>(sums_of[i] / C);
            }
            for (int64_t i = 0; i < n; ++i) {
                const double r = rstd[t + i];
                pull[i] = static_cast<float>(dots[i] / C * r * r);
            }
            for (int64_t c = 0; c < C; ++c) {
                read_centred(c, t, n, h);
                for (int64_t i = 0; i < n; ++i)
                    d[i] = rstd[t + i] * (dxn[c * T + t + i] * head.norm[c] - level[i] - h[i] * pull[i]);
                runs(t, n, [&](int64_t at, int64_t b, int64_t s, int64_t count) {
                    half_from_floats(d + at, dh + (b * C + c) * head.seq + s, count);
                });
            }
        });
        if (!dnorm && !dbias) return;
        Pool::shared().parallel(ceil_div(C, 16), [&](int64_t task) {
            float h[LANES];
            for (int64_t c = task * 16; c < std::min(C, task * 16 + 16); ++c) {
                double sum = 0, sum_of_bias = 0;
                for (int64_t t = 0; t < T; t += LANES) {
                    const int64_t n = std::min(LANES, T - t);
                    read_centred(c, t, n, h);
                    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(dxn[c * T + t + i]) * h[i] * rstd[t + i];
                    for (int64_t i = 0; i < n && dbias; ++i) sum_of_bias += static_cast<double>(dxn[c * T + t + i]);
                }
                if (dnorm) dnorm[c] = static_cast<float>((adds ? dnorm[c] : 0.0f) + sum);
                if (dbias) dbias[c] = static_cast<float>((adds ? dbias[c] : 0.0f) + sum_of_bias);
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

    // What the norm scales: h, of a LayerNorm less its mean.
    void read_centred(int64_t c, int64_t t, int64_t n, float *to) const {
        read(head.h, c, t, n, to);
        if (head.bias)
            for (int64_t i = 0; i < n; ++i) to[i] -= mean[t + i];
    }

    void find_means(int64_t t, int64_t n) {
        float h[LANES];
        double total[LANES] = {};
        for (int64_t c = 0; c < C; ++c) {
            read(head.h, c, t, n, h);
            for (int64_t i = 0; i < n; ++i) total[i] += static_cast<double>(h[i]);
        }
        for (int64_t i = 0; i < n; ++i) mean[t + i] = static_cast<float>(total[i] / C);
    }

    const Head &head;
    HeadTaps *const taps;
    const int64_t C, V, chunks, room, slabs;
    const bool far; // the exponentials are more than caches hold
    int64_t first = 0, T = 0;
    std::vector<float> rstd, mean, picked;                                 // mean: of a LayerNorm
    std::vector<float> maxima, sums;                                       // (chunks, room)
    float *const xn, *const panels, *const transposed_panels, *const exps; // the last two only for gradients
    float *const dxn; // (slabs, C, T); in the end the first is their sum
};

HeadLoss run(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
             float *dbias, float *dweight, HeadTaps *taps, bool fresh) {
    const int64_t tokens = head.batch * head.seq, most = std::min(HEAD_TOKENS, tokens);
    HeadLoss loss{0, 0, -1};
    for (int64_t t = 0; t < tokens && loss.bad < 0; ++t)
        if (targets[t] >= head.vocab) loss.bad = t;
    if (loss.bad >= 0 || tokens == 0) return loss;
    Block block(head, most, dh, dweight || taps, taps);
    for (int64_t t = 0; t < tokens; t += most) {
        block.take(t, std::min(most, tokens - t));
        block.normalise();
        block.classify(targets);
        block.score(targets, scale, nll, loss);
        if (dh) {
            span::InPhase backward(span::Phase::BACKWARD);
            block.classifier_grad(targets, scale, dweight, t > 0 || !fresh);
            block.norm_grad(dh, dnorm, dbias, t > 0 || !fresh);
        }
    }
    return loss;
}

} // namespace

HeadLoss head_loss(const Head &head, const int32_t *targets, float *nll) {
    return run(head, targets, 1, nll, nullptr, nullptr, nullptr, nullptr, nullptr, false);
}

HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
                        float *dbias, float *dweight, bool fresh) {
    return run(head, targets, scale, nll, dh, dnorm, dbias, dweight, nullptr, fresh);
}

HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
                        float *dbias, HeadTaps &taps, bool fresh) {
    taps.finite = false;
    return run(head, targets, scale, nll, dh, dnorm, dbias, nullptr, &taps, fresh);
}

void HeadTaps::grad_rows(int64_t first, int64_t rows, float *out) {
    const float *const d = dlogits.get(vocab * tokens);
    gemm_panels({rows, channels, tokens, rows_of(d + first * tokens, tokens), xn.get(b_panels_floats(tokens, channels)),
                 out, channels, false});
}

int64_t head_logits(const Head &head, const int32_t *positions, int64_t count, float *out) {
    const int64_t B = count, C = head.channels;
    for (int64_t b = 0; b < B; ++b)
        if (positions[b] < 0 || positions[b] >= head.seq) return b;
    std::vector<float> xn(B * C); // (B, C)
    for (int64_t b = 0; b < B; ++b) {
        double squares = 0, total = 0;
        for (int64_t c = 0; c < C; ++c) {
            xn[b * C + c] = half_to_float(head.h[((head.batch == 1 ? 0 : b) * C + c) * head.seq + positions[b]]);
            total += static_cast<double>(xn[b * C + c]);
        }
        const float mean = head.bias ? static_cast<float>(total / C) : 0.0f;
        for (int64_t c = 0; c < C; ++c) {
            xn[b * C + c] -= mean;
            squares += static_cast<double>(xn[b * C + c]) * xn[b * C + c];
        }
        const float rstd = static_cast<float>(1.0 / std::sqrt(squares / C + head.epsilon));
        for (int64_t c = 0; c < C; ++c)
            xn[b * C + c] = xn[b * C + c] * rstd * head.norm[c] + (head.bias ? head.bias[c] : 0.0f);
    }
    // One pass over the weights, which is all that this costs: a few rows at a time, which the nearest cache keeps from
    // position to position.
    constexpr int64_t ROWS = 128, NEAR_FLOATS = 4096;
    const int64_t few = std::max<int64_t>(1, NEAR_FLOATS / C);
    Pool::shared().parallel_apart(ceil_div(head.vocab, ROWS), [&](int64_t task) {
        const int64_t end = std::min((task + 1) * ROWS, head.vocab);
        for (int64_t v = task * ROWS; v < end; v += few) {
            const int64_t rows = std::min(few, end - v);
            dot_rows(rows_of_weight(head, v, rows), rows, C, xn.data(), B, out + v, head.vocab);
        }
    });
    return -1;
}

} // namespace anefast
