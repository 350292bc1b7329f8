// See threads.h.
#include "threads.h"

#include "pool.h"

int threads_read(const char *text, size_t bytes) {
    int n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
        n = 10 * n + (text[i] - '0');
        if (n > MOST_THREADS) return 0;
    }
    return n;
}

void threads_set(int n) { anefast::Pool::shared().set_threads(n); }
