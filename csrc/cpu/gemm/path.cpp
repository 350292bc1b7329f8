// The choice of kernels. Nothing here multiplies.
#include "path.h"

#include "../../isa.h"
#include "gemm.h"
#include "allowed.h"
#include "library.h"

namespace anefast {
namespace {

bool always() { return true; }

struct Candidate {
    const char *name; // of ANEFAST_ISA
    bool (*is_here)();
    const GemmKernels *(*halves)(), *(*floats)();
    bool relaxed = false; // only for who asks
};

// Best first.
const Candidate CANDIDATES[] = {
    {"amx-fp16", cpu_has_amx_fp16, gemm_kernels_amx_fp16, gemm_kernels_amx_bf16},
    {"amx-bf16", cpu_has_amx_bf16, gemm_kernels_amx_bf16, gemm_kernels_amx_bf16},
    {"avx512", cpu_has_avx512, gemm_kernels_avx512, gemm_kernels_avx512},
    {"avx2", cpu_has_avx2, gemm_kernels_avx2, gemm_kernels_avx2},
    {"neon", always, gemm_kernels_neon, gemm_kernels_neon},
    {"portable", always, gemm_kernels_portable, gemm_kernels_portable},
    {"relaxed", cpu_has_amx_bf16, gemm_kernels_amx_relaxed, gemm_kernels_amx_relaxed, true},
    {"relaxed", cpu_has_avx512_bf16, gemm_kernels_avx512_relaxed, gemm_kernels_avx512_relaxed, true},
};

// Q15.16 has no path of its own for tiles and pairs: the vectors that this process may use make it.
const GemmKernels *fixed_kernels() {
    const isa_vectors vectors = isa_allowed();
    if (vectors == ISA_AVX512 && gemm_kernels_avx512_fixed()) return gemm_kernels_avx512_fixed();
    if ((vectors == ISA_AVX512 || vectors == ISA_AVX2) && gemm_kernels_avx2_fixed()) return gemm_kernels_avx2_fixed();
    return gemm_kernels_portable_fixed();
}

GemmPath choose() {
    const std::string wish = isa_wish();
    const Candidate *best = nullptr, *wished = nullptr;
    bool known = false;
    for (const Candidate &c : CANDIDATES) {
        known = known || wish == c.name;
        if (!c.halves() || !c.is_here()) continue;
        if (!best && !c.relaxed) best = &c;
        if (!wished && wish == c.name) wished = &c;
    }
    const Candidate &taken = wished ? *wished : *best;
    // The library is part of the best choice, so naming an instruction set passes it over.
    GemmPath path{taken.halves(),     taken.floats(), fixed_kernels(), taken.relaxed, gemm_library() && !wished,
                  taken.halves()->isa};
    if (path.library) path.isa += std::string(", ") + gemm_library() + " for any_order";
    if (!wish.empty() && !wished)
        path.isa += known ? ", as there is no " + wish + " here" : ", as ANEFAST_ISA=" + wish + " is no path";
    return path;
}

} // namespace

const GemmPath &gemm_path() {
    static const GemmPath path = choose();
    return path;
}

bool gemm_relaxed() { return gemm_path().relaxed; }
const char *gemm_isa() { return gemm_path().isa.c_str(); }

} // namespace anefast
