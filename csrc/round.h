// Division and multiples, rounded up.
#pragma once

#include <cstddef>
#include <cstdint>

namespace anefast {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }
constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

} // namespace anefast
