// See calls.h. One word per thread, written by that thread alone; words of threads that are gone are used
// again. A word is what the thread is doing, or 0.
#include "calls.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <thread>

#ifdef _WIN32
#include <windows.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif

#include "fork.h"

namespace anefast::calls {
namespace {

constexpr int LABEL_BITS = 24, KIND_BITS = 4; // the rest is the call's number

struct Slot {
    std::atomic<uint64_t> word{0};
    std::atomic<uintptr_t> thread{0}; // 0: nobody's
};

struct Slots {
    ForkMutex mutex;
    std::deque<Slot> all; // never shorter, so that addresses stay
};

Slots &slots() { // leaked: threads may outlive static destructors
    static Slots &made = *new Slots;
    return made;
}

uintptr_t self() {
#ifdef _WIN32
    return GetCurrentThreadId();
#else
    return reinterpret_cast<uintptr_t>(pthread_self());
#endif
}

// A fork has this thread only: whatever the others were doing is not done in it.
void forget() {
    const uintptr_t mine = self();
    for (Slot &slot : slots().all)
        if (slot.thread.load(std::memory_order_relaxed) != mine) slot.word.store(0, std::memory_order_relaxed);
}

struct Mine {
    Slot *slot = nullptr;
    uint64_t number = 0;

    Slot &get() {
        if (!slot) claim();
        return *slot;
    }
    ~Mine() {
        if (!slot) return;
        slot->word.store(0, std::memory_order_relaxed);
        slot->thread.store(0, std::memory_order_release);
    }

  private:
    void claim() {
        Slots &s = slots();
        std::lock_guard<std::mutex> held(s.mutex);
#ifndef _WIN32
        static const int registered = pthread_atfork(nullptr, nullptr, forget);
        (void)registered;
#endif
        for (Slot &free : s.all)
            if (!free.thread.load(std::memory_order_acquire)) slot = &free;
        if (!slot) slot = &s.all.emplace_back();
        slot->thread.store(self(), std::memory_order_release);
    }
};

thread_local Mine mine;

uint64_t packed(call_kind kind, uint64_t label) {
    mine.number++;
    return mine.number << (LABEL_BITS + KIND_BITS) | (label & ((1u << LABEL_BITS) - 1)) << KIND_BITS | kind;
}

uint64_t label_in(uint64_t word) { return word >> KIND_BITS & ((1u << LABEL_BITS) - 1); }

} // namespace

std::vector<Call> under_way() {
    std::vector<Call> found;
    Slots &s = slots();
    std::lock_guard<std::mutex> held(s.mutex);
    for (const Slot &slot : s.all)
        if (const uint64_t word = slot.word.load(std::memory_order_relaxed))
            found.push_back({slot.thread.load(std::memory_order_relaxed), word >> (LABEL_BITS + KIND_BITS),
                             static_cast<call_kind>(word & ((1u << KIND_BITS) - 1)),
                             static_cast<uint32_t>(label_in(word))});
    return found;
}

namespace {

constexpr std::chrono::milliseconds LOOK{100};

struct Resort {
    ForkMutex mutex;
    bool running = false;
    double left = 0; // seconds, of this thread's own looks: a computer that slept did not wait
    std::string line;

    void run() {
        for (;;) {
            std::this_thread::sleep_for(LOOK);
            std::lock_guard<std::mutex> held(mutex);
            if (left <= 0) continue;
            left -= std::chrono::duration<double>(LOOK).count();
            if (left > 0) continue;
#ifdef _WIN32
            std::fputs(line.c_str(), stderr);
#else
            for (size_t done = 0; done < line.size();) {
                const ssize_t n = write(2, line.data() + done, line.size() - done);
                if (n <= 0) break;
                done += static_cast<size_t>(n);
            }
#endif
            std::_Exit(1);
        }
    }
};

} // namespace

void last_resort(double seconds, const std::string &line) {
    static Resort &resort = *new Resort; // leaked: its thread outlives static destructors
    std::lock_guard<std::mutex> held(resort.mutex);
    resort.left = seconds;
    resort.line = line;
    if (seconds > 0 && !resort.running) {
        std::thread(&Resort::run, &resort).detach();
        resort.running = true;
    }
}

} // namespace anefast::calls

using namespace anefast::calls;

uint64_t call_begin(call_kind kind, uint32_t label) {
    Slot &slot = mine.get();
    const uint64_t before = slot.word.load(std::memory_order_relaxed);
    slot.word.store(packed(kind, label), std::memory_order_relaxed);
    return before;
}

void call_end(uint64_t before) { mine.get().word.store(before, std::memory_order_relaxed); }

void call_turn(call_kind kind) {
    Slot &slot = mine.get();
    const uint64_t word = slot.word.load(std::memory_order_relaxed);
    if (word) slot.word.store(packed(kind, label_in(word)), std::memory_order_relaxed);
}
