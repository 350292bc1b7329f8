// Children forked while threads take scratch memory off a shelf: each must get some too, and none may wait for ever.
#include <atomic>
#include <cstdio>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "../../csrc/cpu/scratch.h"

int main() {
    auto &shelf = *new anefast::ScratchShelf;
    std::atomic<bool> stop{false};
    std::thread busy[2];
    for (std::thread &thread : busy)
        thread = std::thread([&] {
            while (!stop) shelf.take();
        });
    int stuck = 0;
    for (int i = 0; i < 100 && !stuck; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(5);
            _exit(shelf.take()->get(1) ? 0 : 1);
        }
        int status = 1;
        stuck += waitpid(child, &status, 0) != child || status != 0;
    }
    stop = true;
    for (std::thread &thread : busy) thread.join();
    if (stuck) std::printf("a child waits for a lock that nobody holds\n");
    return stuck;
}
