#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "gemm/path.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace anefast {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int RUNS = 7;
constexpr int CHAINS = 12; // independent sums: more than latency x width of any core so far

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Each gives the flops of `rounds` rounds; the sum is returned so that nothing is optimised away.
struct Work {
    double flops;
    float sum;
};

#define FMA_LOOP(NAME, TARGET, VEC, WIDTH, SPLAT, FMA, STORE)                                                          \
    TARGET Work NAME(long rounds) {                                                                                    \
        VEC sums[CHAINS], a = SPLAT(0.999f), b = SPLAT(1e-3f);                                                         \
        for (int i = 0; i < CHAINS; i++) sums[i] = SPLAT(static_cast<float>(i));                                       \
        for (long r = 0; r < rounds; r++)                                                                              \
            for (int i = 0; i < CHAINS; i++) sums[i] = FMA(sums[i], a, b);                                             \
        float out[WIDTH], total = 0;                                                                                   \
        for (int i = 0; i < CHAINS; i++) {                                                                             \
            STORE(out, sums[i]);                                                                                       \
            total += out[0];                                                                                           \
        }                                                                                                              \
        return {2.0 * WIDTH * CHAINS * static_cast<double>(rounds), total};                                            \
    }

#ifdef X86
FMA_LOOP(fma_avx512, __attribute__((target("avx512f"))), __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps)
FMA_LOOP(fma_avx2, __attribute__((target("avx2,fma"))), __m256, 8, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps)
#define SSE_FMA(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
FMA_LOOP(fma_sse, , __m128, 4, _mm_set1_ps, SSE_FMA, _mm_storeu_ps)
#elif defined(__aarch64__)
#define NEON_FMA(a, b, c) vfmaq_f32(c, a, b)
FMA_LOOP(fma_neon, , float32x4_t, 4, vdupq_n_f32, NEON_FMA, vst1q_f32)
#else
#define PLAIN(x) (x)
#define PLAIN_FMA(a, b, c) ((a) * (b) + (c))
#define PLAIN_STORE(out, x) (*(out) = (x))
FMA_LOOP(fma_plain, , float, 1, PLAIN, PLAIN_FMA, PLAIN_STORE)
#endif

// fp32 multiply-adds by the widest vectors that the processor has.
Work fma(long rounds) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f")) return fma_avx512(rounds);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return fma_avx2(rounds);
    return fma_sse(rounds);
#elif defined(__aarch64__)
    return fma_neon(rounds);
#else
    return fma_plain(rounds);
#endif
}

// The products of kernels that have more than those.
Work products(const GemmKernels &kernels, long rounds) {
    const Entered entered(kernels);
    return {kernels.in_registers(rounds), 1};
}

// Runs body(0..threads-1) at once, one of them here.
template <class Body> void together(int threads, const Body &body) {
    struct Others : std::vector<std::thread> {
        ~Others() { // also where the system grants no more of them
            for (auto &t : *this) t.join();
        }
    } others;
    others.reserve(static_cast<size_t>(threads));
    for (int i = 1; i < threads; i++) others.emplace_back([&body, i] { body(i); });
    body(0);
}

#if defined(__clang__)
#define ONE_BY_ONE _Pragma("clang loop vectorize(disable) interleave(disable)")
#define SCALAR
#else
#define ONE_BY_ONE
#define SCALAR __attribute__((optimize("no-tree-vectorize")))
#endif

SCALAR void add_scalar(float *y, const float *x, size_t n) {
    ONE_BY_ONE
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

void add_vector(float *__restrict y, const float *__restrict x, size_t n) {
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

} // namespace

Peak probe_peak(int threads) {
    const GemmKernels &kernels = *gemm_path().halves;
    Peak peak{kernels.in_registers ? kernels.isa : "fp32", 0};
    const long rounds = 1L << 20; // some 2 to 70 ms
    std::vector<Work> done(static_cast<size_t>(threads));
    for (int run = 0; run < RUNS; run++) {
        const auto start = Clock::now();
        together(threads, [&](int i) {
            done[static_cast<size_t>(i)] = kernels.in_registers ? products(kernels, rounds) : fma(rounds);
        });
        const double took = since(start);
        double flops = 0, sum = 0;
        for (const Work &w : done) flops += w.flops, sum += w.sum;
        if (sum > 0) peak.flops = std::max(peak.flops, flops / took);
    }
    return peak;
}

double probe_stream(int threads) {
    constexpr size_t EACH = size_t{4} << 20; // floats: 16 MiB an array and thread
    const size_t n = EACH * static_cast<size_t>(threads);
    std::unique_ptr<float[]> arrays[4];
    for (auto &array : arrays) array.reset(new float[n]);
    together(threads, [&](int i) { // first touched by the thread that uses it
        for (auto &array : arrays) std::fill_n(&array[EACH * static_cast<size_t>(i)], EACH, 1e-3f);
    });
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        const auto start = Clock::now();
        together(threads, [&](int i) {
            const size_t at = EACH * static_cast<size_t>(i);
            const float *__restrict g = &arrays[0][at];
            float *__restrict w = &arrays[1][at], *__restrict m = &arrays[2][at], *__restrict v = &arrays[3][at];
            for (size_t k = 0; k < EACH; k++) {
                m[k] = m[k] * 0.9f + g[k];
                v[k] = v[k] * 0.9f + g[k];
                w[k] = w[k] * 0.9f + g[k];
            }
        });
        best = std::max(best, 7.0 * sizeof(float) * static_cast<double>(n) / since(start));
    }
    return best;
}

double probe_small(Small what, size_t count, size_t bytes) {
    const size_t floats = bytes / sizeof(float);
    std::vector<float> x, y;
    if (what != Small::allocate) x.assign(floats, 1.0f), y.assign(floats, 2.0f);
    std::vector<void *> held(count);
    double best = 1e30;
    for (int run = 0; run < RUNS; run++) {
        const auto start = Clock::now();
        if (what == Small::allocate) {
            for (void *&p : held) p = std::malloc(bytes);
            for (void *p : held) std::free(p);
        }
        for (size_t i = 0; what != Small::allocate && i < count; i++) {
            if (what == Small::copy) std::memcpy(y.data(), x.data(), bytes);
            if (what == Small::add) add_scalar(y.data(), x.data(), floats);
            if (what == Small::add_vector) add_vector(y.data(), x.data(), floats);
        }
        best = std::min(best, since(start));
    }
    return best;
}

} // namespace anefast
