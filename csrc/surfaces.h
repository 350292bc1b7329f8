/* What is wrong with a surface, in words that both executors share: null or short ones, and locks that
 * stand in an evaluation's way. Who holds which lock is each executor's own (host/surface.cpp,
 * ane/surface.m). Functions that return a status fill `error`, which may be NULL. */
#ifndef ANEFAST_SURFACES_H
#define ANEFAST_SURFACES_H

#include "anefast.h"

#ifdef __cplusplus
extern "C" {
#endif

anefast_status surfaces_refuse_empty(anefast_error *error);
anefast_status surfaces_refuse_null(anefast_error *error); /* to a lock */
anefast_status surfaces_refuse_unlock(int read_only, anefast_error *error);

/* One side of an evaluation ("input" or "output"): as many as ports, none null, none short. */
anefast_status surfaces_check(const char *side, const anefast_port *ports, size_t n_ports,
                              anefast_surface *const *surfaces, size_t n, size_t (*bytes_of)(const anefast_surface *),
                              anefast_error *error);

/* Why an evaluation may not read or write a surface with so many locks of the CPU and of evaluations;
 * NULL where it may. What surfaces_refuse says of the port it is bound to. */
const char *surfaces_why_not_read(int writers);
const char *surfaces_why_not_write(int readers, int writers, int device_readers, int device_writers);
anefast_status surfaces_refuse(const char *side, const anefast_port *port, const char *why, anefast_error *error);

#ifdef __cplusplus
}
#endif
#endif
