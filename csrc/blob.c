/* MIL weight-blob files, version 2: writer of headers and records, and a suspicious reader.
 *
 * All integers little endian. Every offset is from the start of the file and a multiple of 64.
 *
 *     0     u32 number of tensors, u32 version = 2, zeros up to 64
 *     then for each tensor:
 *     o     u32 0xDEADBEEF, u32 dtype, u64 bytes of data, u64 offset of data (= o + 64),
 *           u64 padding bits (only for types narrower than a byte), zeros up to o + 64
 *     o+64  the data; the next record starts at the next multiple of 64, the file ends with the
 *           last byte of the last tensor
 *
 * A BLOBFILE constant names o, not o + 64 (on the ANE the latter reads garbage in silence).
 * Source of the format: coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp; the tests compare
 * with its writer byte for byte. What it is not: a map of the file; the caller fills in the data.
 */
#include "blob.h"

#include <string.h>

enum { ALIGNMENT = 64, VERSION = 2 };
static const uint32_t SENTINEL = 0xDEADBEEFu;

static void put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static uint64_t align(uint64_t offset) { return (offset + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static unsigned element_bytes(uint64_t dtype) { /* 0 for a dtype this project does not read */
    switch (dtype) {
    case BLOB_UINT8:
    case BLOB_INT8: return 1;
    case BLOB_FP16:
    case BLOB_BF16:
    case BLOB_INT16:
    case BLOB_UINT16: return 2;
    case BLOB_FP32:
    case BLOB_INT32:
    case BLOB_UINT32: return 4;
    default: return 0;
    }
}

size_t blob_layout(const size_t *bytes, size_t n, uint64_t *offsets, uint64_t *data_offsets) {
    uint64_t end = ALIGNMENT;
    for (size_t i = 0; i < n; i++) {
        offsets[i] = align(end);
        data_offsets[i] = offsets[i] + ALIGNMENT;
        end = data_offsets[i] + bytes[i];
    }
    return (size_t)end;
}

void blob_write_records(uint8_t *file, const blob_dtype *dtypes, const size_t *bytes, size_t n) {
    memset(file, 0, ALIGNMENT);
    put(file, n, 4);
    put(file + 4, VERSION, 4);
    uint64_t end = ALIGNMENT;
    for (size_t i = 0; i < n; i++) {
        uint8_t *record = file + align(end);
        memset(file + end, 0, align(end) - end); /* so that a reused buffer gives the same bytes */
        memset(record, 0, ALIGNMENT);
        put(record, SENTINEL, 4);
        put(record + 4, (uint64_t)dtypes[i], 4);
        put(record + 8, bytes[i], 8);
        put(record + 16, align(end) + ALIGNMENT, 8);
        end = align(end) + ALIGNMENT + bytes[i];
    }
}

const char *blob_find(const uint8_t *file, size_t file_bytes, uint64_t offset, blob_dtype dtype, const uint8_t **data,
                      size_t *bytes) {
    *data = NULL;
    *bytes = 0;
    if (!file || file_bytes < ALIGNMENT) return "expected a file of at least 64 bytes";
    if (get(file + 4, 4) != VERSION) return "expected blob version 2 at byte 4 of the file";
    if (offset % ALIGNMENT) return "expected a record offset that is a multiple of 64";
    if (offset < ALIGNMENT) return "expected a record offset of 64 or more (the first record is at 64)";
    if (offset > file_bytes || file_bytes - offset < ALIGNMENT)
        return "expected a record inside the file, got an offset past its end";

    const uint8_t *record = file + offset;
    const uint64_t size = get(record + 8, 8), start = get(record + 16, 8);
    if (get(record, 4) != SENTINEL)
        return "expected the sentinel 0xDEADBEEF at the offset (name the record, not its data)";
    if (!element_bytes(get(record + 4, 4))) return "the record's dtype is not one that can be read";
    if (get(record + 4, 4) != (uint64_t)dtype) return "the record's dtype is not the one asked for";
    if (start % ALIGNMENT) return "expected a data offset that is a multiple of 64";
    if (start < ALIGNMENT) return "expected a data offset past the file header";
    if (start > file_bytes || size > file_bytes - start)
        return "expected the data inside the file, got a size that runs past its end";
    if (start < offset + ALIGNMENT && start + size > offset) return "the data overlaps its own record";
    if (size % element_bytes(dtype)) return "the data size is not a whole number of elements";
    if (get(record + 24, 8)) return "expected no padding bits for a dtype of whole bytes";
    *data = file + start;
    *bytes = (size_t)size;
    return NULL;
}

/* Four lanes, each the folded product of what it was and eight bytes with a constant and eight more. */

__extension__ typedef unsigned __int128 wide;

enum { LANES = 4, BLOCK = 16 * LANES };

static uint64_t folded(uint64_t a, uint64_t b) {
    const wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

void blob_hash(const void *file, size_t bytes, uint64_t hash[2]) {
    static const uint64_t ODD[LANES] = {0x243f6a8885a308d3u, 0x13198a2e03707345u, 0xa4093822299f31d1u,
                                        0x082efa98ec4e6c89u}; /* of pi */
    const uint8_t *at = file;
    uint64_t lanes[LANES] = {bytes, ODD[0], ODD[1], ODD[2]};
    for (size_t left = bytes; left > 0;) {
        uint64_t words[2 * LANES] = {0};
        const size_t n = left < BLOCK ? left : BLOCK;
        memcpy(words, at, n);
        for (int i = 0; i < LANES; i++) {
            const uint64_t turned = lanes[i] << 29 | lanes[i] >> 35; /* else a product of 0 would forget it */
            lanes[i] = folded(lanes[i] ^ words[2 * i], ODD[i] ^ words[2 * i + 1]) + turned;
        }
        at += n;
        left -= n;
    }
    hash[0] = folded(lanes[0] ^ ODD[2], lanes[1] ^ ODD[3]) ^ folded(lanes[2] ^ ODD[0], lanes[3] ^ ODD[1]);
    hash[1] = folded(lanes[1] ^ ODD[0], lanes[2] ^ ODD[2]) ^ folded(lanes[3] ^ ODD[3], lanes[0] ^ ODD[1]);
}
