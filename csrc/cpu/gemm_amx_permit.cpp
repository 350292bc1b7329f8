#include "gemm_amx.h"

#if defined(__x86_64__) && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace anefast {
namespace {

constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILE_DATA = 18; // asm/prctl.h, asm/fpu/types.h
constexpr unsigned BIT_OSXSAVE = 1u << 27, BIT_AMX_BF16 = 1u << 22, BIT_AMX_TILE = 1u << 24, BIT_AMX_FP16 = 1u << 21;
constexpr unsigned XCR0_TILES = 3u << 17;

unsigned enabled_state() {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool permitted() {
    static const bool granted = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILE_DATA) == 0;
    return granted;
}

} // namespace

bool amx_tiles_allowed(AmxKind kind) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT_OSXSAVE) || (enabled_state() & XCR0_TILES) != XCR0_TILES)
        return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & BIT_AMX_TILE) || !(d & BIT_AMX_BF16))
        return false;
    if (kind == AmxKind::fp16 && (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & BIT_AMX_FP16)))
        return false;
    return permitted();
}

} // namespace anefast

#else
namespace anefast {
bool amx_tiles_allowed(AmxKind) { return false; }
} // namespace anefast
#endif
