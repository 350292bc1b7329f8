/* Holds csrc/half.c's chosen instruction set to its portable version, bit for bit.
 *
 *     half_check SHIFT     every half, every rounding boundary, 2^32 >> SHIFT floats spread over all
 *                          bit patterns, row lengths, strides and transposes with guard words
 *
 * Prints one line, "ISA FLOATS DIGEST": the digest is of the portable results, so that two machines
 * can be compared. Says what differed and exits 1 otherwise. A test program only, compiled by
 * tests/test_native.py for this machine and for arm64 under qemu.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/half.h"

enum { BLOCK = 1 << 14, SIDE = 80, GUARD = 0xA5 };

static uint64_t digest = 1469598103934665603u;

static void remember(const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        digest = (digest ^ word) * 1099511628211u;
    }
}

static void fail(const char *what, uint64_t where) {
    printf("%s differs from portable at %s %" PRIu64 "\n", half_isa(), what, where);
    exit(1);
}

static float x[BLOCK], y[BLOCK], z[BLOCK];
static uint16_t h[BLOCK], g[BLOCK];

/* BLOCK floats in x, narrowed by both. */
static void narrow_block(uint64_t where) {
    half_from_floats(x, h, BLOCK);
    half_from_floats_portable(x, g, BLOCK);
    if (memcmp(h, g, sizeof h) != 0) fail("the floats from bits", where);
    remember(g, sizeof g);
}

static void put(float *to, uint32_t bits) { memcpy(to, &bits, sizeof bits); }

static void every_half(void) {
    for (uint32_t first = 0; first < 65536; first += BLOCK) {
        for (uint32_t i = 0; i < BLOCK; i++) h[i] = (uint16_t)(first + i);
        half_to_floats(h, y, BLOCK);
        half_to_floats_portable(h, z, BLOCK);
        if (memcmp(y, z, sizeof y) != 0) fail("the halves from", first);
        remember(z, sizeof z);
    }
}

/* 3 ulp below to 4 above each half, and the same around the middle to its neighbour. */
static void every_boundary(void) {
    size_t n = 0;
    for (uint32_t i = 0; i < 65536; i++) {
        const uint16_t pair[2] = {(uint16_t)i, (uint16_t)(i + 1)};
        float wide[2];
        uint32_t bits[2];
        half_to_floats_portable(pair, wide, 2);
        memcpy(&bits[0], &wide[0], 4);
        bits[1] = bits[0] + (1 << 12); /* above the largest half, where the neighbour is infinity */
        if ((i & 0x7fff) < 0x7bff) {
            const float middle = (wide[0] + wide[1]) / 2; /* exact: 12 bits of significand */
            memcpy(&bits[1], &middle, 4);
        }
        for (int part = 0; part < 2; part++)
            for (uint32_t d = 0; d < 8; d++) put(&x[n++], bits[part] + d - 3);
        if (n == BLOCK) narrow_block(i), n = 0;
    }
}

/* One float of every 2^shift neighbours, a different one each time. */
static uint64_t spread(unsigned shift) {
    uint64_t done = 0;
    uint32_t random = 1;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += (uint64_t)BLOCK << shift) {
        for (uint32_t i = 0; i < BLOCK; i++) {
            random = random * 1664525u + 1013904223u;
            put(&x[i], (uint32_t)(bits + ((uint64_t)i << shift) + (shift ? random >> (32 - shift) : 0)));
        }
        narrow_block(bits);
        done += BLOCK;
    }
    return done;
}

static void fill(void) {
    for (size_t i = 0; i < BLOCK; i++) {
        h[i] = (uint16_t)(i * 40503u + 7);
        half_to_floats_portable(&h[i], &x[i], 1);
    }
}

static int guarded(const void *data, size_t size, size_t i) {
    const unsigned char *p = (const unsigned char *)data + i * size;
    for (size_t b = 0; b < size; b++)
        if (p[b] != GUARD) return 0;
    return 1;
}

/* Rows of `columns` at a distance of `columns + gap`, `offset` elements into the buffers. */
static void matrices(size_t rows, size_t columns, size_t gap, size_t offset) {
    const size_t from = columns + gap, to = rows + gap + 1;
    const size_t area = offset + (rows + columns + 1) * (rows + columns + gap + 1);
    if (area > BLOCK) return;
    for (int transposed = 0; transposed < 2; transposed++) {
        const size_t pitch = transposed ? to : from + 1, high = transposed ? columns : rows,
                     wide = transposed ? rows : columns;
        memset(g, GUARD, sizeof g);
        memset(y, GUARD, sizeof y);
        if (transposed) {
            half_from_floats_transposed(x + offset, from, g + offset, pitch, rows, columns);
            half_to_floats_transposed(h + offset, from, y + offset, pitch, rows, columns);
        } else {
            half_from_floats_rows(x + offset, from, g + offset, pitch, rows, columns);
            half_to_floats_rows(h + offset, from, y + offset, pitch, rows, columns);
        }
        for (size_t i = 0; i < area; i++) {
            const size_t r = i < offset ? high : (i - offset) / pitch, c = i < offset ? 0 : (i - offset) % pitch;
            if (r >= high || c >= wide) {
                if (!guarded(g, sizeof *g, i) || !guarded(y, sizeof *y, i)) fail("the words beside a row of", wide);
                continue;
            }
            const size_t at = offset + (transposed ? c * from + r : r * from + c);
            uint16_t one;
            float other;
            half_from_floats_portable(&x[at], &one, 1);
            half_to_floats_portable(&h[at], &other, 1);
            if (g[i] != one || memcmp(&y[i], &other, sizeof other) != 0)
                fail(transposed ? "a transposed row of" : "a row of", wide);
        }
    }
}

int main(int argc, char **argv) {
    const unsigned shift = argc > 1 ? (unsigned)atoi(argv[1]) : 7;
    if (shift > 18) return 2;
    every_half();
    every_boundary();
    const uint64_t floats = spread(shift);
    fill();
    for (size_t columns = 0; columns < SIDE; columns++)
        for (size_t offset = 0; offset < 4; offset++) {
            matrices(1, columns, 0, offset);
            matrices(3, columns, offset, offset);
        }
    for (size_t rows = 0; rows < SIDE; rows += 5)
        for (size_t columns = 0; columns < SIDE; columns += 7) matrices(rows, columns, rows % 3, columns % 4);
    matrices(32, 64, 0, 0);
    matrices(32, 64, 2, 1);
    matrices(64, 32, 1, 3);
    printf("%s %" PRIu64 " %016" PRIx64 "\n", half_isa(), floats, digest);
    return 0;
}
