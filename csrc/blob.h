/* MIL weight-blob files: a 64-byte header, then per tensor a 64-byte record and its data, both
 * 64-byte aligned. The layout is documented where it is written, in blob.c (source: coremltools,
 * mlmodel/src/MILBlob/Blob/StorageFormat.hpp). */
#ifndef ANEFAST_BLOB_H
#define ANEFAST_BLOB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    BLOB_FP16 = 1,
    BLOB_FP32 = 2,
    BLOB_UINT8 = 3,
    BLOB_INT8 = 4,
    BLOB_BF16 = 5,
    BLOB_INT16 = 6,
    BLOB_UINT16 = 7,
    BLOB_INT32 = 14,
    BLOB_UINT32 = 15
} blob_dtype;

/* Where each of n tensors goes: fills offsets[i] (of the record, what BLOBFILE names) and
 * data_offsets[i], returns the size of the whole file. */
size_t blob_layout(const size_t *bytes, size_t n, uint64_t *offsets, uint64_t *data_offsets);
/* Writes the header and records into `file` of that size; the caller fills in the data. */
void blob_write_records(uint8_t *file, const blob_dtype *dtypes, const size_t *bytes, size_t n);
/* Finds the tensor whose record is at `offset`. Returns NULL when fine, else a static sentence
 * saying what is wrong (bad offset, sentinel, dtype, size outside the file...). */
const char *blob_find(const uint8_t *file, size_t file_bytes, uint64_t offset, blob_dtype dtype, const uint8_t **data,
                      size_t *bytes);

/* 128 bits that differ where two files do, but for chance: to see what changed, not against malice. Reads
 * at the speed of memory. */
void blob_hash(const void *file, size_t bytes, uint64_t hash[2]);

#ifdef __cplusplus
}
#endif
#endif
