/* Counts of a tensor's fp16 values that are near or beyond the limits of fp16, for reports of numeric health. */
#ifndef ANEFAST_HEALTH_H
#define ANEFAST_HEALTH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint64_t inf, nan, denormal, zero;
    uint64_t saturated; /* finite, of at least 32752: the last number before products give inf */
    float largest;      /* finite magnitude */
} half_health;

half_health half_health_of(const uint16_t *h, size_t n);

/* Lines of `outer` matrices (rows, columns) that are 0 throughout. `seen` has room for `columns` halves. */
typedef struct {
    uint64_t rows, columns;
} half_zero;

half_zero half_zero_lines(const uint16_t *h, size_t outer, size_t rows, size_t columns, uint16_t *seen);

int half_overflows(const uint16_t *h, size_t n); /* true if any is inf or NaN; much faster than the counts */

#ifdef __cplusplus
}
#endif
#endif
