// The array functions of vecmath.h: vectors of 16 where there is AVX-512, of 8 with AVX2, of 4 elsewhere, the same bits
// from all.
#include "vecmath.h"

#include "../isa.h"
#include "target.h"

namespace anefast {
namespace {

struct Loops {
    void (*exp)(const float *, float *, int64_t);
    void (*sigmoid)(const float *, float *, int64_t);
    void (*tanh)(const float *, float *, int64_t);
    void (*max_down)(const float *, int64_t, int64_t, int64_t, float *);
    void (*exp_sum_down)(const float *, int64_t, int64_t, int64_t, const float *, float *, float *);
    void (*scale_down)(const float *, int64_t, int64_t, int64_t, const float *, float *);
    void (*dot_rows)(const float *, int64_t, int64_t, const float *, int64_t, float *, int64_t);
};

namespace four {
constexpr int WIDTH = 4;
typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
#include "vecmath_loops.h"
} // namespace four

} // namespace
} // namespace anefast

#if defined(__x86_64__)

#include <immintrin.h>

// avx2 without fma: the compiler could not fuse if it wanted to.
TARGET_BEGIN("avx2")
namespace anefast {
namespace {
namespace eight {
constexpr int WIDTH = 8;
typedef float F __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
#define STREAM(p, v) _mm256_stream_ps(p, v)
#define STREAMED() _mm_sfence()
#include "vecmath_loops.h"
} // namespace eight
} // namespace
} // namespace anefast
TARGET_END

AVX512_BEGIN("avx512f,avx2")
namespace anefast {
namespace {
namespace sixteen {
constexpr int WIDTH = 16;
typedef float F __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
#ifndef ANEFAST_AVX512
#define TIMES_POWER_OF_2(p, n) _mm512_scalef_ps(p, n)
#define STREAM(p, v) _mm512_stream_ps(p, v)
#define STREAMED() _mm_sfence()
#endif
#include "vecmath_loops.h"
#undef TIMES_POWER_OF_2
} // namespace sixteen
} // namespace
} // namespace anefast
AVX512_END

#endif

namespace anefast {
namespace {

const Loops &loops() {
    static const Loops &chosen = []() -> const Loops & {
#if defined(__x86_64__)
        if (isa_allowed() == ISA_AVX512) return sixteen::LOOPS;
        if (isa_allowed() == ISA_AVX2) return eight::LOOPS;
#endif
        return four::LOOPS;
    }();
    return chosen;
}

} // namespace

void exp_floats(const float *x, float *y, int64_t n) { loops().exp(x, y, n); }
void sigmoid_floats(const float *x, float *y, int64_t n) { loops().sigmoid(x, y, n); }
void tanh_floats(const float *x, float *y, int64_t n) { loops().tanh(x, y, n); }
void max_down(const float *x, int64_t rows, int64_t stride, int64_t n, float *most) {
    loops().max_down(x, rows, stride, n, most);
}
void exp_sum_down(const float *x, int64_t rows, int64_t stride, int64_t n, const float *most, float *sum, float *y) {
    loops().exp_sum_down(x, rows, stride, n, most, sum, y);
}
void scale_down(const float *x, int64_t rows, int64_t stride, int64_t n, const float *factor, float *y) {
    loops().scale_down(x, rows, stride, n, factor, y);
}
void dot_rows(const float *matrix, int64_t rows, int64_t n, const float *x, int64_t columns, float *out,
              int64_t stride) {
    loops().dot_rows(matrix, rows, n, x, columns, out, stride);
}

} // namespace anefast
