// The loops of LOOPS_FILE, in plain C++ and compiled for AVX2, and `loops()`, which chooses once.
//
// Included at the top level of one source, behind its `struct Loops` in namespace anefast. The file fills a table LOOPS
// of that type. A source that includes this is built once, so there is no guard.
#include "../isa.h"
#include "target.h"

namespace anefast {
namespace {
namespace plain {
#include LOOPS_FILE
}
} // namespace
} // namespace anefast

#if defined(__x86_64__)

// avx2 without fma: the bits are those of the plain loops.
TARGET_BEGIN("avx2")
namespace anefast {
namespace {
namespace avx2 {
#include LOOPS_FILE
}
} // namespace
} // namespace anefast
TARGET_END

#endif

namespace anefast {
namespace {

const Loops &loops() {
    static const Loops &chosen = []() -> const Loops & {
#if defined(__x86_64__)
        if (isa_allowed() >= ISA_AVX2) return avx2::LOOPS;
#endif
        return plain::LOOPS;
    }();
    return chosen;
}

} // namespace
} // namespace anefast
