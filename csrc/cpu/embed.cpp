// Token embedding: gather, round and transpose a block of tokens at a time; the gradient the other way round.
#include "embed.h"

#include <algorithm>
#include <vector>

#include "../half.h"
#include "../round.h"
#include "pool.h"

namespace anefast {
namespace {

constexpr int64_t TOKENS = 32;   // one surface row of 64 bytes per channel
constexpr int64_t CHANNELS = 64; // of the gradient, per task

int64_t first_bad(const Embedding &e) {
    for (int64_t i = 0; i < e.batch * e.seq; ++i)
        if (e.tokens[i] < 0 || e.tokens[i] >= e.vocab) return i;
    return -1;
}

// take(token, position, to): a token's row of C halves.
template <class Take> int64_t embed_rows(const Embedding &e, uint16_t *out, const Take &take) {
    const int64_t bad = first_bad(e), C = e.channels, S = e.seq, across = ceil_div(S, TOKENS);
    if (bad >= 0) return bad;
    Pool::shared().parallel(e.batch * across, [&](int64_t task) {
        const int64_t b = task / across, s = task % across * TOKENS, count = std::min(TOKENS, S - s);
        std::vector<uint16_t> rows(count * C);
        for (int64_t i = 0; i < count; ++i) take(e.tokens[b * S + s + i], s + i, rows.data() + i * C);
        for (int64_t c = 0; c < C; ++c) {
            uint16_t *const to = out + (b * C + c) * S + s;
            for (int64_t i = 0; i < count; ++i) to[i] = rows[i * C + c];
        }
    });
    return -1;
}

} // namespace

int64_t embed(const Embedding &e, const float *weight, const float *positions, uint16_t *out) {
    const int64_t C = e.channels;
    return embed_rows(e, out, [&](int64_t token, int64_t position, uint16_t *to) {
        const float *const row = weight + token * C;
        if (!positions) return half_from_floats(row, to, C);
        std::vector<float> sum(row, row + C);
        for (int64_t c = 0; c < C; ++c) sum[c] += positions[position * C + c];
        half_from_floats(sum.data(), to, C);
    });
}

int64_t embed(const Embedding &e, const uint16_t *weight, uint16_t *out) {
    const int64_t C = e.channels;
    return embed_rows(e, out, [&](int64_t token, int64_t, uint16_t *to) {
        std::copy(weight + token * C, weight + (token + 1) * C, to);
    });
}

int64_t embed_grad(const Embedding &e, const uint16_t *dx, float *dweight) {
    const int64_t bad = first_bad(e), C = e.channels, S = e.seq;
    if (bad >= 0) return bad;
    // A task owns some channels of every token's row and meets the positions in order.
    Pool::shared().parallel(ceil_div(C, CHANNELS), [&](int64_t task) {
        const int64_t c0 = task * CHANNELS, count = std::min(CHANNELS, C - c0);
        float row[TOKENS], block[TOKENS * CHANNELS];
        for (int64_t b = 0; b < e.batch; ++b)
            for (int64_t s = 0; s < S; s += TOKENS) {
                const int64_t tokens = std::min(TOKENS, S - s);
                for (int64_t c = 0; c < count; ++c) {
                    half_to_floats(dx + (b * C + c0 + c) * S + s, row, tokens);
                    for (int64_t i = 0; i < tokens; ++i) block[i * CHANNELS + c] = row[i];
                }
                for (int64_t i = 0; i < tokens; ++i) {
                    float *const to = dweight + e.tokens[b * S + s + i] * C + c0;
                    for (int64_t c = 0; c < count; ++c) to[c] += block[i * CHANNELS + c];
                }
            }
    });
    return -1;
}

void positions_grad(const uint16_t *dx, int64_t batch, int64_t seq, int64_t channels, float *dpositions) {
    // A task owns some positions; sequences come in order.
    Pool::shared().parallel(ceil_div(seq, TOKENS), [&](int64_t task) {
        const int64_t s = task * TOKENS, count = std::min(TOKENS, seq - s);
        float row[TOKENS];
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t c = 0; c < channels; ++c) {
                half_to_floats(dx + (b * channels + c) * seq + s, row, count);
                for (int64_t i = 0; i < count; ++i) dpositions[(s + i) * channels + c] += row[i];
            }
    });
}

void embed_grad_rows(const Embedding &e, const uint16_t *dx, int64_t first, int64_t rows, float *out) {
    for (int64_t i = 0; i < e.batch * e.seq; ++i)
        if (const int64_t row = e.tokens[i] - first; row >= 0 && row < rows)
            for (int64_t c = 0; c < e.channels; ++c)
                out[row * e.channels + c] += half_to_float(dx[(i / e.seq * e.channels + c) * e.seq + i % e.seq]);
}

} // namespace anefast
