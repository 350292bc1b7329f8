// The AVX-512 intrinsics of csrc/cpu/gemm/amx.cpp and avx512_bf16.cpp in plain C++, for processors without them.
// Masked loads and stores touch no more than they should, so that a sanitizer sees what each row asks for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#include "half.h"

namespace packing {

struct alignas(64) Vector {
    uint8_t bytes[64];
};

template <class T> T get(const Vector &v, int i) {
    T x;
    std::memcpy(&x, v.bytes + i * sizeof x, sizeof x);
    return x;
}

template <class T, class Element> Vector each(Element element) {
    Vector v;
    for (int i = 0; i < static_cast<int>(64 / sizeof(T)); ++i) {
        const T x = element(i);
        std::memcpy(v.bytes + i * sizeof x, &x, sizeof x);
    }
    return v;
}

inline Vector load(const void *p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store(void *p, const Vector &v) { std::memcpy(p, &v, sizeof v); }

template <class T> Vector load_masked(uint32_t mask, const void *p) {
    return each<T>([&](int i) { return mask >> i & 1 ? static_cast<const T *>(p)[i] : T(0); });
}
inline __m256i load_masked_halves(uint32_t mask, const void *p) {
    __m256i v;
    const Vector words = load_masked<uint16_t>(mask, p);
    std::memcpy(&v, &words, sizeof v);
    return v;
}
inline void store_masked_floats(float *p, uint32_t mask, const Vector &v) {
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) p[i] = get<float>(v, i);
}
inline void store_masked_halves(uint16_t *p, uint32_t mask, __m256i v) {
    uint16_t words[16];
    std::memcpy(words, &v, sizeof v);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) p[i] = words[i];
}

inline Vector widened(__m256i halves) {
    uint16_t words[16];
    std::memcpy(words, &halves, sizeof halves);
    return each<float>([&](int i) { return half_to_float(words[i]); });
}
inline __m256i narrowed(const Vector &v) {
    uint16_t words[16];
    for (int i = 0; i < 16; ++i) words[i] = half_from_float(get<float>(v, i));
    __m256i halves;
    std::memcpy(&halves, words, sizeof halves);
    return halves;
}

// Subnormals become 0, NaN keep their upper payload and turn quiet.
inline uint16_t bf16(uint32_t bits) {
    const uint32_t exponent = bits >> 23 & 0xff;
    if (!exponent) return bits >> 16 & 0x8000;
    if (exponent == 0xff) return static_cast<uint16_t>(bits >> 16 | (bits & 0x7fffff ? 0x40 : 0));
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline Vector bf16_masked(uint32_t mask, const Vector &upper, const Vector &lower) {
    return each<uint16_t>(
        [&](int i) { return mask >> i & 1 ? bf16(get<uint32_t>(i < 16 ? lower : upper, i % 16)) : uint16_t(0); });
}

inline Vector pick_masked(uint32_t mask, const Vector &index, const Vector &v) {
    return each<uint16_t>(
        [&](int i) { return mask >> i & 1 ? get<uint16_t>(v, get<uint16_t>(index, i) % 32) : uint16_t(0); });
}
inline Vector pick_of_two(const Vector &a, const Vector &index, const Vector &b) {
    return each<uint16_t>([&](int i) {
        const int at = get<uint16_t>(index, i) % 64;
        return get<uint16_t>(at < 32 ? a : b, at % 32);
    });
}

// Of each 128 bits of a and b, the lower or the upper halves, an element of a and one of b in turn.
template <class T, bool UPPER> Vector unpack(const Vector &a, const Vector &b) {
    constexpr int LANE = 16 / sizeof(T);
    return each<T>(
        [&](int i) { return get<T>(i % 2 ? b : a, i / LANE * LANE + i % LANE / 2 + (UPPER ? LANE / 2 : 0)); });
}
inline Vector with_quarter(Vector v, __m128i quarter, int at) {
    std::memcpy(v.bytes + 16 * at, &quarter, sizeof quarter);
    return v;
}

inline Vector both(const Vector &a, const Vector &b) {
    return each<uint32_t>([&](int i) { return get<uint32_t>(a, i) & get<uint32_t>(b, i); });
}
inline uint32_t differ(const Vector &a, const Vector &b) {
    uint32_t mask = 0;
    for (int i = 0; i < 32; ++i) mask |= uint32_t{get<uint16_t>(a, i) != get<uint16_t>(b, i)} << i;
    return mask;
}
inline Vector less(const Vector &a, const Vector &b) {
    return each<float>([&](int i) { return get<float>(a, i) - get<float>(b, i); });
}

// Subnormals are 0 on the way in and on the way out; of each pair the second is added first.
inline float plain(float x) { return std::fabs(x) < 1.17549435e-38f ? 0.0f * x : x; }
inline float from_bf16(const Vector &v, int i) {
    const uint32_t bits = uint32_t{get<uint16_t>(v, i)} << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return plain(x);
}
inline Vector add_pairs(const Vector &sum, const Vector &a, const Vector &b) {
    return each<float>([&](int i) {
        const float second =
            plain(std::fma(from_bf16(a, 2 * i + 1), from_bf16(b, 2 * i + 1), plain(get<float>(sum, i))));
        return plain(std::fma(from_bf16(a, 2 * i), from_bf16(b, 2 * i), second));
    });
}

} // namespace packing

#define __m512i packing::Vector
#define __m512 packing::Vector
#define __m512bh packing::Vector
#define _mm512_setzero_ps()                                                                                            \
    packing::Vector {}
#define _mm512_set1_epi32(x) packing::each<int32_t>([&](int) { return x; })
#define _mm512_dpbf16_ps packing::add_pairs
#define _mm512_load_si512 packing::load
#define _mm512_load_ps packing::load
#define _mm512_store_si512 packing::store
#define _mm512_store_ps packing::store
#define _mm512_maskz_loadu_epi16 packing::load_masked<uint16_t>
#define _mm512_maskz_loadu_ps packing::load_masked<float>
#define _mm256_maskz_loadu_epi16 packing::load_masked_halves
#define _mm512_mask_storeu_ps packing::store_masked_floats
#define _mm256_mask_storeu_epi16 packing::store_masked_halves
#define _mm512_cvtph_ps packing::widened
#define _mm512_cvtps_ph(v, rounding) packing::narrowed(v)
#define _mm512_cvtne2ps_pbh(upper, lower) packing::bf16_masked(~0u, upper, lower)
#define _mm512_maskz_cvtne2ps_pbh packing::bf16_masked
#define _mm512_maskz_permutexvar_epi16 packing::pick_masked
#define _mm512_permutex2var_epi16 packing::pick_of_two
#define _mm512_unpacklo_epi32 packing::unpack<uint32_t, false>
#define _mm512_unpackhi_epi32 packing::unpack<uint32_t, true>
#define _mm512_unpacklo_epi64 packing::unpack<uint64_t, false>
#define _mm512_unpackhi_epi64 packing::unpack<uint64_t, true>
#define _mm512_castsi128_si512(quarter) packing::with_quarter({}, quarter, 0)
#define _mm512_inserti32x4 packing::with_quarter
#define _mm512_castsi512_ps(v) (v)
#define _mm512_set1_epi16(x) packing::each<uint16_t>([](int) { return uint16_t(x); })
#define _mm512_and_si512 packing::both
#define _mm512_cmpneq_epi16_mask packing::differ
#define _mm512_sub_ps packing::less
