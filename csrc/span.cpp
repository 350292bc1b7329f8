// Rings of finished spans, one per thread: written by their thread, emptied by drain(). What they mean is in
// span.h.
#include "span.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace anefast::span {

std::atomic<bool> recording{false};

namespace {

constexpr uint64_t CAPACITY = 1 << 14; // records of 56 bytes: some thousand make a micro-step of a large model

// One writer, one reader at a time (the registry's mutex sees to that).
struct Ring {
    explicit Ring(uint16_t id) : id(id), slots(new Record[CAPACITY]) {}
    const uint16_t id;
    std::unique_ptr<Record[]> slots; // untouched until used, so an idle thread costs address space only
    std::atomic<uint64_t> written{0}, read{0};
    std::atomic<bool> retired{false}; // its thread is gone
    std::mutex adding;
    std::vector<Record> sums; // of what came while it was full

    void push(const Record &record) {
        const uint64_t at = written.load(std::memory_order_relaxed);
        if (at - read.load(std::memory_order_acquire) == CAPACITY) {
            add(record);
            return;
        }
        slots[at % CAPACITY] = record;
        written.store(at + 1, std::memory_order_release);
    }

    void add(const Record &record) {
        std::lock_guard<std::mutex> lock(adding);
        for (Record &sum : sums) {
            if (sum.label != record.label || sum.component != record.component || sum.phase != record.phase) continue;
            sum.end += record.end - record.start;
            sum.self += record.self;
            sum.flops += record.flops;
            sum.bytes += record.bytes;
            sum.count++;
            return;
        }
        sums.push_back(record);
    }

    void take_sums(std::vector<Record> &to) {
        std::lock_guard<std::mutex> lock(adding);
        to.insert(to.end(), sums.begin(), sums.end());
        sums.clear();
    }
};

struct Registry {
    std::mutex mutex;
    std::vector<std::unique_ptr<Ring>> rings;
    std::map<uint16_t, std::string> names;
    std::vector<std::string> labels{""};
    std::map<std::string, uint32_t> numbers;
    uint64_t dropped = 0; // that there was no memory for
    uint16_t next = 0;
};

Registry *registry = new Registry; // never destroyed: threads may outlive static destructors

struct Thread {
    Ring *ring = nullptr;
    int64_t inner = 0;  // time in finished spans inside the one that is open
    uint32_t label = 0; // of the open span
    Phase phase = Phase::BETWEEN;
    std::string name;

    ~Thread() {
        if (ring) ring->retired.store(true, std::memory_order_release);
    }

    Ring &mine() {
        if (!ring) {
#ifndef _WIN32
            // A child of fork() has this thread only, and perhaps a locked mutex: it starts anew, switched off.
            static const int registered = pthread_atfork(nullptr, nullptr, [] {
                registry = new Registry;
                recording.store(false);
                forget();
            });
            (void)registered;
#endif
            std::lock_guard<std::mutex> lock(registry->mutex);
            registry->rings.push_back(std::make_unique<Ring>(registry->next++));
            ring = registry->rings.back().get();
            registry->names[ring->id] = name.empty() ? "thread " + std::to_string(ring->id) : name;
        }
        return *ring;
    }

    static void forget();
};

thread_local Thread here;

void Thread::forget() { here.ring = nullptr; }

bool is_weight_gradient(Component c) { return c >= Component::DW_SUBMIT && c <= Component::DW_QUEUED; }

void push(Component component, int64_t start, int64_t end, int64_t self, uint64_t flops, uint64_t bytes,
          uint32_t label) noexcept {
    const Phase phase = is_weight_gradient(component) ? Phase::BACKWARD : here.phase;
    try {
        Ring &ring = here.mine();
        ring.push({start, end, self, flops, bytes, label, 1, ring.id, static_cast<uint8_t>(component),
                   static_cast<uint8_t>(phase)});
    } catch (const std::bad_alloc &) { // no memory for a ring or a sum: spans end in destructors
        std::lock_guard<std::mutex> lock(registry->mutex);
        registry->dropped++;
    }
}

} // namespace

void Span::begin(Component component, uint32_t label, uint64_t flops, uint64_t bytes) {
    component_ = component, label_ = label, flops_ = flops, bytes_ = bytes;
    outer_inner_ = std::exchange(here.inner, 0);
    outer_label_ = std::exchange(here.label, label);
    start_ = now();
}

void Span::end() {
    const int64_t end = now(), self = end - start_ - here.inner;
    push(component_, start_, end, self, flops_, bytes_, label_);
    here.inner = outer_inner_ + (end - start_);
    here.label = outer_label_;
}

Phase set_phase(Phase phase) { return std::exchange(here.phase, phase); }

Ticket ticket() { return on() ? Ticket{now(), here.label} : Ticket{}; }

void started(const Ticket &ticket) {
    if (ticket.queued && on()) push(Component::DW_QUEUED, ticket.queued, now(), 0, 0, 0, ticket.label);
}

uint32_t label(const std::string &name) {
    std::lock_guard<std::mutex> lock(registry->mutex);
    const auto [found, is_new] = registry->numbers.try_emplace(name, static_cast<uint32_t>(registry->labels.size()));
    if (is_new) registry->labels.push_back(name);
    return found->second;
}

std::vector<std::string> labels() {
    std::lock_guard<std::mutex> lock(registry->mutex);
    return registry->labels;
}

uint16_t thread() { return here.mine().id; }

void name_thread(const char *name) {
    here.name = name;
    if (here.ring) {
        std::lock_guard<std::mutex> lock(registry->mutex);
        registry->names[here.ring->id] = name;
    }
}

std::vector<std::pair<uint16_t, std::string>> threads() {
    std::lock_guard<std::mutex> lock(registry->mutex);
    return {registry->names.begin(), registry->names.end()};
}

void drain(std::vector<Record> &to) {
    std::lock_guard<std::mutex> lock(registry->mutex);
    for (auto &ring : registry->rings) {
        const bool retired = ring->retired.load(std::memory_order_acquire); // before what it wrote last
        const uint64_t end = ring->written.load(std::memory_order_acquire);
        for (uint64_t at = ring->read.load(std::memory_order_relaxed); at < end; at++)
            to.push_back(ring->slots[at % CAPACITY]);
        ring->read.store(end, std::memory_order_release);
        ring->take_sums(to);
        if (retired) ring.reset();
    }
    auto &rings = registry->rings;
    rings.erase(std::remove(rings.begin(), rings.end(), nullptr), rings.end());
}

uint64_t dropped() {
    std::lock_guard<std::mutex> lock(registry->mutex);
    return registry->dropped;
}

} // namespace anefast::span
