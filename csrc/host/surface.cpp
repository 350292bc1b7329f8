// One mutex for all surfaces: it is held for a few counters, and taking every surface of an evaluation
// under it leaves no order in which two evaluations could wait for each other.
#include "surface.h"

#include "../surfaces.h"

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../fork.h"

namespace anefast::host {

namespace {

constexpr size_t PAGE = 4096;

struct Gate {
    ForkMutex mutex;
    std::condition_variable freed;
    int waiting = 0, generation = fork_generation();

    // With the mutex held. In a child of a fork nobody waits, whatever the parent's threads do.
    void renew() {
        if (generation == fork_generation()) return;
        generation = fork_generation();
        waiting = 0;
        new (&freed) std::condition_variable;
    }
};

Gate &gate() { // leaked: surfaces may be released while the process exits
    static auto *g = new Gate();
    return *g;
}

// With the gate's mutex held. In a child of a fork no evaluation of the parent's ever ends.
void renew(anefast_surface *s) {
    if (s->generation == gate().generation) return;
    s->generation = gate().generation;
    s->device_readers = s->device_writers = 0;
}

} // namespace

anefast_surface *make_surface(size_t bytes) {
    auto *s = new (std::nothrow) anefast_surface();
    if (!s) return nullptr;
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    if (room < bytes) { // the rounding went past the end
        delete s;
        return nullptr;
    }
    s->base = static_cast<uint8_t *>(std::aligned_alloc(PAGE, room ? room : PAGE));
    s->bytes = bytes;
    s->generation = fork_generation();
    if (!s->base) {
        delete s;
        return nullptr;
    }
    std::memset(s->base, 0, room ? room : PAGE);
    return s;
}

void free_surface(anefast_surface *s) {
    if (!s) return;
    std::free(s->base);
    delete s;
}

void lock_surface(anefast_surface *s, bool read_only) {
    Gate &g = gate();
    std::unique_lock<std::mutex> held(g.mutex);
    g.renew();
    renew(s);
    g.waiting++;
    g.freed.wait(held, [&] { return s->device_writers == 0 && (read_only || s->device_readers == 0); });
    g.waiting--;
    (read_only ? s->readers : s->writers)++;
}

bool unlock_surface(anefast_surface *s, bool read_only) {
    std::lock_guard<std::mutex> held(gate().mutex);
    int &count = read_only ? s->readers : s->writers;
    if (count == 0) return false;
    count--;
    return true;
}

const char *acquire(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs,
                    size_t *which, bool *is_output) {
    Gate &g = gate();
    std::unique_lock<std::mutex> held(g.mutex);
    g.renew();
    for (size_t i = 0; i < n_inputs; i++) renew(inputs[i]);
    for (size_t i = 0; i < n_outputs; i++) renew(outputs[i]);
    auto busy = [&] {
        for (size_t i = 0; i < n_inputs; i++)
            if (inputs[i]->device_writers) return true;
        for (size_t i = 0; i < n_outputs; i++)
            if (outputs[i]->device_writers || outputs[i]->device_readers) return true;
        return false;
    };
    g.waiting++;
    g.freed.wait(held, [&] { return !busy(); });
    g.waiting--;
    *is_output = false;
    for (*which = 0; *which < n_inputs; ++*which)
        if (const char *why = surfaces_why_not_read(inputs[*which]->writers)) return why;
    for (size_t i = 0; i < n_inputs; i++) inputs[i]->device_readers++;
    *is_output = true;
    const char *why = nullptr;
    size_t taken = 0;
    for (*which = 0; *which < n_outputs; ++*which, ++taken) {
        anefast_surface *s = outputs[*which];
        why = surfaces_why_not_write(s->readers, s->writers, s->device_readers, s->device_writers);
        if (why) break;
        s->device_writers++;
    }
    if (why) {
        for (size_t i = 0; i < taken; i++) outputs[i]->device_writers--;
        for (size_t i = 0; i < n_inputs; i++) inputs[i]->device_readers--;
    }
    return why;
}

void release(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs) {
    Gate &g = gate();
    bool wake;
    {
        std::lock_guard<std::mutex> held(g.mutex);
        for (size_t i = 0; i < n_inputs; i++) inputs[i]->device_readers--;
        for (size_t i = 0; i < n_outputs; i++) outputs[i]->device_writers--;
        wake = g.waiting > 0;
    }
    if (wake) g.freed.notify_all();
}

} // namespace anefast::host
