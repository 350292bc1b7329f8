// The type rules of rules_*.cpp, by family. Each takes a checked call and gives its result types.
#pragma once

#include "ops.h"
#include "values.h"

namespace anefast::mil::rules {

using Types = std::vector<Type>;

std::vector<int32_t> broadcast(const Call &call, const std::vector<int32_t> &a, const std::vector<int32_t> &b);
std::string described_shape(const std::vector<int32_t> &shape); // "[1, 4]"

// rules_elementwise.cpp: shapes stay or broadcast
Types same(const Call &), binary(const Call &), compare(const Call &), select(const Call &), cast(const Call &);
Types clip(const Call &), gelu(const Call &), softmax(const Call &), cumsum(const Call &);
Types quantize(const Call &), dequantize(const Call &), affine_dequantize(const Call &), lut_to_dense(const Call &);

// rules_reduce.cpp: over axes
Types reduce(const Call &), argument(const Call &), layer_norm(const Call &), channel_norm(const Call &),
    topk(const Call &);

// rules_move.cpp: elements change place
Types reshape(const Call &), transpose(const Call &), expand_dims(const Call &), squeeze(const Call &);
Types concat(const Call &), stack(const Call &), split(const Call &), tile(const Call &), pad(const Call &);
Types slice_by_size(const Call &), slice_by_index(const Call &), reverse(const Call &);
Types gather(const Call &), gather_along_axis(const Call &);

// rules_product.cpp: sums of products
Types conv(const Call &), matmul(const Call &), linear(const Call &), attention(const Call &), einsum(const Call &);

} // namespace anefast::mil::rules
