// The end of the model on the CPU: final norm, classifier, cross-entropy, and their gradients.
//
// h (batch, channels, 1, seq) fp16; norm (channels) fp32; weight (vocab, channels), fp32 where it is trained, fp16
// where the model is used. Every sum is fp32 or wider. Logits are fp32, made for at most HEAD_TOKENS tokens at a time,
// vocabulary down and tokens across, so that softmax is vertical. Results never depend on the number of threads.
// Products are gemm/gemm.h, exp is vecmath.h.
#pragma once

#include <cstdint>

#include "scratch.h"

namespace anefast {

struct Head {
    const uint16_t *h;
    const float *norm, *weight;
    int64_t batch, seq, channels, vocab;
    float epsilon;
    const float *bias = nullptr;      // (channels): the norm is a LayerNorm with this bias; null: an RMSNorm
    const uint16_t *halves = nullptr; // the weight in fp16, where `weight` is null
};

struct HeadLoss {
    double sum;    // of nll over the targets >= 0
    int64_t count; // of those targets
    int64_t bad;   // -1, or the flat index of the first target >= vocab: then nothing was written
};

// targets (batch, seq): negative ones are ignored. nll (batch, seq) fp32 is written, 0 where ignored.
HeadLoss head_loss(const Head &head, const int32_t *targets, float *nll);

// The same of an fp32 weight, and the gradients of scale * sum: dh (batch, channels, 1, seq) fp16 is written (overflow
// becomes infinity); dnorm, dbias (channels) and dweight (vocab, channels) fp32 are added to, or, where `fresh`,
// written. Those that are null are not made.
HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
                        float *dbias, float *dweight, bool fresh);

constexpr int64_t HEAD_TOKENS = 512;            // of a block
constexpr int64_t HEAD_KEPT = 17 * 1000 * 1000; // floats of (vocab, tokens) that a block may keep: 68 MB

// What the classifier's gradient is made of, kept of one block of tokens for a reader that wants it by rows.
struct HeadTaps {
    int64_t vocab = 0, channels = 0, tokens = 0;
    bool finite = false;
    Scratch dlogits, xn; // (vocab, tokens); panels of (tokens, channels)

    // Rows [first, first + rows) of dweight, as head_loss_grad writes them, on the calling thread: out (rows,
    // channels).
    void grad_rows(int64_t first, int64_t rows, float *out);
};

// head_loss_grad of at most HEAD_TOKENS tokens whose dweight is left to `taps`.
HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh, float *dnorm,
                        float *dbias, HeadTaps &taps, bool fresh);

// out (count, vocab) fp32 = logits, of a weight in fp16, at one position of each sequence, or at `count` of the only
// one. Those of a position do not depend on how many others there are.
// Returns -1, or the first of the positions that is outside [0, seq).
int64_t head_logits(const Head &head, const int32_t *positions, int64_t count, float *out);

} // namespace anefast
