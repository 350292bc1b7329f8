// Apple's ANE compiler asked directly, in this process, for any chip: whether it takes a program.
//
// The compiler of one Mac compiles for the chips of all (joshuaswarren/mil-hwx-compiler, on an M1 Ultra with
// macOS 26.6.2). What comes out cannot be loaded and is thrown away. It may end the process: ask in one that
// may be lost. Never run on a Mac yet.
#ifndef ANEFAST_ANE_COMPILER_H
#define ANEFAST_ANE_COMPILER_H

#include "../anefast.h"

// As anefast_executor's compile_for.
anefast_status ane_compile_for(const char *target, const char *text, size_t text_bytes, const anefast_blob *blobs,
                               size_t n_blobs, anefast_error *error);

#endif
