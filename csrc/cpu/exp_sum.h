// The sum of a softmax's exponentials, which are between 0 and 1. Each is rounded to a multiple of 2^-44, and the sum
// of those is exact. So the order does not matter, and terms that a mask makes 0 may be left out.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace anefast {

constexpr double EXP_UNIT = 0x1p44;
constexpr double EXP_SHIFT = 0x1.8p52; // added to a number, it rounds it to a whole one and leaves that in the low bits
constexpr int64_t EXP_SHIFT_BITS = 0x4338000000000000;
constexpr int64_t EXPS_MOST = 1 << 18; // terms that surely fit

inline int64_t exp_units(float e) {
    const double shifted = static_cast<double>(e) * EXP_UNIT + EXP_SHIFT;
    int64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return bits - EXP_SHIFT_BITS;
}

// most: the largest element; where it is no finite number, the exponentials are none either.
inline float exp_total(int64_t units, float most) {
    if (!std::isfinite(most)) return std::numeric_limits<float>::quiet_NaN();
    return static_cast<float>(static_cast<double>(units) / EXP_UNIT);
}

} // namespace anefast
