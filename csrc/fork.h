// A child of fork() has one thread, and a mutex that another one held stays locked in it for ever.
#pragma once

#include <mutex>

namespace anefast {

// A mutex that no child finds locked: fork() takes it first, and both sides let it go. It must never be destroyed, be
// held briefly, and be the last that its holder takes.
struct ForkMutex : std::mutex {
    ForkMutex();
};

// How often this process was forked off. What says that a thread is at work is void in another generation: the thread
// is the parent's. Call it before the fork, too.
int fork_generation();

} // namespace anefast
