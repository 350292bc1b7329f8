// C = A B (+ C): fp16 or fp32 operands, fp32 arithmetic, fp16 or fp32 result. The one matrix product
// of the host: conv, matmul, the classifier and every weight gradient come here.
//
// Numerics: each element of C is one chain of fp32 fused multiply-adds over k = 0, 1, .. K-1, from 0
// (or from C where it accumulates), rounded once at the end. Blocking, vector width and threads never
// change a bit; gemm_reference is that sentence in code.
// AMX is the exception. Its tiles sum the even and the odd k of each 32 apart and then add both, take
// fp32 subnormals for 0, and split what is not fp16 (amx.cpp). Blocking and threads change
// nothing there either, but it agrees with the other paths only to the error bound of an fp32 sum
// (plus 2^-16 of each product for fp32 operands, where infinity times a number may become NaN).
// ANEFAST_ISA=relaxed, and nothing else, takes paths that round operands to the nearest bf16 first, which may cost 2^-7
// + 2^-16 of each product: AMX-BF16, summed as above, or AVX-512 BF16, each pair's second product before its first.
// A product that says Arithmetic::fixed is none of these: fixed.h says what it is, on every path alike.
// A product that says any_order gives the order up as well where gemm_isa() names a library.
#pragma once

#include <cstdint>
#include <functional>

namespace anefast {

enum class Elem : uint8_t { f16, f32 };
enum class Arithmetic : uint8_t { fp32, fixed }; // fixed: Q15.16, of fp16 operands and results without accumulation

struct MatrixView { // element (i, j) is data[i * row_stride + j * col_stride]
    const void *data;
    Elem elem;
    int64_t row_stride, col_stride; // in elements; one of them 1 on the fast paths
};

// What makes B, some columns at a time and each once, just before they are packed; on the thread that packs them.
using Prologue = std::function<void(int64_t column, int64_t columns)>;

// What follows a product while its result is still near: each part of C once, as soon as it is final, on the
// thread that made it.
struct Epilogue {
    std::function<void(int64_t row, int64_t rows, int64_t column, int64_t columns)> run;
    int64_t unit = 1; // parts begin at rows that are multiples of this, and so do they end, but for the last
};

struct Gemm {
    int64_t m, n, k;
    MatrixView a, b; // m x k, k x n
    void *c;
    Elem c_elem;
    int64_t c_row_stride; // in elements; columns are contiguous
    bool accumulate;      // c_elem must be f32: C += A B
    // The sums may be taken in another order, c_elem being f32: a library does it where there is one (library.h).
    bool any_order = false;
    // Not of a product that any_order may give to a library; null: nothing.
    const Prologue *prologue = nullptr;
    const Epilogue *epilogue = nullptr;
    int64_t first_column = 0; // as these two count columns
    Arithmetic arithmetic = Arithmetic::fp32;
    const uint16_t *blocked = nullptr; // A once more, as gemm_block_rows has it: read instead where few columns meet it
};

class FirstError; // of pool.h

void gemm(const Gemm &g);                      // in one parallel region of the shared pool
void gemm_alone(const Gemm &g);                // on the calling thread: for use inside a region
void gemm_batch(const Gemm *g, int64_t count); // independent products, one region
void gemm_enqueue(const void *key, const Gemm &g, FirstError &failure); // on the pool's background queue
// A, fp16 and of contiguous rows, in blocks of rows whose elements of one k lie side by side; the last block ends in
// zeros.
bool gemm_wants_blocks(const Gemm &g);          // whether it would read them: they are for products of few columns
size_t gemm_blocked_size(int64_t m, int64_t k); // elements
void gemm_block_rows(const uint16_t *a, int64_t m, int64_t k, uint16_t *out);
void gemm_reference(const Gemm &g); // plain loops, one thread
bool gemm_relaxed();                // whether operands are rounded to bf16
const char *gemm_isa();             // "AVX2 FMA F16C", "NEON, Accelerate for any_order", ...; ANEFAST_ISA overrides

} // namespace anefast
