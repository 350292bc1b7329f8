// What this processor and its system allow a matrix product to use.
#pragma once

namespace anefast {

bool cpu_has_avx2(); // and FMA and F16C
bool cpu_has_avx512();
bool cpu_has_avx512_bf16(); // and BW and VL
// Tiles need the processor's support, the kernel's (it must save their registers), and a permission that
// a process asks for once.
bool cpu_has_amx_bf16();
bool cpu_has_amx_fp16();

} // namespace anefast
