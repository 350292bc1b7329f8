// Spans as Python sees them: the two enumerations, a context manager, and one call that takes them all.
#include "bind.h"

#include <pybind11/native_enum.h>

#include <optional>

#include "../span.h"

namespace anefast::bind {

namespace {

using span::Component;
using span::Phase;

struct Scope : Counted {
    Scope(Component component, uint32_t label, uint64_t flops, uint64_t bytes)
        : component(component), label(label), flops(flops), bytes(bytes) {}
    const Component component;
    const uint32_t label;
    const uint64_t flops, bytes;
    std::optional<span::Span> open;
};

py::array drain() {
    std::vector<span::Record> records;
    span::drain(records);
    return py::array_t<span::Record>(static_cast<py::ssize_t>(records.size()), records.data());
}

} // namespace

void init_spans(py::module_ &m) {
    using py::arg;
    PYBIND11_NUMPY_DTYPE(span::Record, start, end, self, flops, bytes, label, count, thread, component, phase);

    py::native_enum<Component> components(m, "Component", "enum.IntEnum", "What a span was spent on.");
#define ANEFAST_VALUE(name, meaning) components.value(#name, Component::name, meaning);
    ANEFAST_COMPONENTS(ANEFAST_VALUE)
#undef ANEFAST_VALUE
    components.finalize();
    py::native_enum<Phase> phases(m, "Phase", "enum.IntEnum", "Which part of a run a thread is in.");
#define ANEFAST_VALUE(name, meaning) phases.value(#name, Phase::name, meaning);
    ANEFAST_PHASES(ANEFAST_VALUE)
#undef ANEFAST_VALUE
    phases.finalize();

    py::class_<Scope, std::shared_ptr<Scope>>(m, "Span",
                                              "Records the time between enter and exit, while recording is on.")
        .def(init_counted<Scope, Component, uint32_t, uint64_t, uint64_t>(), arg("component"), arg("label") = 0,
             arg("flops") = 0, arg("bytes") = 0)
        .def("__enter__", [](Scope &s) { s.open.emplace(s.component, s.label, s.flops, s.bytes); })
        .def("__exit__", [](Scope &s, const py::args &) { s.open.reset(); });

    m.def("spans_record", [](bool on) { span::recording.store(on); }, arg("on"));
    m.def("spans_recording", [] { return span::on(); });
    m.def("spans_phase", &span::set_phase, arg("phase"),
          "What this thread does from here on belongs to `phase`; returns the one before.");
    m.def("spans_label", &span::label, arg("name"), "The number of a name, the same each time, from 1.");
    m.def("spans_labels", &span::labels, "Names by number; [0] is empty.");
    m.def("spans_thread", &span::thread, "The number of this thread.");
    m.def("spans_name_thread", [](const std::string &name) { span::name_thread(name.c_str()); }, arg("name"));
    m.def(
        "spans_threads",
        [] {
            py::dict names;
            for (const auto &[id, name] : span::threads()) names[py::int_(id)] = name;
            return names;
        },
        "Names of the threads that ever recorded, by number.");
    m.def("spans_clock", &span::now, "Nanoseconds, on the clock of the spans.");
    m.def("spans_drain", &drain, "What all threads recorded since the last call, as a structured array.");
    m.def("spans_dropped", &span::dropped, "Spans lost so far, for want of memory.");
}

} // namespace anefast::bind
