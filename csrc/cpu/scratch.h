// Memory a thread keeps from one use to the next, aligned for whole vectors.
//
// Memory that is allocated anew each time has fresh pages, and the first access to a page costs more than filling it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../fork.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace anefast {

class Scratch {
  public:
    // At least this many floats, with any content. The memory of an earlier call is no longer valid.
    float *get(int64_t floats) {
        if (floats > size) {
            memory.reset(); // the old one first: the peak is one buffer
            size = 0;
            const bool large = floats * sizeof(float) >= 4 * HUGE_PAGE;
            const uintptr_t unit = large ? HUGE_PAGE : 64;
            memory.reset(new float[floats + unit / sizeof(float)]);
            size = floats;
            base = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(memory.get()) + unit - 1) / unit * unit);
#ifdef __linux__
            if (large) // a wish: where it is refused, pages are small
                madvise(base, floats * sizeof(float) / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
        }
        return base;
    }

    uint8_t *get_bytes(int64_t bytes) { return reinterpret_cast<uint8_t *>(get((bytes + 3) / 4)); }

  private:
    static constexpr uintptr_t HUGE_PAGE = 2 << 20; // bytes
    std::unique_ptr<float[]> memory;
    float *base = nullptr;
    int64_t size = 0;
};

// Memory that threads share in turn: a user borrows a buffer, and the next user finds its pages in memory.
// It keeps as many buffers as were ever in use at once, and is never destroyed.
class ScratchShelf {
    struct Return {
        ScratchShelf *shelf;
        void operator()(Scratch *one) const { shelf->give(one); }
    };

  public:
    using Lent = std::unique_ptr<Scratch, Return>;

    Lent take() {
        std::lock_guard<std::mutex> lock(mutex);
        std::unique_ptr<Scratch> one;
        if (free.empty()) {
            free.reserve(made + 1); // so that giving one back never fails
            one = std::make_unique<Scratch>();
            ++made;
        } else {
            one = std::move(free.back());
            free.pop_back();
        }
        return Lent(one.release(), Return{this});
    }

  private:
    void give(Scratch *one) noexcept {
        std::lock_guard<std::mutex> lock(mutex);
        free.emplace_back(one);
    }

    ForkMutex mutex;
    std::vector<std::unique_ptr<Scratch>> free; // the last one back is the first to go
    size_t made = 0;
};

} // namespace anefast
