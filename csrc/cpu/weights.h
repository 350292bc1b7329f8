// Rounds fp32 weights to fp16 for the device, many tensors in one parallel region.
#pragma once

#include <cstdint>

namespace anefast {

// A matrix of rows x columns, contiguous on both sides; `to` is columns x rows where it is transposed.
struct RoundedWeight {
    const float *from;
    uint16_t *to;
    int64_t rows, columns;
    bool transposed;
};

// Rounds all of them to nearest even. lost[i] counts the values of weight i that fp16 cannot hold: NaN, and
// magnitudes of at least 65520, which round to infinity.
void round_weights(const RoundedWeight *weights, int64_t count, int64_t *lost);

} // namespace anefast
