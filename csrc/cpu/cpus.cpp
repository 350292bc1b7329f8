// See cpus.h. Quotas as the kernel's Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
// Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us) have them.
#include "cpus.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

#include "threads.h"

namespace anefast {

namespace {

// Of one group, in either version's files; 0 where it has no quota.
int quota_of(const std::string &folder) {
    std::string quota;
    double period = 0;
    std::ifstream both(folder + "/cpu.max"); // "max 100000" where there is none
    if (!(both >> quota >> period)) {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota; // -1 where there is none
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    const double time = std::atof(quota.c_str()); // 0 of "max"
    if (time <= 0 || period <= 0) return 0;
    return static_cast<int>(std::min((time + period - 1) / period, static_cast<double>(MOST_THREADS)));
}

} // namespace

int quota_cpus(const std::string &groups, const std::string &root) {
    int least = 0;
    std::ifstream in(groups);
    for (std::string line; std::getline(in, line);) { // "0::/path", or "4:cpu,cpuacct:/path" of version 1
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        if (controllers != ",," && controllers.find(",cpu,") == std::string::npos) continue;
        const std::string mount = controllers == ",," ? root : root + "/cpu";
        // A group is bound by those above it. In a container the path may be the system's, which is not there.
        for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
            const int n = quota_of(mount + path);
            if (n) least = least ? std::min(least, n) : n;
            if (path.find('/') == std::string::npos) break;
        }
    }
    return least;
}

int usable_cpus() {
    int n = static_cast<int>(std::thread::hardware_concurrency());
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) n = CPU_COUNT(&set);
    const int quota = quota_cpus();
    if (quota) n = std::min(n, quota);
#endif
    return std::max(n, 1);
}

int default_threads() {
    const char *wish = std::getenv("ANEFAST_NUM_THREADS");
    if (!wish || !*wish) return usable_cpus();
    const int n = threads_read(wish, std::strlen(wish));
    if (n) return n;
    const int instead = usable_cpus();
    static std::atomic<bool> said{false};
    if (!said.exchange(true))
        std::fprintf(
            stderr,
            "[threads] expected ANEFAST_NUM_THREADS to be 1 to %d, got \"%.64s\": taking %d, for the CPUs this "
            "process may use. Hint: unset it, or correct it.\n",
            MOST_THREADS, wish, instead);
    return instead;
}

} // namespace anefast
