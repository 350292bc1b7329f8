// What a chip's numbers do that fp16 alone does not: products that end at 32768, NaN that never comes
// out, denormals that products do not see, slices that saturate, functions read from small tables.
//
// Emulated as passes over results: an operation runs as `exact` does, then its halves are put right in
// place. So an interior sum that overflows and comes back is not seen (why: anefast/chips/behaviour.py), and
// rounding is nearest-even. Two ways of a chip are no passes but kernels of their own: Q15.16 products
// and elementwise rounding half away from zero (`Builder::fixed`, `away`). Which of this a chip does is profile.h's
// data.
#pragma once

#include "../ops/registry.h"
#include "profile.h"

namespace anefast::host {

// Copies for what must not be put right in place: what comes in at the ports, what products read, and
// slices, which would be views. They are operations of type COPY with one of these labels.
void add_copies(mil::Function *f, const Profile &profile);
extern const char *const COPY;
void add_profile(Table &t); // how a COPY runs

// An operation under the profile; `exact` is how it runs without.
Runnable under(const Profile &profile, const Builder &b, Runnable exact);

} // namespace anefast::host
