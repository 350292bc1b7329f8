// A surface of the host device: page-aligned, zero-filled bytes, and who may touch them now.
//
// The CPU's locks nest and count; an evaluation asks for all of its surfaces at once or fails. A CPU lock
// waits for an evaluation under way, as a lock on the real thing does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../anefast.h"

struct anefast_surface {
    uint8_t *base = nullptr;
    size_t bytes = 0;
    int readers = 0, writers = 0;               // the CPU's locks
    int device_readers = 0, device_writers = 0; // evaluations under way
    int generation = 0;                         // of fork.h: that of the evaluations
};

namespace anefast::host {

anefast_surface *make_surface(size_t bytes); // null where there is no memory
void free_surface(anefast_surface *s);

void lock_surface(anefast_surface *s, bool read_only);
bool unlock_surface(anefast_surface *s, bool read_only); // false: it was not locked that way

// For one evaluation. Returns null, or what is wrong: a locked surface, one surface in two roles.
// `which` and `is_output` then name the port. Waits for other evaluations of the same surfaces.
const char *acquire(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs,
                    size_t *which, bool *is_output);
void release(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs);

} // namespace anefast::host
