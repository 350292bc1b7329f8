/* fp16 <-> fp32, one contract: round to nearest even, subnormals kept, overflow to infinity, NaNs
 * stay NaN (quieted, payload kept). Every instruction set gives the bits of the portable C. The best
 * one is picked at run time; ANEFAST_ISA overrides the choice. */
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

/* Matrices whose rows are contiguous, their beginnings `stride` elements apart; nothing between rows is
 * touched. rows x columns is the shape of what is read, columns x rows that of a transposed result. */
void half_from_floats_rows(const float *x, size_t x_stride, uint16_t *h, size_t h_stride, size_t rows, size_t columns);
void half_to_floats_rows(const uint16_t *h, size_t h_stride, float *x, size_t x_stride, size_t rows, size_t columns);
void half_from_floats_transposed(const float *x, size_t x_stride, uint16_t *h, size_t h_stride, size_t rows,
                                 size_t columns);
void half_to_floats_transposed(const uint16_t *h, size_t h_stride, float *x, size_t x_stride, size_t rows,
                               size_t columns);

/* The portable versions, to referee the others. */
void half_from_floats_portable(const float *x, uint16_t *h, size_t n);
void half_to_floats_portable(const uint16_t *h, float *x, size_t n);
const char *half_isa(void); /* "AVX-512", "F16C", "NEON" or "portable" */

#ifdef __cplusplus
}
#endif
#endif
