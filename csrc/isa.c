/* The one reader of ANEFAST_ISA and of the processor's word on vectors: see isa.h. */
#include "isa.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

const char *isa_wish(void) {
    const char *text = getenv("ANEFAST_ISA");
    return text ? text : "";
}

isa_vectors isa_processor(void) {
#if defined(__aarch64__)
    return ISA_NEON;
#elif defined(__x86_64__) || defined(__i386__)
    unsigned a, b, c, d; /* __builtin_cpu_supports has no name for F16C in older clangs */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__get_cpuid(1, &a, &b, &c, &d) ||
        !(c & bit_F16C))
        return ISA_PORTABLE;
    return __builtin_cpu_supports("avx512f") ? ISA_AVX512 : ISA_AVX2;
#else
    return ISA_PORTABLE;
#endif
}

/* CPUID traps under some hypervisors, so the answer is kept. Two threads may both ask: they get the
 * same one. */
isa_vectors isa_allowed(void) {
    static _Atomic int known = -1;
    int answer = atomic_load_explicit(&known, memory_order_relaxed);
    if (answer < 0) {
        const isa_vectors most = isa_processor();
        answer = !strcmp(isa_wish(), "portable")                     ? ISA_PORTABLE
                 : !strcmp(isa_wish(), "avx2") && most == ISA_AVX512 ? ISA_AVX2
                                                                     : most;
        atomic_store_explicit(&known, answer, memory_order_relaxed);
    }
    return (isa_vectors)answer;
}
