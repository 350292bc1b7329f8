// Token embedding and its gradient, between row-major fp32 tables and channel-first fp16 surfaces.
//
// Results never depend on the number of threads. Read head.h next.
#pragma once

#include <cstdint>

namespace anefast {

struct Embedding {
    const int32_t *tokens; // (batch, seq)
    int64_t batch, seq, channels, vocab;
};

// out (batch, channels, 1, seq) fp16 = weight (vocab, channels) fp32, gathered, rounded, transposed. positions (seq,
// channels) fp32 is added before rounding, unless it is null. A weight that is rounded already gives the same bytes.
// Returns -1, or the flat index (b * seq + s) of the first token outside [0, vocab): nothing is written.
int64_t embed(const Embedding &e, const float *weight, const float *positions, uint16_t *out);
int64_t embed(const Embedding &e, const uint16_t *weight, uint16_t *out);

// dweight (vocab, channels) fp32 += dx (batch, channels, 1, seq) fp16, positions in ascending order.
// Returns as embed does.
int64_t embed_grad(const Embedding &e, const uint16_t *dx, float *dweight);

// The same for rows [first, first + rows) of dweight, on the calling thread: out (rows, channels). Tokens are in range.
void embed_grad_rows(const Embedding &e, const uint16_t *dx, int64_t first, int64_t rows, float *out);

// dpositions (seq, channels) fp32 += sum over b of dx (batch, channels, 1, seq) fp16.
void positions_grad(const uint16_t *dx, int64_t batch, int64_t seq, int64_t channels, float *dpositions);

} // namespace anefast
