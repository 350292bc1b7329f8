// The pool: worker threads that take indices of open regions first, of queued jobs second, then spin a
// little and sleep. What it promises is in pool.h.
//
// A region lives on its caller's stack. A worker joins it under the mutex (`users`), takes indices from its
// atomic counter without it, and leaves; the caller takes it off the list and waits for users == 0.
// Jobs are coarser, so every index of a job is taken under the mutex: a worker looks for regions between two.
// What a body throws is caught on its thread, in the region or the job, and goes on from there when it is closed.
#include "pool.h"

#include "../span.h"
#include "cpus.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif
#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace anefast {
namespace {

using Body = std::function<void(int64_t)>;

constexpr auto SPIN = std::chrono::microseconds(20); // about what a sleep and a wake-up cost

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

template <class Ready> bool spin_until(Ready ready) {
    const auto end = std::chrono::steady_clock::now() + SPIN;
    do {
        for (int i = 0; i < 32; ++i) {
            if (ready()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

// What ends a body that waited for another one, which had failed. Never the first exception.
struct Abandoned : std::exception {
    const char *what() const noexcept override { return "[pool] another thread failed at its part of the same work."; }
};

// The body that this thread is in: where it, or another share of the same work, says that it failed.
thread_local const FirstError *inside = nullptr;

class Inside {
  public:
    explicit Inside(const FirstError &failure) : before(inside) { inside = &failure; }
    ~Inside() { inside = before; }
    Inside(const Inside &) = delete;
    Inside &operator=(const Inside &) = delete;

  private:
    const FirstError *const before;
};

// Indices in one part, or in one for each thread to begin with.
struct Region {
    Region(const Body &b, int64_t n, int wanted)
        : body(b), parts(static_cast<int>(std::min<int64_t>({wanted, PARTS, n}))) {
        for (int i = 0; i < parts; ++i) {
            part[i].next = n * i / parts;
            part[i].end = n * (i + 1) / parts;
        }
    }

    bool has_work() const {
        return std::any_of(part, part + parts,
                           [](const Part &p) { return p.next.load(std::memory_order_relaxed) < p.end; });
    }

    void run(int slot) noexcept {
        const Inside here(failure);
        try {
            for (int i = 0; i < parts; ++i) {
                Part &mine = part[(slot + i) % parts];
                for (int64_t at; (at = mine.next.fetch_add(1, std::memory_order_relaxed)) < mine.end;) body(at);
            }
        } catch (...) {
            failure.take(std::current_exception());
            for (int i = 0; i < parts; ++i) part[i].next.store(part[i].end, std::memory_order_relaxed);
        }
    }

    static constexpr int64_t PARTS = 16;
    struct alignas(64) Part {
        std::atomic<int64_t> next;
        int64_t end;
    };
    const Body &body;
    const int parts;
    Part part[PARTS];
    alignas(64) std::atomic<int> users{0}; // workers inside; joined under the mutex
    FirstError failure;
};

struct Job {
    const void *key;
    int64_t count, next, done;
    Body body;
    span::Ticket ticket;
    FirstError &told;   // its owner's
    FirstError failure; // its own

    Job(const void *key, int64_t count, Body &&body, FirstError &told)
        : key(key), count(count), next(0), done(0), body(std::move(body)), ticket(span::ticket()), told(told) {}

    void run(int64_t index) noexcept {
        if (failure.any()) return;
        const Inside here(failure);
        try {
            span::Span timed(span::Component::DW_RUN, ticket.label);
            body(index);
        } catch (...) {
            failure.take(std::current_exception());
        }
    }
};

struct State {
    std::mutex mutex;
    std::condition_variable work;     // workers sleep here
    std::condition_variable finished; // callers sleep here: a region was left, a job's index has run
    std::vector<Region *> regions;    // open, oldest first
    std::list<Job> jobs;              // unfinished, oldest first
    std::mutex resizing;              // held before `mutex`
    std::vector<std::thread> workers;
    std::atomic<int> threads{1};
    std::atomic<uint64_t> news{0}; // counts regions, jobs and freed keys: what a spinning worker watches
    int sleepers = 0;
    bool stopping = false;

    // As many of n threads as the system lets a process have.
    void start(int n) {
        try {
            for (int i = 1; i < n; ++i) workers.emplace_back([this, i] { serve(i); });
        } catch (const std::exception &) { // system_error, or bad_alloc
        }
        threads = static_cast<int>(workers.size()) + 1;
    }

    void stop() {
        {
            std::lock_guard<std::mutex> lock(mutex);
            stopping = true;
            ++news;
        }
        work.notify_all();
        for (std::thread &worker : workers) worker.join();
        workers.clear();
        stopping = false;
    }

    // The oldest job with an index left whose key no older unfinished job holds. Mutex held.
    std::list<Job>::iterator startable() {
        for (auto job = jobs.begin(); job != jobs.end(); ++job) {
            if (job->next == job->count) continue;
            const bool held = std::any_of(jobs.begin(), job, [&](const Job &j) { return j.key == job->key; });
            if (!held) return job;
        }
        return jobs.end();
    }

    // Runs one index of one job; false where none can start. Takes the lock held and gives it back held.
    bool run_job(std::unique_lock<std::mutex> &lock) {
        const auto job = startable();
        if (job == jobs.end()) return false;
        const int64_t index = job->next++;
        lock.unlock();
        if (index == 0) span::started(job->ticket);
        job->run(index); // a list element does not move, and stays until done == count
        lock.lock();
        if (++job->done == job->count) {
            if (job->failure.any()) job->told.take(job->failure.error());
            Body body = std::move(job->body);
            jobs.erase(job);
            ++news; // its key is free
            finished.notify_all();
            if (sleepers && !jobs.empty()) work.notify_all();
            lock.unlock();
            body = nullptr; // what it owns may be large, or take locks of its own
            lock.lock();
        }
        return true;
    }

    void serve(int slot) {
        span::name_thread("pool worker");
        std::unique_lock<std::mutex> lock(mutex);
        while (!stopping) {
            const auto open =
                std::find_if(regions.begin(), regions.end(), [](const Region *r) { return r->has_work(); });
            if (open != regions.end()) {
                Region &region = **open;
                region.users.fetch_add(1, std::memory_order_relaxed);
                lock.unlock();
                region.run(slot);
                // The region may be gone after the last of these, so nothing of it is touched below.
                const bool last = region.users.fetch_sub(1, std::memory_order_acq_rel) == 1;
                lock.lock();
                if (last) finished.notify_all();
                continue;
            }
            if (run_job(lock)) continue;
            const uint64_t seen = news.load(std::memory_order_relaxed);
            lock.unlock();
            spin_until([&] { return news.load(std::memory_order_acquire) != seen; });
            lock.lock();
            if (news.load(std::memory_order_relaxed) == seen) {
                ++sleepers;
                work.wait(lock, [&] { return news.load(std::memory_order_relaxed) != seen; });
                --sleepers;
            }
        }
    }

    void parallel(int64_t count, const Body &body, int parts) {
        Region region(body, count, parts);
        run_and_close(region, count);
        if (region.failure.any()) std::rethrow_exception(region.failure.error());
    }

    // Returns when no worker is inside any more, so that the region may go.
    void run_and_close(Region &region, int64_t count) {
        bool wake;
        {
            std::lock_guard<std::mutex> lock(mutex);
            regions.push_back(&region);
            news.fetch_add(1, std::memory_order_release);
            wake = sleepers > 0;
        }
        if (wake) {
            if (count > 2) work.notify_all();
            else work.notify_one();
        }
        region.run(0);
        const auto left = [&] { return region.users.load(std::memory_order_acquire) == 0; };
        std::unique_lock<std::mutex> lock(mutex);
        regions.erase(std::find(regions.begin(), regions.end(), &region));
        if (left()) return;
        lock.unlock();
        if (spin_until(left)) return;
        lock.lock();
        finished.wait(lock, left);
    }

    void enqueue(const void *key, int64_t count, Body body, FirstError &failure) {
        bool wake;
        {
            std::lock_guard<std::mutex> lock(mutex);
            jobs.emplace_back(key, count, std::move(body), failure);
            news.fetch_add(1, std::memory_order_release);
            wake = sleepers > 0;
        }
        if (wake) work.notify_all();
    }

    void drain() {
        std::unique_lock<std::mutex> lock(mutex);
        while (!jobs.empty()) {
            if (run_job(lock)) continue;
            const uint64_t seen = news.load(std::memory_order_relaxed);
            finished.wait(lock, [&] { return jobs.empty() || news.load(std::memory_order_relaxed) != seen; });
        }
    }
};

// Made at first use and never destroyed: a worker may outlive static destructors. After fork the child has
// no workers and perhaps a locked mutex, so it forgets the state and makes its own; queued jobs stay the
// parent's.
std::atomic<State *> current{nullptr};
std::mutex *making = new std::mutex;
int chosen_threads = 0;

State &state() {
    State *s = current.load(std::memory_order_acquire);
    if (s) return *s;
    std::lock_guard<std::mutex> lock(*making);
    s = current.load(std::memory_order_relaxed);
    if (!s) {
        static bool registered = false;
#ifndef _WIN32
        if (!registered)
            pthread_atfork(nullptr, nullptr, [] {
                current.store(nullptr);
                making = new std::mutex;
                inside = nullptr;
            });
#endif
        registered = true;
        s = new State;
        s->start(chosen_threads ? chosen_threads : default_threads());
        current.store(s, std::memory_order_release);
    }
    return *s;
}

} // namespace

Pool &Pool::shared() {
    static Pool pool;
    return pool;
}

int Pool::threads() const { return state().threads; }

void Pool::set_threads(int n) {
    State &s = state();
    std::lock_guard<std::mutex> lock(s.resizing);
    n = std::max(1, std::min(n, 1024));
    if (n == s.threads) return;
    s.stop();
    chosen_threads = n;
    s.start(n);
}

namespace {

void open_region(int64_t count, const Body &body, bool apart) {
    if (count <= 0) return;
    if (count == 1 || inside || state().threads == 1) {
        static const FirstError none;
        const Inside here(inside ? *inside : none);
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
    state().parallel(count, body, apart ? state().threads.load() : 1);
}

} // namespace

void Pool::parallel(int64_t count, const Body &body) { open_region(count, body, false); }
void Pool::parallel_apart(int64_t count, const Body &body) { open_region(count, body, true); }

void Pool::enqueue(const void *key, int64_t count, Body body, FirstError &failure) {
    if (count > 0) state().enqueue(key, count, std::move(body), failure);
}

void Pool::drain() { state().drain(); }

void wait_until(const std::atomic<int64_t> &count, int64_t least) {
    for (int spins = 0; count.load(std::memory_order_acquire) < least; ++spins) {
        if (inside && inside->any()) throw Abandoned();
        if (spins > 1000) std::this_thread::yield(); // the one we wait for may have lost its processor
    }
}

} // namespace anefast
