/* A stricter belief about surfaces, which the fake framework holds where ANEFAST_FAKE_SIZES=1.
 *
 * Two reports of real chips, taken at their word: mechramc/Orion (M4 Max) has status 0x1d where the
 * surfaces of one side are not all of one size; imperatormk/ane-train (M1) has zeros, and no error,
 * where the ports of inputs do not rise in bytes or those of outputs do not fall. */
#ifndef FAKE_SIZES_H
#define FAKE_SIZES_H

#import <IOSurface/IOSurface.h>

#include "../../csrc/anefast.h"

/* Whether all of these have one size; 1 also where the belief is not held. */
int fake_sizes_equal(const IOSurfaceRef *surfaces, size_t n);
/* Whether the ports of an evaluation lie in order; 1 also where the belief is not held. */
int fake_sizes_in_order(const anefast_port *inputs, size_t n_in, const anefast_port *outputs, size_t n_out);

#endif
