// Prints quota_cpus(groups, root) of csrc/cpu/cpus.h, for the two paths that are its arguments.
#include "../../csrc/cpu/cpus.h"

#include <cstdio>

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    std::printf("%d\n", anefast::quota_cpus(argv[1], argv[2]));
}
