/* fp16 <-> fp32, one contract: round to nearest even, subnormals kept, overflow to infinity, NaNs
 * stay NaN (quieted). Picks F16C at run time on x86, NEON on arm64;
 * portable C elsewhere. */
#ifndef ANEFAST_HALF_H
#define ANEFAST_HALF_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

uint16_t half_from_float(float x);
float half_to_float(uint16_t h);
void half_from_floats(const float *x, uint16_t *h, size_t n);
void half_to_floats(const uint16_t *h, float *x, size_t n);
/* x: rows x columns fp32, row-major. h: columns x rows fp16, row-major. */
void half_from_floats_transposed(const float *x, uint16_t *h, size_t rows, size_t columns);
/* The portable versions, to referee the others. */
void half_from_floats_portable(const float *x, uint16_t *h, size_t n);
void half_to_floats_portable(const uint16_t *h, float *x, size_t n);
const char *half_isa(void); /* "F16C", "NEON", "portable", ... */

#ifdef __cplusplus
}
#endif
#endif
