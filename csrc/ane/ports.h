/* A program's ports, read from its MIL text by csrc/mil: names, dtypes, shapes and the 64-byte rule
 * for strides. It is also the check of text and blobs, so both devices refuse the same programs in
 * the same words. No Objective-C and no executor in here. */
#ifndef ANEFAST_ANE_PORTS_H
#define ANEFAST_ANE_PORTS_H

#include "../anefast.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    anefast_port *inputs, *outputs; /* in ASCII order of name */
    size_t n_inputs, n_outputs;
} ane_ports;

/* ANEFAST_MIL with line and column where text or blobs are refused. Free what it made. */
anefast_status ane_ports_read(const char *text, size_t text_bytes, const anefast_blob *blobs, size_t n_blobs,
                              ane_ports *ports, anefast_error *error);
void ane_ports_free(ane_ports *ports);

#ifdef __cplusplus
}
#endif
#endif
