/* Which vector instructions this process may use: what the processor has, less what ANEFAST_ISA leaves out.
 *
 * Conversions and elementwise loops ask here; which matrix products there are besides is cpu/gemm/path.h. A
 * wish that cannot be fulfilled is passed over for the best. */
#ifndef ANEFAST_ISA_H
#define ANEFAST_ISA_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ISA_PORTABLE,
    ISA_NEON,
    ISA_AVX2,  /* and FMA and F16C */
    ISA_AVX512 /* and these: F */
} isa_vectors;

const char *isa_wish(void);      /* ANEFAST_ISA; "" where it is not set */
isa_vectors isa_processor(void); /* the widest there are */
isa_vectors isa_allowed(void);   /* the widest to use */

#ifdef __cplusplus
}
#endif
#endif
