// Compares what a loaded model reports about its ports (modelAttributes) with what its text says.
#ifndef ANEFAST_ANE_LAYOUT_H
#define ANEFAST_ANE_LAYOUT_H

#import <Foundation/Foundation.h>

#include "ports.h"

// Checks the order of the symbol tables and takes the model's strides and sizes if it names them;
// otherwise the 64-byte rule holds. ANEFAST_COMPILE if the two contradict each other, because values
// would be swapped or misread without an error.
anefast_status ane_layout_apply(id attributes, ane_ports *ports, anefast_error *error);

#endif
