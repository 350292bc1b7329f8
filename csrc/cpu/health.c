/* One pass in 16-bit lanes, signed ones, so that the compiler fills vectors of any age: see health.h. */
#include "health.h"

#include "../half.h"

enum { BLOCK = 16384, INF = 0x7c00, NORMAL = 0x0400, LAST = 0x77ff }; /* a block's counts fit 15 bits */

half_health half_health_of(const uint16_t *h, size_t n) {
    half_health all = {0, 0, 0, 0, 0, 0.0f};
    int16_t largest = 0;
    for (size_t at = 0; at < n; at += BLOCK) {
        const size_t m = n - at < BLOCK ? n - at : BLOCK;
        int16_t inf = 0, nan = 0, small = 0, zero = 0, large = 0, top = 0;
        for (size_t i = 0; i < m; i++) {
            const int16_t a = (int16_t)(h[at + i] & 0x7fff);
            const int16_t finite = a < INF ? a : 0;
            inf = (int16_t)(inf + (a == INF));
            nan = (int16_t)(nan + (a > INF));
            zero = (int16_t)(zero + (a == 0));
            small = (int16_t)(small + (a < NORMAL));
            large = (int16_t)(large + (finite >= LAST));
            top = top > finite ? top : finite;
        }
        all.inf += (uint64_t)inf, all.nan += (uint64_t)nan, all.zero += (uint64_t)zero;
        all.saturated += (uint64_t)large, all.denormal += (uint64_t)(small - zero);
        largest = largest > top ? largest : top;
    }
    all.largest = half_to_float((uint16_t)largest);
    return all;
}

half_zero half_zero_lines(const uint16_t *h, size_t outer, size_t rows, size_t columns, uint16_t *seen) {
    half_zero all = {0, 0};
    for (size_t o = 0; o < outer; o++) {
        for (size_t c = 0; c < columns; c++) seen[c] = 0;
        for (size_t r = 0; r < rows; r++, h += columns) {
            uint16_t any = 0;
            for (size_t c = 0; c < columns; c++) {
                const uint16_t a = (uint16_t)(h[c] & 0x7fff);
                any |= a;
                seen[c] |= a;
            }
            all.rows += any == 0;
        }
        for (size_t c = 0; c < columns; c++) all.columns += seen[c] == 0;
    }
    return all;
}

int half_overflows(const uint16_t *h, size_t n) {
    for (size_t at = 0; at < n; at += BLOCK) {
        const size_t m = n - at < BLOCK ? n - at : BLOCK;
        int16_t top = 0;
        for (size_t i = 0; i < m; i++) {
            const int16_t a = (int16_t)(h[at + i] & 0x7fff);
            top = top > a ? top : a;
        }
        if (top >= INF) return 1;
    }
    return 0;
}
