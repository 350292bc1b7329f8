// Adafactor (Shazeer and Stern, arXiv 1804.04235) of matrices, whose second moment is one row and one column of means.
//
// Two passes over the gradient and the weights: means and sizes, then the update. Where a product of means is below the
// least, there is one more over the gradient. Results do not depend on the number of threads or on the instruction set.
#pragma once

#include <cstdint>

namespace anefast {

struct FactoredTensor { // fp32, row-major
    float *weight;      // (rows, columns)
    const float *grad;
    float *row, *column; // means of the squared gradient: (rows), (columns)
    int64_t rows, columns;
    float rate, decay; // learning rate, decoupled weight decay
};

struct FactoredRule {
    float factor;  // what the gradient is multiplied by first
    float fresh;   // the part of the new squares in the means: step ** -0.8
    float most;    // the rate is at most this: 1 / sqrt(step)
    float epsilon; // the least of the means' product, squared
    float least;   // the rate is times the weights' root mean square, at least this
};

void adafactor(const FactoredTensor *tensors, int64_t count, const FactoredRule &rule);

} // namespace anefast
