// The mutexes that are held while the process forks.
#include "fork.h"

#include <atomic>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#endif

namespace anefast {
namespace {

struct Kept {
    std::mutex adding;
    std::vector<std::mutex *> mutexes;
};

Kept &kept() { // leaked: threads may outlive static destructors
    static Kept &all = *new Kept;
    return all;
}

#ifndef _WIN32
void hold() {
    kept().adding.lock();
    for (std::mutex *mutex : kept().mutexes) mutex->lock();
}

void release() {
    for (std::mutex *mutex : kept().mutexes) mutex->unlock();
    kept().adding.unlock();
}
#endif

} // namespace

ForkMutex::ForkMutex() {
#ifndef _WIN32
    static const int registered = pthread_atfork(hold, release, release);
    (void)registered;
#endif
    std::lock_guard<std::mutex> lock(kept().adding);
    kept().mutexes.push_back(this);
}

int fork_generation() {
    static std::atomic<int> forks{0};
#ifndef _WIN32
    static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
    (void)registered;
#endif
    return forks;
}

} // namespace anefast
