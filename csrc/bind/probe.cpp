// The machine's limits, the cost of small CPU work and what this was built with, for benchmarks.
#include "bind.h"

#include "../cpu/pool.h"
#include "../cpu/probe.h"

namespace anefast::bind {

namespace {

int threads_or_all(int threads) { return threads > 0 ? threads : Pool::shared().threads(); }

py::tuple peak(int threads) {
    const Peak found = computing("probe", [&] { return probe_peak(threads_or_all(threads)); });
    return py::make_tuple(found.kind, found.flops);
}

double small(const std::string &what, size_t count, size_t bytes) {
    const char *const names[] = {"allocate", "copy", "add", "add_vector"};
    for (int i = 0; i < 4; i++)
        if (what == names[i])
            return computing("probe", [&] { return probe_small(static_cast<Small>(i), count, bytes); });
    throw py::value_error("[probe] expected allocate, copy, add or add_vector, got '" + what + "'.");
}

#ifdef __clang__
constexpr const char *COMPILER = "clang " __clang_version__;
#else
constexpr const char *COMPILER = "gcc " __VERSION__;
#endif

} // namespace

void init_probe(py::module_ &m) {
    m.def("probe_peak", &peak, py::arg("threads") = 0,
          "(kind, flops per second) in registers: of fp32 multiply-adds, or of products where their path has more. "
          "0 threads: as the pool.");
    m.def(
        "probe_stream",
        [](int threads) { return computing("probe", [&] { return probe_stream(threads_or_all(threads)); }); },
        py::arg("threads") = 0, "Bytes per second of AdamW's traffic over arrays that no cache holds.");
    m.def("probe_small", &small, py::arg("what"), py::arg("count"), py::arg("bytes"),
          "Seconds, best of a few runs, of `count` allocations, copies or residual adds of `bytes` each.");
    m.def("compiler", [] { return COMPILER; }, "What compiled this module.");
}

} // namespace anefast::bind
