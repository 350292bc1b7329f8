// The default number of threads of the pool.
#pragma once

#include <string>

namespace anefast {

// ANEFAST_NUM_THREADS, else the CPUs this process may use. An invalid value is reported on stderr, once.
int default_threads();
// CPUs that the scheduler (affinity) and the quotas of control groups leave this process; at least 1.
int usable_cpus();
// CPUs' worth of time that the quotas of a process's control groups come to, the part of a CPU counted whole;
// 0 where there is no quota. groups: its /proc/self/cgroup. root: where control groups are mounted.
int quota_cpus(const std::string &groups = "/proc/self/cgroup", const std::string &root = "/sys/fs/cgroup");

} // namespace anefast
