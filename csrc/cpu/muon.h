// Muon (Jordan et al. 2024) of matrices: momentum whose singular values are all brought near 1 by Newton-Schulz.
//
// The steps are Moonlight's (arXiv 2502.16982): Nesterov momentum, decay apart from it. Newton-Schulz is three products
// of gemm/gemm.h for each of its five steps: 20 m^2 n + 10 m^3 flops for m x n, m the smaller side.
#pragma once

#include <cstdint>

namespace anefast {

struct MuonTensor { // fp32, (rows, columns), row-major
    float *weight;
    const float *grad;
    float *momentum;
    int64_t rows, columns;
    float rate, decay; // learning rate, its scaling by the shape included; rate times decoupled weight decay
};

// One update by factor * grad.
void muon(const MuonTensor *tensors, int64_t count, float factor, float momentum);

// x (rows, columns) -> U S' V^T of x = U S V^T, with S' from about 0.7 to 1.2.
void newton_schulz(float *x, int64_t rows, int64_t columns);

} // namespace anefast
