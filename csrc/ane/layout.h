// What a loaded model says of its own ports (modelAttributes), against what we read in its text.
#ifndef ANEFAST_ANE_LAYOUT_H
#define ANEFAST_ANE_LAYOUT_H

#import <Foundation/Foundation.h>

#include "ports.h"

// Checks the order of the symbol tables and takes over the model's strides and sizes where it names
// them; what it does not say stays by the 64-byte rule. ANEFAST_COMPILE where the two contradict each
// other: values would be swapped or misread in silence.
anefast_status ane_layout_apply(id attributes, ane_ports *ports, anefast_error *error);

#endif
