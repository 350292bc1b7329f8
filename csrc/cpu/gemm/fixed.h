// Q15.16 products: how the Neural Engine of M4 and M6 multiplies and adds, one operation at a time.
//
// Source: 751K/Apple-Neural-Engine-Microarchitecture-Study-M6, notes/numerics.md (M4 and M6, macOS 27).
//  1. A product is rounded to 2^-16, halves away from zero. It is dropped where the exponents of its
//     factors sum to -17 or less; a subnormal's exponent counts as -14.
//  2. The sum is exact. A partial sum of magnitude 32768 or more is infinite and stays so.
//  3. The result is rounded to fp16 once, halves away from zero. There is no -0.
//  4. Factors with exponent field 31 are ordinary numbers: inf is 2^16, the largest NaN 131008.
// Which partial sum overflows first is not published; here terms come in the order of k. The sign of
// an infinity is taken to be that of the sum which overflowed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace anefast {

constexpr float FIXED_ONE = 65536;         // units of 2^-16 in 1
constexpr double FIXED_END = 2147483648.0; // magnitude, in units, from which a partial sum is infinite

// Both work on bits, so that loops over them become vectors.
inline float fixed_bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline uint32_t fixed_float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// A half as a factor: exact, exponent field 31 included.
inline float fixed_factor(uint16_t h) {
    const uint32_t size = static_cast<uint32_t>(h & 0x7fff) << 13, sign = static_cast<uint32_t>(h & 0x8000) << 16;
    const float normal = fixed_bits_to_float(size + (112u << 23));
    const float subnormal = fixed_bits_to_float(size + (113u << 23)) - fixed_bits_to_float(113u << 23);
    return fixed_bits_to_float(fixed_float_to_bits((h & 0x7c00) ? normal : subnormal) | sign);
}

// The smallest magnitude of a factor whose product with `x` is not dropped; 0 where none is.
inline float fixed_least(float x) {
    const uint32_t field = fixed_float_to_bits(x) >> 23 & 0xff;
    const int32_t exponent = static_cast<int32_t>(field < 113 ? 113 : field) - 127; // at least -14
    const uint32_t least = static_cast<uint32_t>(127 - 16 - exponent) << 23;
    return exponent >= -2 ? 0.0f : fixed_bits_to_float(least);
}

// A finite sum, in units, as a half.
inline uint16_t fixed_to_half(int32_t sum) {
    const auto sign = static_cast<uint32_t>(sum) >> 31;
    uint32_t size = sign ? 0u - static_cast<uint32_t>(sum) : static_cast<uint32_t>(sum);
    const uint32_t exact = size < (1u << 24) ? size : size & ~0x7fu; // the bit that decides stands above these
    const uint32_t bits = fixed_float_to_bits(static_cast<float>(static_cast<int32_t>(exact))) + 0x1000;
    const uint32_t half = size < 4 ? size << 8 : (bits >> 13) - (128u << 10);
    return static_cast<uint16_t>(sign << 15 | half);
}

// One term, in units, rounded. a is FIXED_ONE times its factor, least is fixed_least of it.
inline double fixed_term(float a, float least, float b) {
    const double product = static_cast<double>(a * b); // 22 bits at most: exact
    const double rounded = std::trunc(product + std::copysign(0.5, product));
    return std::fabs(b) >= least ? rounded : 0.0;
}

// The sum after one more term; an infinite one stays.
inline double fixed_add(double sum, double term) {
    const double next = sum + term;
    return std::fabs(next) >= FIXED_END ? std::copysign(HUGE_VAL, next) : next;
}

inline uint16_t fixed_result(double sum) {
    if (std::fabs(sum) < FIXED_END) return fixed_to_half(static_cast<int32_t>(sum));
    return sum < 0 ? 0xfc00 : 0x7c00;
}

} // namespace anefast
