#include "allowed.h"

#include "../../isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace anefast {
namespace {

constexpr unsigned BIT_OSXSAVE = 1u << 27, BIT_AMX_BF16 = 1u << 22, BIT_AMX_TILE = 1u << 24, BIT_AMX_FP16 = 1u << 21;
constexpr unsigned XCR0_TILES = 3u << 17;

bool tiles_permitted() {
#ifdef __linux__
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18; // asm/prctl.h, asm/fpu/types.h
    static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
    return granted;
#else
    return false;
#endif
}

unsigned saved_state() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

} // namespace

bool cpu_has_avx2() { return isa_processor() >= ISA_AVX2; }
bool cpu_has_avx512() { return isa_processor() == ISA_AVX512; }

bool cpu_has_avx512_bf16() {
    return cpu_has_avx512() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}

bool cpu_has_amx_bf16() {
    unsigned a, b, c, d;
    // What packs the tiles: every processor with those has it, but a hypervisor may hide some.
    if (!cpu_has_avx512_bf16() || !__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT_OSXSAVE)) return false;
    return (saved_state() & XCR0_TILES) == XCR0_TILES && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & BIT_AMX_TILE) && (d & BIT_AMX_BF16) && tiles_permitted();
}

bool cpu_has_amx_fp16() {
    unsigned a, b, c, d;
    return cpu_has_amx_bf16() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & BIT_AMX_FP16);
}

} // namespace anefast

#else
namespace anefast {
bool cpu_has_avx2() { return false; }
bool cpu_has_avx512() { return false; }
bool cpu_has_avx512_bf16() { return false; }
bool cpu_has_amx_bf16() { return false; }
bool cpu_has_amx_fp16() { return false; }
} // namespace anefast
#endif
