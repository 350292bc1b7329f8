// Functions between TARGET_BEGIN("avx2,fma") and TARGET_END are compiled for that instruction set, whatever the
// build is for. Includes of others stand before. AVX512_BEGIN is TARGET_BEGIN for the 512-bit sets: tests compile what
// stands there on any machine, with a header in place of the intrinsics (ANEFAST_AVX512).
#pragma once

#define TARGET_PRAGMA(text) _Pragma(#text)
#ifdef __clang__
#define TARGET_BEGIN(isa) TARGET_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define TARGET_END TARGET_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(isa) TARGET_PRAGMA(GCC push_options) TARGET_PRAGMA(GCC target(isa))
#define TARGET_END TARGET_PRAGMA(GCC pop_options)
#endif

#ifdef ANEFAST_AVX512
#include ANEFAST_AVX512
#define AVX512_BEGIN(isa)
#define AVX512_END
#else
#define AVX512_END TARGET_END
#ifdef __clang__
#define AVX512_BEGIN(isa) TARGET_BEGIN(isa)
#else // gcc 12 warns of its own intrinsics, and differently where sanitizers are at work
#define AVX512_BEGIN(isa)                                                                                              \
    TARGET_BEGIN(isa)                                                                                                  \
    TARGET_PRAGMA(GCC diagnostic ignored "-Wmaybe-uninitialized")                                                      \
    TARGET_PRAGMA(GCC diagnostic ignored "-Wuninitialized")
#endif
#endif
