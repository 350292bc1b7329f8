// Measures this machine's peak rates and the cost of small CPU work, to compare other figures with.
//
// For benchmarks only; nothing in a training step calls these. Each takes the best of a few short
// runs, since a neighbour only adds time.
#pragma once

#include <cstddef>

namespace anefast {

struct Peak {
    const char *kind; // "fp32", or the path that products take, where it has more than fp32 multiply-adds
    double flops; // per second in registers, on `threads` threads: of a path's products, however many passes they take
};
Peak probe_peak(int threads);

// Bytes per second of AdamW's memory traffic with hardly any arithmetic, over arrays larger than any cache: four
// read, three of them written, 28 bytes a weight.
double probe_stream(int threads);

// Seconds, on this thread: `count` times malloc and free of `bytes` each, all held before any is
// freed; memcpy of `bytes`; y[i] += x[i] over bytes / 4 floats, one by one or as the compiler likes.
enum class Small { allocate, copy, add, add_vector };
double probe_small(Small what, size_t count, size_t bytes);

} // namespace anefast
