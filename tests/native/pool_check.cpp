// The pool where things go wrong: bodies that throw, memory that runs out, several callers at once, a fork.
//
// `new` fails here when asked to. Every computation that runs on the pool is repeated with its first allocation
// failing, then its second, until one goes through: each time it either says bad_alloc or is right, whichever
// thread it was on, and works when it is called again. tests/test_native.py runs this, plain and under
// ThreadSanitizer. One line comes out where something is wrong.
#include <atomic>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <sys/time.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "../../csrc/cpu/update.h"
#include "../../csrc/cpu/embed.h"
#include "../../csrc/cpu/gemm/gemm.h"
#include "../../csrc/cpu/head.h"
#include "../../csrc/cpu/pool.h"
#include "../../csrc/cpu/weight_grad.h"
#include "../../csrc/cpu/weights.h"
#include "../../csrc/half.h"
#include "../../csrc/span.h"

using namespace anefast;

// 1) memory that runs out

namespace {

std::atomic<long> until_failure{-1}; // allocations that still succeed; below 0: all do

bool fails() {
    return until_failure.load(std::memory_order_relaxed) >= 0 &&
           until_failure.fetch_sub(1, std::memory_order_relaxed) == 0;
}

} // namespace

#define APART __attribute__((noinline)) // or compilers see a new that ends in free
APART void *operator new(std::size_t bytes) {
    void *const p = fails() ? nullptr : std::malloc(bytes ? bytes : 1);
    if (!p) throw std::bad_alloc();
    return p;
}
APART void *operator new(std::size_t bytes, std::align_val_t align) {
    const auto unit = static_cast<std::size_t>(align);
    void *const p = fails() ? nullptr : std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
    if (!p) throw std::bad_alloc();
    return p;
}
APART void operator delete(void *p) noexcept { std::free(p); }
APART void operator delete(void *p, std::size_t) noexcept { std::free(p); }
APART void operator delete(void *p, std::align_val_t) noexcept { std::free(p); }
APART void operator delete(void *p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace {

int wrong = 0;

void check(bool right, const std::string &what) {
    if (right) return;
    std::printf("%s\n", what.c_str());
    std::fflush(stdout);
    wrong = 1;
}

using Count = std::atomic<int64_t>;

// Every index once, in each of the ways: whether the pool is sound.
bool works() {
    for (const auto way : {&Pool::parallel, &Pool::parallel_apart}) {
        std::vector<Count> seen(1000);
        (Pool::shared().*way)(1000, [&](int64_t i) { ++seen[i]; });
        for (const Count &n : seen)
            if (n != 1) return false;
    }
    return true;
}

// The words of what body() throws; "" for nothing, "?" for what is no exception of the library.
template <class Body> std::string thrown(const Body &body) {
    try {
        body();
    } catch (const std::exception &e) {
        return e.what();
    } catch (...) {
        return "?";
    }
    return "";
}

// 2) bodies that throw

void regions(int threads) {
    Pool &pool = Pool::shared();
    const std::string with = " with " + std::to_string(threads) + " threads";
    for (const auto way : {&Pool::parallel, &Pool::parallel_apart})
        for (int64_t bad : {0, 1, 7, 63, 64}) {
            const std::string said = thrown([&] {
                (pool.*way)(64, [&](int64_t i) {
                    if (i == bad) throw std::runtime_error("index " + std::to_string(i));
                });
            });
            check(said == (bad < 64 ? "index " + std::to_string(bad) : ""), "a region says '" + said + "'" + with);
            check(works(), "the pool is not what it was after a region" + with);
        }
    // all at once: one of them is told
    std::string said = thrown([&] {
        Count here{0};
        pool.parallel(threads, [&](int64_t i) {
            for (++here; here < threads;) std::this_thread::yield();
            throw std::runtime_error("all " + std::to_string(i));
        });
    });
    check(threads == 1 || said.rfind("all ", 0) == 0, "a region of throwing bodies says '" + said + "'" + with);
    // what a body throws stays what it was
    said = thrown([&] {
        pool.parallel(9, [](int64_t i) {
            if (i == 8) throw 5;
        });
    });
    check(said == "?", "an int came out as '" + said + "'" + with);
    // a region in a region
    said = thrown([&] {
        pool.parallel(8, [&](int64_t i) {
            pool.parallel(8, [&](int64_t j) {
                if (i == 3 && j == 5) throw std::runtime_error("inner");
            });
        });
    });
    check(said == "inner", "an inner region says '" + said + "'" + with);
    // a body that waits for the one that fails
    for (int64_t bad : {0, 1}) {
        Count done{0};
        said = thrown([&] {
            pool.parallel(64, [&](int64_t i) {
                wait_until(done, i);
                if (i == bad) {
                    std::this_thread::sleep_for(std::chrono::milliseconds(2));
                    throw std::runtime_error("first");
                }
                ++done;
            });
        });
        check(said == "first", "those who wait say '" + said + "'" + with);
    }
    check(works(), "the pool is not what it was in the end" + with);
}

// Only the worker throws, or only the caller: the other side's share is ended, not left.
void either_side() {
    Pool::shared().set_threads(2); // one worker: more of them could take both indices before the caller
    for (const bool worker : {true, false}) {
        const auto caller = std::this_thread::get_id();
        Count inside{0}, left{0};
        const std::string said = thrown([&] {
            Pool::shared().parallel(2, [&](int64_t) {
                for (++inside; inside < 2;) std::this_thread::yield(); // one each
                if ((std::this_thread::get_id() != caller) == worker) throw std::runtime_error("mine");
                std::this_thread::sleep_for(std::chrono::milliseconds(5));
                ++left;
            });
        });
        check(said == "mine" && left == 1, "a region was left while a share of it ran");
    }
}

void jobs(int threads) {
    Pool &pool = Pool::shared();
    const std::string with = " with " + std::to_string(threads) + " threads";
    FirstError bad, good;
    Count ran{0}, after{0};
    int64_t alone = 0; // touched by jobs of one key only
    const int key = 0, other = 0;
    for (int round = 0; round < 20; ++round) {
        pool.enqueue(
            &key, 16,
            [&](int64_t i) {
                if (i == 5) throw std::runtime_error("job");
                ++ran;
            },
            bad);
        pool.enqueue(&key, 1, [&](int64_t) { ++alone; }, good);
        pool.enqueue(&other, 8, [&](int64_t) { ++after; }, good);
        Count done{0};
        check(works(), "regions beside failing jobs" + with);
    }
    pool.drain();
    check(bad.any() && thrown([&] { std::rethrow_exception(bad.error()); }) == "job", "a job's error is lost" + with);
    check(!good.any() && alone == 20 && after == 160 && ran >= 100 && ran < 320,
          "other jobs are not as they were" + with);
    // a job's indices that wait for one that fails
    FirstError waiting;
    Count done{0};
    pool.enqueue(
        &key, 32,
        [&](int64_t i) {
            wait_until(done, i);
            if (i == 1) throw std::runtime_error("waited for");
            ++done;
        },
        waiting);
    pool.drain();
    check(waiting.any() && thrown([&] { std::rethrow_exception(waiting.error()); }) == "waited for",
          "those who wait in a job" + with);
}

// 3) every allocation of every computation fails once

struct Data {
    std::vector<float> floats, more, out;
    std::vector<uint16_t> halves, taps, half_out;
    std::vector<int32_t> tokens;
    Data()
        : floats(256 * 1024), more(256 * 1024), out(1 << 20), halves(256 * 1024), taps(256 * 1024), half_out(1 << 18),
          tokens(64) {
        for (size_t i = 0; i < floats.size(); ++i) {
            floats[i] = static_cast<float>(static_cast<int>(i * 7919 % 257) - 128) / 256;
            more[i] = static_cast<float>(static_cast<int>(i * 104729 % 251) - 125) / 256;
        }
        half_from_floats(floats.data(), halves.data(), halves.size());
        half_from_floats(more.data(), taps.data(), taps.size());
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 37 % 900);
    }
};

MatrixView rows(const void *data, Elem elem, int64_t stride) { return {data, elem, stride, 1}; }

Head head_of(const Data &d) {
    return {d.halves.data(), d.more.data(), d.floats.data(), 2, 32, 64, 900, 1e-5f, d.more.data() + 64};
}

// Leaves what it computes in d.out and d.half_out, which are zeros.
using Computation = std::function<void(Data &)>;

const std::vector<std::pair<const char *, Computation>> COMPUTATIONS = {
    {"gemm",
     [](Data &d) {
         gemm({256, 320, 800, rows(d.halves.data(), Elem::f16, 800), rows(d.floats.data(), Elem::f32, 320),
               d.half_out.data(), Elem::f16, 320, false});
     }},
    {"gemm by columns",
     [](Data &d) {
         gemm({128,
               512,
               400,
               {d.floats.data(), Elem::f32, 1, 128},
               rows(d.more.data(), Elem::f32, 512),
               d.out.data(),
               Elem::f32,
               512,
               false});
     }},
    {"gemm_batch",
     [](Data &d) {
         std::vector<Gemm> list;
         for (int i = 0; i < 3; ++i)
             list.push_back({96, 128, 256, rows(d.floats.data() + i * 96, Elem::f32, 256),
                             rows(d.more.data(), Elem::f32, 128), d.out.data() + i * 96 * 128, Elem::f32, 128, false});
         gemm_batch(list.data(), 3);
     }},
    {"weight_grad",
     [](Data &d) {
         FirstError error;
         Pool &pool = Pool::shared();
         try {
             weight_grad(d.halves.data(), d.taps.data(), d.out.data(), 2, 256, 192, 160, true, error);
             scale_grad(d.halves.data(), d.taps.data(), d.out.data() + 500000, 2, 256, 192, true, error);
         } catch (...) {
             pool.drain();
             throw;
         }
         pool.drain();
         if (error.any()) std::rethrow_exception(error.error());
     }},
    {"embed",
     [](Data &d) { embed({d.tokens.data(), 2, 32, 64, 900}, d.floats.data(), d.more.data(), d.half_out.data()); }},
    {"embed_grad", [](Data &d) { embed_grad({d.tokens.data(), 2, 32, 64, 900}, d.halves.data(), d.out.data()); }},
    {"head_loss", [](Data &d) { head_loss(head_of(d), d.tokens.data(), d.out.data()); }},
    {"head_loss_grad",
     [](Data &d) {
         float *const o = d.out.data();
         head_loss_grad(head_of(d), d.tokens.data(), 3, o, d.half_out.data(), o + 100, o + 200, o + 1000, false);
     }},
    {"head_logits",
     [](Data &d) {
         const int32_t positions[] = {3, 31};
         head_logits(head_of(d), positions, 2, d.out.data());
     }},
    {"squared_norm",
     [](Data &d) {
         const float *arrays[] = {d.floats.data(), d.more.data()};
         const int64_t sizes[] = {200000, 100000};
         d.out[0] = static_cast<float>(squared_norm(arrays, sizes, 2));
     }},
    {"round_weights",
     [](Data &d) {
         const RoundedWeight w{d.floats.data(), d.half_out.data(), 300, 700, true};
         int64_t lost;
         round_weights(&w, 1, &lost);
     }},
    // last, for it changes weights in place: after an error they are of no use
    {"update_flowing",
     [](Data &d) {
         float *const o = d.out.data();
         const int64_t rows = 192, columns = 160, size = rows * columns;
         std::vector<Tensor> tensors;
         std::vector<FlowingGrad> grads;
         for (int i = 0; i < 3; ++i) {
             tensors.push_back(
                 {o + 3 * i * size, {o + (3 * i + 1) * size, o + (3 * i + 2) * size}, nullptr, size, 1e-3f, 0.1f});
             grads.push_back(weight_grad_flowing(d.halves.data() + i, d.taps.data(), 2, 256, rows, columns));
         }
         update_flowing(tensors.data(), grads.data(), 3, {Kind::adamw, 0.5f, 0.9f, 0.999f, 1e-8f, 0.1, 0.001, false});
     }},
};

struct Outcome {
    std::string said; // "": nothing
    bool failed;      // an allocation did
};

// The computation on threads that have no scratch memory yet, its `nth` allocation failing.
Outcome attempt(Data &d, const Computation &compute, long nth, int threads) {
    Pool::shared().set_threads(1);
    Pool::shared().set_threads(threads);
    std::fill(d.out.begin(), d.out.end(), 0.0f);
    std::fill(d.half_out.begin(), d.half_out.end(), uint16_t{0});
    Outcome seen;
    std::thread([&] {
        until_failure = nth;
        seen.said = thrown([&] { compute(d); });
        seen.failed = nth >= 0 && until_failure < 0;
        until_failure = -1;
    }).join();
    return seen;
}

void out_of_memory(int threads) {
    Data d;
    for (const auto &[name, compute] : COMPUTATIONS) {
        check(attempt(d, compute, -1, threads).said.empty(), std::string(name) + " fails with all the memory there is");
        const std::vector<float> out = d.out;
        const std::vector<uint16_t> half_out = d.half_out;
        for (long nth = 0, whole = 0; whole < 3; ++nth) { // how many there are depends on which thread is first
            const Outcome seen = attempt(d, compute, nth, threads);
            whole += !seen.failed;
            if (seen.said.empty())
                check(d.out == out && d.half_out == half_out, std::string(name) + " is wrong and says nothing");
            else check(seen.failed && seen.said == "std::bad_alloc", std::string(name) + " says '" + seen.said + "'");
            check(works(), std::string("the pool is not what it was after ") + name);
        }
    }
}

// 4) everything at once: for ThreadSanitizer to look at

void hammer(int milliseconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
    const auto goes_on = [&] { return std::chrono::steady_clock::now() < end; };
    span::recording = true;
    std::vector<std::thread> all;
    for (int t = 0; t < 3; ++t)
        all.emplace_back([&, t] {
            std::vector<float> a(64 * 64, 1.0f), c(64 * 64);
            while (goes_on()) {
                span::Span timed(span::Component::EVALUATE, span::label("hammer"));
                gemm({64, 64, 64, rows(a.data(), Elem::f32, 64), rows(a.data(), Elem::f32, 64), c.data(), Elem::f32, 64,
                      false});
                const std::string said = thrown([&] {
                    Pool::shared().parallel(20, [&](int64_t i) {
                        if (i == 11 && t == 1) throw std::runtime_error("hammer");
                    });
                });
                check(said == (t == 1 ? "hammer" : "") && c[0] == 64, "a caller got what another's body threw");
            }
        });
    all.emplace_back([&] {
        const Data &d = *new Data; // kept by the queue
        std::vector<float> acc(64 * 64);
        while (goes_on()) {
            FirstError error;
            for (int i = 0; i < 8; ++i)
                weight_grad(d.halves.data(), d.taps.data(), acc.data(), 2, 64, 64, 64, i == 0, error);
            Pool::shared().enqueue(
                acc.data(), 4,
                [](int64_t i) {
                    if (i == 2) throw std::bad_alloc();
                },
                error);
            Pool::shared().drain();
            check(error.any(), "a job's error is lost");
        }
    });
    all.emplace_back([&] {
        for (int n = 0; goes_on(); ++n) {
            Pool::shared().set_threads(1 + n % 4);
            std::vector<span::Record> records;
            span::drain(records);
            span::threads(), span::labels(), span::dropped();
            span::name_thread("resizer");
            span::recording = n % 8 != 7;
        }
    });
    for (std::thread &t : all) t.join();
    span::recording = false;
}

std::atomic<int> alarms{0};

} // namespace

int main(int argc, char **argv) {
    alarm(argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 100); // nothing here may hang
    // a signal that arrives again and again, as Ctrl-C may
    signal(SIGPROF, [](int) { ++alarms; });
    const itimerval often{{0, 2000}, {0, 2000}};
    setitimer(ITIMER_PROF, &often, nullptr);
    for (int threads : {1, 2, 3, 5}) {
        Pool::shared().set_threads(threads);
        regions(threads);
        jobs(threads);
    }
    either_side();
    out_of_memory(1);
    out_of_memory(3);
    hammer(1500);
    check(alarms > 0, "no signal came");
    Pool::shared().set_threads(3);
    const pid_t child = fork();
    if (child == 0) {
        wrong = 0;
        regions(3);
        jobs(3);
        _exit(wrong);
    }
    int status = 1;
    waitpid(child, &status, 0);
    check(status == 0, "a child of a fork has no pool");
    return wrong;
}
