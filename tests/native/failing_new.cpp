// A library to preload: the n-th allocation by `new` from here on fails, on whichever thread it is.
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> left{-1}; // allocations that still succeed; below 0: all do
std::atomic<bool> failed{false};

bool fails() {
    if (left.load(std::memory_order_relaxed) < 0 || left.fetch_sub(1, std::memory_order_relaxed) != 0) return false;
    return failed = true;
}

} // namespace

extern "C" void fail_after(long n) {
    if (n >= 0) failed = false;
    left = n;
}
extern "C" int has_failed() { return failed; }

void *operator new(std::size_t bytes) {
    void *const p = fails() ? nullptr : std::malloc(bytes ? bytes : 1);
    if (!p) throw std::bad_alloc();
    return p;
}
void *operator new(std::size_t bytes, std::align_val_t align) {
    const auto unit = static_cast<std::size_t>(align);
    void *const p = fails() ? nullptr : std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (!p) throw std::bad_alloc();
    return p;
}
void operator delete(void *p) noexcept { std::free(p); }
void operator delete(void *p, std::size_t) noexcept { std::free(p); }
void operator delete(void *p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void *p, std::size_t, std::align_val_t) noexcept { std::free(p); }
