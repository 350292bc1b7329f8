// Elements in and out of registers' precision, a block at a time.
//
// Every elementwise kernel works on blocks of float (fp16 and fp32 tensors) or double (the rest): load,
// compute, round once, store. A block is small enough to stay in the nearest cache, and what it holds
// never depends on where it starts, so results do not either.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../../half.h"
#include "../../mil/program.h"

namespace anefast::host {

constexpr size_t BLOCK = 1024;         // elements
constexpr size_t GRAIN = 16384;        // elements worth a turn of one thread
constexpr size_t WORTH_WAKING = 32768; // elements worth a second thread

inline bool is_float(mil::DType d) { return d == mil::DType::fp16 || d == mil::DType::fp32; }

// double -> float that rounds to odd: rounding the result again, to fp16, is then as good as rounding
// once. Only for values on their way to fp16.
inline float to_odd(double d) {
    float f = static_cast<float>(d);
    if (static_cast<double>(f) == d || std::isnan(d) || std::isinf(d)) return f;
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if (std::fabs(static_cast<double>(f)) > std::fabs(d)) bits -= 1; // toward zero
    bits |= 1;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline uint16_t half_from_double(double d) { return half_from_float(to_odd(d)); }

template <class E, class T> void load_as(const uint8_t *p, T *x, size_t n) {
    const E *e = reinterpret_cast<const E *>(p);
    for (size_t i = 0; i < n; i++) x[i] = static_cast<T>(e[i]);
}

template <class T> void load_half(const uint8_t *p, T *x, size_t n) {
    const auto *h = reinterpret_cast<const uint16_t *>(p);
    if constexpr (sizeof(T) == sizeof(float)) {
        half_to_floats(h, x, n);
    } else {
        float block[256];
        for (size_t at = 0; at < n; at += 256) {
            const size_t m = std::min<size_t>(256, n - at);
            half_to_floats(h + at, block, m);
            for (size_t i = 0; i < m; i++) x[at + i] = block[i];
        }
    }
}

// Integers: towards zero, saturating, NaN to 0.
template <class E, class T> void store_as(const T *x, uint8_t *p, size_t n) {
    E *e = reinterpret_cast<E *>(p);
    using Limits = std::numeric_limits<E>;
    for (size_t i = 0; i < n; i++) {
        if constexpr (std::is_integral_v<E>) {
            const auto d = static_cast<double>(x[i]);
            if (!(d > static_cast<double>(Limits::lowest()))) e[i] = std::isnan(d) ? E{0} : Limits::lowest();
            else if (d >= static_cast<double>(Limits::max())) e[i] = Limits::max();
            else e[i] = static_cast<E>(d);
        } else {
            e[i] = static_cast<E>(x[i]);
        }
    }
}

template <class T> void store_bool(const T *x, uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++) p[i] = x[i] != T{0};
}

template <class T> void store_half(const T *x, uint8_t *p, size_t n) {
    auto *h = reinterpret_cast<uint16_t *>(p);
    if constexpr (sizeof(T) == sizeof(float)) {
        half_from_floats(x, h, n);
    } else {
        float block[256];
        for (size_t at = 0; at < n; at += 256) {
            const size_t m = std::min<size_t>(256, n - at);
            for (size_t i = 0; i < m; i++) block[i] = to_odd(x[at + i]);
            half_from_floats(block, h + at, m);
        }
    }
}

template <class T> using Load = void (*)(const uint8_t *p, T *x, size_t n);
template <class T> using Store = void (*)(const T *x, uint8_t *p, size_t n);

template <class T> Load<T> loader(mil::DType d) {
    switch (d) {
    case mil::DType::fp16: return load_half<T>;
    case mil::DType::fp32: return load_as<float, T>;
    case mil::DType::fp64: return load_as<double, T>;
    case mil::DType::int8: return load_as<int8_t, T>;
    case mil::DType::uint8:
    case mil::DType::boolean: return load_as<uint8_t, T>;
    case mil::DType::int16: return load_as<int16_t, T>;
    case mil::DType::uint16: return load_as<uint16_t, T>;
    case mil::DType::int32: return load_as<int32_t, T>;
    case mil::DType::uint32: return load_as<uint32_t, T>;
    case mil::DType::int64: return load_as<int64_t, T>;
    case mil::DType::uint64: return load_as<uint64_t, T>;
    case mil::DType::string: break;
    }
    return nullptr;
}

template <class T> Store<T> storer(mil::DType d) {
    switch (d) {
    case mil::DType::fp16: return store_half<T>;
    case mil::DType::fp32: return store_as<float, T>;
    case mil::DType::fp64: return store_as<double, T>;
    case mil::DType::boolean: return store_bool<T>;
    case mil::DType::int8: return store_as<int8_t, T>;
    case mil::DType::uint8: return store_as<uint8_t, T>;
    case mil::DType::int16: return store_as<int16_t, T>;
    case mil::DType::uint16: return store_as<uint16_t, T>;
    case mil::DType::int32: return store_as<int32_t, T>;
    case mil::DType::uint32: return store_as<uint32_t, T>;
    case mil::DType::int64: return store_as<int64_t, T>;
    case mil::DType::uint64: return store_as<uint64_t, T>;
    case mil::DType::string: break;
    }
    return nullptr;
}

// Sums in double in one order whatever the vector width: eight chains by position, then the chains.
// Sums of up to 8,192 halves are exact.
struct Sum8 {
    double lane[8] = {};
    // Only the last call may have n that is not a multiple of 8.
    template <class F> void add(const float *x, size_t n, F map) {
        size_t i = 0;
        for (; i + 8 <= n; i += 8)
            for (size_t j = 0; j < 8; j++) lane[j] += map(x[i + j]);
        for (; i < n; i++) lane[i % 8] += map(x[i]);
    }
    double total() const {
        return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
    }
};

} // namespace anefast::host
