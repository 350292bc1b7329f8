/* The option threads=N of every executor: how many threads the one pool has (pool.h). Plain C, for
 * Objective-C. */
#ifndef ANEFAST_THREADS_H
#define ANEFAST_THREADS_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { MOST_THREADS = 1024 };

int threads_read(const char *text, size_t bytes); /* 0 unless it is a number from 1 to MOST_THREADS */
void threads_set(int n);                          /* as Pool::set_threads */

#ifdef __cplusplus
}
#endif
#endif
