// Parameter gradients from saved activations, on the pool's background queue.
//
// Sums begin with what acc holds, or, where `fresh`, with 0: then what it held is never read.
// Each call returns at once; Pool::drain() finishes them. The caller keeps every buffer alive and unchanged
// until then. An error is in `failure` then, as with Pool::enqueue, and acc is not valid. Calls on the same acc
// run one after the other, so sums have one order whatever the threads: for weights batch ascending, then sequence
// ascending (any order within a batch where gemm_isa() names a library), in fp32; for channel sums eight interleaved
// lanes in double.
#pragma once

#include <cstdint>

#include "update.h"
#include "pool.h"

namespace anefast {

// acc (out_channels, in_channels) += sum over b, s of dy[b, :, s] x[b, :, s]^T
// dy (batch, out_channels, 1, seq), x (batch, in_channels, 1, seq) fp16.
void weight_grad(const uint16_t *dy, const uint16_t *x, float *acc, int64_t batch, int64_t seq, int64_t out_channels,
                 int64_t in_channels, bool fresh, FirstError &failure);

// The same sum from 0, by rows: a gradient that is not stored (update.h). dy and x must outlive it.
FlowingGrad weight_grad_flowing(const uint16_t *dy, const uint16_t *x, int64_t batch, int64_t seq, int64_t out_channels,
                                int64_t in_channels);

// acc (channels) += sum over b, s of dy * x; both (batch, channels, 1, seq) fp16.
void scale_grad(const uint16_t *dy, const uint16_t *x, float *acc, int64_t batch, int64_t seq, int64_t channels,
                bool fresh, FirstError &failure);

// acc (channels) += sum over b, s of dy.
void bias_grad(const uint16_t *dy, float *acc, int64_t batch, int64_t seq, int64_t channels, bool fresh,
               FirstError &failure);

} // namespace anefast
