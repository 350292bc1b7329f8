/* See error.h. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static void fill(anefast_error *error, anefast_status status, int32_t line, int32_t column, const char *format,
                 va_list arguments) {
    if (!error) return;
    error->status = status;
    error->line = line;
    error->column = column;
    vsnprintf(error->message, sizeof error->message, format, arguments);
}

anefast_status set_error(anefast_error *error, anefast_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, 0, 0, format, arguments);
    va_end(arguments);
    return status;
}

anefast_status set_error_at(anefast_error *error, anefast_status status, int32_t line, int32_t column,
                            const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fill(error, status, line, column, format, arguments);
    va_end(arguments);
    return status;
}
