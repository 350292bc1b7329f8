// The one thread pool of the process: parallel regions that must finish now, and a background queue
// that fills the gaps (weight gradients run there while the device evaluates).
//
// Work is handed out by atomic counters, so a busy neighbour costs its share and no more. Which thread runs
// an index never changes a result. No OpenMP. Survives fork (the child makes new threads).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>

namespace anefast {

// The first exception of bodies that run on several threads. Those that come after it are dropped.
class FirstError {
  public:
    bool any() const { return taken.load(std::memory_order_relaxed); }
    void take(std::exception_ptr error) noexcept {
        if (!taken.exchange(true, std::memory_order_relaxed)) first = std::move(error);
    }
    const std::exception_ptr &error() const { return first; } // once every body has ended; null where none failed

  private:
    std::atomic<bool> taken{false};
    std::exception_ptr first;
};

class Pool {
  public:
    static Pool &shared();   // made at first use
    int threads() const;     // default_threads() of cpus.h, or as set; the caller counts
    void set_threads(int n); // at least 1, or as many as the system grants; not from a body

    // Runs body(0..count-1), the caller working too; returns when all have run. Indices are started in
    // ascending order. Regions from several threads may be open at once. Inside a body (of a region or a
    // job) it runs on that thread alone. Where a body throws, no further indices are started, those under way
    // end, and the first exception is thrown here, whichever thread it was on.
    void parallel(int64_t count, const std::function<void(int64_t)> &body);
    // The same, but each thread begins with the part of the indices that is its own in every such region of
    // as many, so that it meets again what it has in its cache, and then helps with the others'. Indices
    // are started in order within a part only: index i of n is of part i * threads() / n.
    void parallel_apart(int64_t count, const std::function<void(int64_t)> &body);

    // Queues body(0..count-1) to run when no region needs the threads. Jobs start in order, and a job
    // takes its indices in order; they may run side by side. A job with the same `key` as an unfinished
    // one waits for it, and later jobs of other keys may then go first. Keep an index under ~0.2 ms:
    // that is how long a region may wait for a thread. With one thread, jobs run in drain(). Where a body
    // throws, no further indices of its job are started, and `failure` takes the exception before a later job of
    // that key begins, or the drain ends. It must live until then, and may be that of several jobs.
    void enqueue(const void *key, int64_t count, std::function<void(int64_t)> body, FirstError &failure);
    // Runs what is queued until nothing is left. What jobs threw is in their failures.
    void drain();

  private:
    Pool() = default;
};

// For bodies that need what those of lower indices do: returns when `count`, which they raise, is at `least`. Throws
// where one of them has failed, for they may then never raise it.
void wait_until(const std::atomic<int64_t> &count, int64_t least);

} // namespace anefast
