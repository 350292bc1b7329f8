// What this machine can do at most, for benchmarks to be measured against: built and called by roofline.py.
#include <stddef.h>

#if defined(__AVX512F__) // 12 sums and two factors must fit the registers
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float F __attribute__((vector_size(LANES * sizeof(float))));

// `rounds` times 12 independent vectors of fused multiply-adds. Returns how many floating point operations that were.
double fma_rounds(size_t rounds, float *sink) {
    F sum[12], a, b;
    for (int i = 0; i < LANES; i++) a[i] = 0.999f, b[i] = 1e-3f;
    for (int i = 0; i < 12; i++) sum[i] = a * (float)i;
    for (size_t r = 0; r < rounds; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) sum[i] = sum[i] * a + b;
    }
    for (int i = 1; i < 12; i++) sum[0] += sum[i];
    *sink = sum[0][0];
    return 2.0 * 12 * LANES * (double)rounds;
}

// A plain copy, for where the library's memcpy is slow (it was, at 1 GB/s, in a virtual machine on Zen 3).
void copy_floats(float *restrict to, const float *restrict from, size_t n) {
    for (size_t i = 0; i < n; i++) to[i] = from[i];
}

// The memory traffic of AdamW and as good as nothing else: four arrays read, three of them written, 28 bytes a weight.
void stream_adam(float *restrict w, const float *restrict g, float *restrict m, float *restrict v, size_t n) {
    for (size_t i = 0; i < n; i++) {
        m[i] = m[i] * 0.9f + g[i];
        v[i] = v[i] * 0.9f + g[i];
        w[i] = w[i] * 0.9f + g[i];
    }
}
