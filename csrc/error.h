/* How an executor says what went wrong: the one place where an anefast_error is filled. */
#ifndef ANEFAST_ERROR_H
#define ANEFAST_ERROR_H

#include "anefast.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fills `error`, which may be NULL, as printf would: a message that is too long is cut. Returns `status`. */
anefast_status set_error(anefast_error *error, anefast_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, at a place in the MIL text; line and column from 1, 0 where there is none. */
anefast_status set_error_at(anefast_error *error, anefast_status status, int32_t line, int32_t column,
                            const char *format, ...) __attribute__((format(printf, 5, 6)));

#ifdef __cplusplus
}
#endif
#endif
