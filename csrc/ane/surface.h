// A surface of the ane device: an IOSurface used as a flat run of bytes, and who may touch it now.
//
// The rules are those of csrc/anefast.h and of the host's surfaces: the CPU's locks nest and count, an
// evaluation takes all of its surfaces at once or fails, and a CPU lock waits for an evaluation under
// way. The device ignores the surface's own width and rows; it uses the strides it compiled.
#ifndef ANEFAST_ANE_SURFACE_H
#define ANEFAST_ANE_SURFACE_H

#import <IOSurface/IOSurface.h>

#include "../anefast.h"

struct anefast_surface {
    IOSurfaceRef ref;
    size_t bytes;                       // asked for
    size_t room;                        // of the IOSurface: as much, or more
    uint64_t id;                        // never used twice, unlike an address
    int readers, writers;               // the CPU's locks
    int device_readers, device_writers; // evaluations under way
};

anefast_status ane_surface_create(size_t bytes, anefast_surface **surface, anefast_error *error);
// Frees it. Whoever keeps requests for it must have dropped them (program.h).
void ane_surface_free(anefast_surface *surface);
// Exchanges the IOSurface for one of at least `bytes`, content kept. The surface gets a new id.
anefast_status ane_surface_room(anefast_surface *surface, size_t bytes, anefast_error *error);
size_t ane_surface_bytes(const anefast_surface *surface);
anefast_status ane_surface_lock(anefast_surface *surface, int read_only, void **base, anefast_error *error);
anefast_status ane_surface_unlock(anefast_surface *surface, int read_only, anefast_error *error);

// For one evaluation. Returns NULL, or what is wrong; `which` and `is_output` then name the port.
// Waits for other evaluations of the same surfaces.
const char *ane_surfaces_acquire(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs,
                                 size_t n_outputs, size_t *which, int *is_output);
void ane_surfaces_release(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs,
                          size_t n_outputs);

#endif
