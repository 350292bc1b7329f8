// Stands in for csrc/cpu/gemm/allowed.cpp where tiles.h and avx512.h stand in for the instructions: there
// is nothing this processor lacks, but tiles where the test says so. AVX2 it has to have.
#include <cstdlib>

#include "cpu/gemm/allowed.h"

namespace anefast {
bool cpu_has_avx2() { return __builtin_cpu_supports("avx2"); }
bool cpu_has_avx512() { return true; }
bool cpu_has_avx512_bf16() { return true; }
bool cpu_has_amx_bf16() { return !std::getenv("WITHOUT_TILES"); }
bool cpu_has_amx_fp16() { return cpu_has_amx_bf16(); }
} // namespace anefast
