// The end of the model on the CPU: final RMSNorm, classifier, cross-entropy, and their gradients.
//
// h (batch, channels, 1, seq) fp16; norm (channels), weight (vocab, channels) fp32. Logits are fp32, made
// for at most 256 tokens at a time, vocabulary down and tokens across, so that softmax is vertical.
// Results never depend on the number of threads. Products are gemm.h, exp is vecmath.h.
#pragma once

#include <cstdint>

namespace anefast {

struct Head {
    const uint16_t *h;
    const float *norm, *weight;
    int64_t batch, seq, channels, vocab;
    float epsilon;
};

struct HeadLoss {
    double sum;    // of nll over the targets >= 0
    int64_t count; // of those targets
    int64_t bad;   // -1, or the flat index of the first target >= vocab: then nothing was written
};

// targets (batch, seq): negative ones are ignored. nll (batch, seq) fp32 is written, 0 where ignored.
HeadLoss head_loss(const Head &head, const int32_t *targets, float *nll);

// The same, and the gradients of scale * sum: dh (batch, channels, 1, seq) fp16 is written (overflow becomes
// infinity); dnorm (channels) and dweight (vocab, channels) fp32 are added to, or, where `fresh`, written.
HeadLoss head_loss_grad(const Head &head, const int32_t *targets, float scale, float *nll, uint16_t *dh,
                        float *dnorm, float *dweight, bool fresh);

// out (batch, vocab) fp32 = logits at one position of each sequence.
// Returns -1, or the first sequence whose position is outside [0, seq).
int64_t head_logits(const Head &head, const int32_t *positions, float *out);

} // namespace anefast
