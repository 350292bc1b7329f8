// See pages.h.
#include "pages.h"

#include <new>

#include "../round.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace anefast::host {

namespace {

constexpr size_t PAGE = 4096;

} // namespace

size_t rounded_to_pages(size_t bytes) { return round_up(bytes, PAGE); }

// Where there are huge pages they are asked for: arena and weights are walked from end to end, many times.
Memory make_memory(size_t bytes) {
    Memory m;
    if (!bytes) return m;
    m.bytes = rounded_to_pages(bytes);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr size_t HUGE_PAGE = 2 << 20;
    if (m.bytes >= HUGE_PAGE) {
        m.data.reset(static_cast<uint8_t *>(std::aligned_alloc(HUGE_PAGE, m.bytes)));
        if (m.data) madvise(m.data.get(), m.bytes, MADV_HUGEPAGE);
    } else
#endif
        m.data.reset(static_cast<uint8_t *>(std::aligned_alloc(PAGE, m.bytes)));
    if (!m.data) throw std::bad_alloc();
    return m;
}

} // namespace anefast::host
