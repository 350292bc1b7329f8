// Weights on their way to the device: fp32 masters rounded to fp16, many tensors in one parallel region.
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

// Rounds all of them, nearest even. lost[i] is how many values of weight i fp16 cannot hold: of at
// least 65520, which round to infinity, or not a number.
void round_weights(const RoundedWeight *weights, int64_t count, int64_t *lost);

} // namespace anefast
