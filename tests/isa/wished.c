/* Stands in for csrc/isa.c: the loops use what ANEFAST_ISA names, as if the processor had it; conversions, which
 * are built to ask for the processor's own, use AVX2. */
#include "isa.h"

#include <stdlib.h>
#include <string.h>

const char *isa_wish(void) { return getenv("ANEFAST_ISA"); }
isa_vectors isa_processor(void) { return ISA_AVX2; }
isa_vectors isa_allowed(void) {
    return !strcmp(isa_wish(), "avx512") ? ISA_AVX512 : !strcmp(isa_wish(), "avx2") ? ISA_AVX2 : ISA_PORTABLE;
}
