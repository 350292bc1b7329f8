// Device, Program, Surface and Port: the contract of csrc/anefast.h as Python objects. Which executor
// answers is decided once, by name, in Device's constructor; nothing after it asks.
#include "bind.h"

#include "../ane/selectors.h"

#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "../calls.h"
#include "../span.h"

namespace anefast::bind {

struct Device : Counted {
    const anefast_executor *executor;
    anefast_device *handle = nullptr;

    Device(const std::string &name, const std::string &options) {
        if (name == "host") executor = anefast_host_executor();
        else if (name == "ane") executor = anefast_ane_executor();
        else throw py::value_error("[device] expected \"host\" or \"ane\", got \"" + name + "\".");
        anefast_error error;
        anefast_status status;
        {
            WithoutGil free;
            status = executor->open(options.c_str(), &handle, &error);
        }
        if (status != ANEFAST_OK) raise(error);
    }
    ~Device() {
        if (handle) executor->close(handle);
    }
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
};

Surface::~Surface() {
    if (handle) device->executor->surface_release(handle);
}

size_t Surface::bytes() const { return device->executor->surface_bytes(handle); }

void *Surface::lock(bool read_only) const {
    span::Span timed(span::Component::LOCK);
    void *base = nullptr;
    anefast_error error;
    if (device->executor->surface_lock(handle, read_only, &base, &error) != ANEFAST_OK) raise(error);
    return base;
}

void Surface::unlock(bool read_only) const {
    span::Span timed(span::Component::LOCK);
    anefast_error error;
    if (device->executor->surface_unlock(handle, read_only, &error) != ANEFAST_OK) raise(error);
}

void Surface::unlock_quietly(bool read_only) const {
    anefast_error error;
    device->executor->surface_unlock(handle, read_only, &error);
}

namespace {

struct Port {
    std::string name, dtype;
    std::vector<int64_t> shape, strides;
    size_t bytes;
};

std::vector<Port> ports(const anefast_port *p, size_t n) {
    std::vector<Port> all(n);
    for (size_t i = 0; i < n; i++)
        all[i] = {p[i].name,
                  p[i].dtype,
                  {p[i].shape, p[i].shape + p[i].rank},
                  {p[i].strides, p[i].strides + p[i].rank},
                  p[i].bytes};
    return all;
}

py::tuple as_tuple(const std::vector<int64_t> &v) {
    py::tuple t(v.size());
    for (size_t i = 0; i < v.size(); i++) t[i] = v[i];
    return t;
}

// How an unload went. Whoever asks for it is told; one that nobody waits for (a program that was dropped,
// or is still evaluating elsewhere) can only be reported. Touched with the GIL held.
struct Farewell {
    bool awaited = false;
    uint32_t label = 0;
    anefast_error error{};

    void say(const anefast_executor *executor, anefast_program *program) {
        {
            WithoutGil free; // for whoever watches: the device may not come back from this
            calls::Scope under_way(CALL_UNLOAD, label);
            error.status = executor->unload(program, &error);
        }
        if (error.status == ANEFAST_OK || awaited) return;
        py::error_scope keep; // what is being raised already, if anything
        PyErr_SetString(PyExc_RuntimeError, error.message);
        PyErr_WriteUnraisable(nullptr);
    }
};

// The handle is shared so that an evaluation under way keeps an unloaded program alive until it ends.
struct Program : Counted {
    std::shared_ptr<Device> device;
    std::shared_ptr<anefast_program> handle;
    std::shared_ptr<Farewell> farewell = std::make_shared<Farewell>();
    std::vector<Port> inputs, outputs;
    size_t bytes = 0;
    uint32_t label = 0; // of its name, for calls that bring none
    std::optional<bool> was_cached;
    bool compiled = true;

    std::shared_ptr<anefast_program> loaded() const { // kept while it is used
        if (handle) return handle;
        anefast_error error;
        error.status = ANEFAST_EVALUATE;
        std::strcpy(error.message, "[evaluate] expected a loaded program, got one that was unloaded. "
                                   "Hint: compile it again.");
        raise(error);
    }

    void unload() {
        farewell->awaited = true;
        handle.reset();
        farewell->awaited = false;
        anefast_error told = farewell->error;
        farewell->error.status = ANEFAST_OK; // an error is raised once
        if (told.status != ANEFAST_OK) raise(told);
    }

    bool reload() const {
        const std::shared_ptr<anefast_program> held = loaded();
        int compiled = 0;
        anefast_error error;
        anefast_status status;
        {
            WithoutGil free;
            calls::Scope under_way(CALL_LOAD, label);
            status = device->executor->reload(held.get(), &compiled, &error);
        }
        if (status != ANEFAST_OK) raise(error);
        return compiled != 0;
    }

    std::vector<std::string> tasks() const {
        const std::shared_ptr<anefast_program> held = loaded();
        std::vector<std::string> lines;
        if (!device->executor->tasks) return lines;
        const char *text = "";
        anefast_error error;
        if (device->executor->tasks(held.get(), &text, &error) != ANEFAST_OK) raise(error);
        for (const char *end; (end = std::strchr(text, '\n')); text = end + 1) lines.emplace_back(text, end);
        return lines;
    }

    void evaluate(const std::vector<std::shared_ptr<Surface>> &in, const std::vector<std::shared_ptr<Surface>> &out,
                  uint32_t label, uint64_t flops, uint64_t bytes, const std::vector<int64_t> &extents) const {
        span::Span timed(span::Component::EVALUATE, label, flops, bytes);
        const std::shared_ptr<anefast_program> held = loaded();
        const anefast_executor *const executor = device->executor;
        const bool part = !extents.empty() && executor->evaluate_part;
        size_t axes = 0;
        for (const Port &p : inputs) axes += p.shape.size();
        if (!extents.empty() && extents.size() != axes)
            throw py::value_error("[evaluate] expected " + std::to_string(axes) +
                                  " extents, one for each axis of each input, got " + std::to_string(extents.size()) +
                                  ".");
        anefast_error error;
        anefast_status status;
        {
            WithoutGil free;
            calls::Scope under_way(CALL_EVALUATE, label ? label : this->label);
            std::vector<anefast_surface *> handles;
            handles.reserve(in.size() + out.size());
            for (const auto *list : {&in, &out})
                for (const auto &s : *list) handles.push_back(s ? s->handle : nullptr);
            anefast_surface *const *to = handles.data() + in.size();
            status = part ? executor->evaluate_part(held.get(), extents.data(), handles.data(), in.size(), to,
                                                    out.size(), &error)
                          : executor->evaluate(held.get(), handles.data(), in.size(), to, out.size(), &error);
        }
        if (status == ANEFAST_MEMORY && label) { // the caller may not know which one it was
            const std::string text = std::string(error.message) + " (program " + span::labels().at(label) + ")";
            std::snprintf(error.message, sizeof error.message, "%s", text.c_str());
        }
        if (status != ANEFAST_OK) raise(error);
    }
};

thread_local uint32_t naming = 0; // the label of what this thread compiles

// Weight files by path, held while a call reads them.
struct Blobs {
    std::vector<std::string> paths;
    std::vector<std::unique_ptr<View>> views;
    std::vector<anefast_blob> raw;

    explicit Blobs(const py::object &blobs) {
        for (auto item : blobs.attr("items")()) {
            auto pair = item.cast<std::pair<std::string, py::object>>();
            paths.push_back(pair.first);
            views.push_back(std::make_unique<View>(pair.second, "compile"));
        }
        for (size_t i = 0; i < paths.size(); i++)
            raw.push_back({paths[i].c_str(), views[i]->data(), views[i]->bytes()});
    }
};

// kept: a folder to load it from instead, NULL to compile.
std::shared_ptr<Program> make(const std::shared_ptr<Device> &device, const std::string &text, const py::object &blobs,
                              const char *kept) {
    const Blobs files(blobs);
    const std::vector<anefast_blob> &raw = files.raw;
    auto program = std::make_shared<Program>(); // first, for what is compiled must have an owner
    anefast_program *handle = nullptr;
    anefast_error error;
    anefast_status status;
    const anefast_executor *executor = device->executor;
    {
        WithoutGil free;
        calls::Scope under_way(kept ? CALL_LOAD : CALL_COMPILE, naming);
        status =
            kept ? executor->load_kept(device->handle, text.data(), text.size(), raw.data(), raw.size(), kept, &handle,
                                       &error)
                 : executor->compile(device->handle, text.data(), text.size(), raw.data(), raw.size(), &handle, &error);
    }
    if (status != ANEFAST_OK) raise(error);
    program->device = device;
    program->label = program->farewell->label = naming;
    // The deleter holds the device too: it must not close before its last program is gone.
    program->handle = {
        handle, [device, farewell = program->farewell](anefast_program *p) { farewell->say(device->executor, p); }};
    const anefast_port *p;
    size_t n = executor->inputs(handle, &p);
    program->inputs = ports(p, n);
    n = executor->outputs(handle, &p);
    program->outputs = ports(p, n);
    program->bytes = executor->program_bytes(handle);
    const int cached = executor->was_cached(handle);
    if (cached >= 0) program->was_cached = cached != 0;
    program->compiled = !kept;
    return program;
}

std::shared_ptr<Program> compile(const std::shared_ptr<Device> &device, const std::string &text,
                                 const py::object &blobs) {
    return make(device, text, blobs, nullptr);
}

void must_keep(const Device &device) {
    if (!device.executor->keep) throw py::value_error("[device] expected a device that keeps programs, got another.");
}

std::shared_ptr<Program> load_kept(const std::shared_ptr<Device> &device, const std::string &text,
                                   const py::object &blobs, const std::string &folder) {
    must_keep(*device);
    return make(device, text, blobs, folder.c_str());
}

void keep(const Program &program, const std::string &folder) {
    const std::shared_ptr<anefast_program> held = program.loaded();
    anefast_error error;
    must_keep(*program.device);
    if (program.device->executor->keep(held.get(), folder.c_str(), &error) != ANEFAST_OK) raise(error);
}

void compile_for(const Device &device, const std::string &target, const std::string &text, const py::object &blobs) {
    const Blobs files(blobs);
    anefast_error error;
    if (!device.executor->compile_for) {
        error.status = ANEFAST_UNAVAILABLE;
        std::snprintf(error.message, sizeof error.message,
                      "[device] expected a device with a compiler for other chips, got %s. Hint: a Mac's \"ane\" has.",
                      device.executor->name);
        raise(error);
    }
    anefast_status status;
    {
        WithoutGil free;
        calls::Scope under_way(CALL_COMPILE, naming);
        status = device.executor->compile_for(device.handle, target.c_str(), text.data(), text.size(), files.raw.data(),
                                              files.raw.size(), &error);
    }
    if (status != ANEFAST_OK) raise(error);
}

std::shared_ptr<Surface> make_surface(const std::shared_ptr<Device> &device, size_t bytes) {
    auto surface = std::make_shared<Surface>();
    surface->device = device;
    anefast_error error;
    if (device->executor->surface_create(device->handle, bytes, &surface->handle, &error) != ANEFAST_OK) raise(error);
    return surface;
}

void make_room(const Surface &surface, size_t bytes) {
    const auto room = surface.device->executor->surface_room;
    anefast_error error;
    if (room && room(surface.handle, bytes, &error) != ANEFAST_OK) raise(error);
}

py::array lock(const py::object &self, bool read_only) {
    auto &surface = self.cast<Surface &>();
    void *base = surface.lock(read_only);
    try {
        const auto n = static_cast<py::ssize_t>(surface.bytes());
        py::array_t<uint8_t> view({n}, {py::ssize_t{1}}, static_cast<uint8_t *>(base), self);
        if (read_only) py::detail::array_proxy(view.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
        return std::move(view);
    } catch (...) { // nobody would unlock it
        surface.unlock_quietly(read_only);
        throw;
    }
}

} // namespace

void init_device(py::module_ &m) {
    py::class_<Port>(m, "Port", "A function input or output as the program lays it out.")
        .def_readonly("name", &Port::name)
        .def_readonly("dtype", &Port::dtype)
        .def_property_readonly("shape", [](const Port &p) { return as_tuple(p.shape); })
        .def_property_readonly(
            "strides", [](const Port &p) { return as_tuple(p.strides); },
            "In bytes; rows start every 64-byte-rounded width.")
        .def_readonly("nbytes", &Port::bytes)
        .def("__repr__", [](const Port &p) {
            return "Port(" + p.name + ": " + p.dtype + " " + std::string(py::repr(as_tuple(p.shape))) + ", " +
                   std::to_string(p.bytes) + " bytes)";
        });

    py::class_<Surface, std::shared_ptr<Surface>>(
        m, "Surface", "Memory a device reads and writes; the CPU may touch it only while locked.")
        .def_property_readonly("nbytes", &Surface::bytes)
        .def("make_room", &make_room, py::arg("nbytes"),
             "Makes it that large inside, where the device wants surfaces of one size; nothing may use it meanwhile.")
        .def("lock", &lock, py::arg("read_only") = false,
             "Returns the bytes as a uint8 array, to use until unlock with the same read_only.")
        .def("unlock", &Surface::unlock, py::arg("read_only") = false)
        .def("__repr__", [](const Surface &s) { return "Surface(" + std::to_string(s.bytes()) + " bytes)"; });

    py::class_<Program, std::shared_ptr<Program>>(m, "Program", "A compiled program, loaded on its device.")
        .def_property_readonly("inputs", [](const Program &p) { return p.inputs; })
        .def_property_readonly("outputs", [](const Program &p) { return p.outputs; })
        .def_readonly("nbytes", &Program::bytes, "Weights and intermediate buffers, without surfaces.")
        .def("evaluate", &Program::evaluate, py::arg("inputs"), py::arg("outputs"), py::arg("label") = 0,
             py::arg("flops") = 0, py::arg("bytes") = 0, py::arg("extents") = std::vector<int64_t>{},
             "Runs once, synchronously. Surfaces are in the order of inputs and outputs; label, flops and bytes are "
             "for its "
             "span. extents: of each axis of each input, how much counts (csrc/anefast.h, evaluate_part); empty: all.")
        .def_property_readonly("tasks", &Program::tasks,
                               "What an evaluation runs, in order: fused operations are one task. Empty where the "
                               "device does not say.")
        .def_readonly("was_cached", &Program::was_cached,
                      "Whether the system still had it compiled; None where the device cannot say.")
        .def_readonly("compiled", &Program::compiled, "False where it was loaded from a folder of kept ones.")
        .def("keep", &keep, py::arg("folder"),
             "Writes what Device.load_kept takes into an empty folder. ValueError where the device keeps nothing.")
        .def("reload", &Program::reload,
             "Brings it back after DeviceError: loaded again, or compiled anew from what it was made of; True for the "
             "latter.")
        .def("unload", &Program::unload, "Raises EvaluationError where the device fails to; it is gone all the same.");

    py::class_<Device, std::shared_ptr<Device>>(m, "Device", "An executor that was opened.")
        .def(init_counted<Device, const std::string &, const std::string &>(), py::arg("name"), py::arg("options") = "")
        .def_property_readonly("name", [](const Device &d) { return d.executor->name; })
        .def_property_readonly("description", [](const Device &d) { return d.executor->describe(d.handle); })
        .def_property_readonly("label", [](const Device &d) { return d.executor->label(d.handle); })
        .def_property_readonly(
            "equal_surfaces", [](const Device &d) { return d.executor->surface_room != nullptr; },
            "Whether make_room does anything here.")
        .def_property_readonly(
            "takes_parts",
            [](const Device &d) { return d.executor->takes_parts && d.executor->takes_parts(d.handle) != 0; },
            "Whether an evaluation with extents costs less here.")
        .def("compile", &compile, py::arg("text"), py::arg("blobs"),
             "Compiles and loads MIL text; blobs map BLOBFILE paths to whole files, which are copied.")
        .def_property_readonly(
            "keeps", [](const Device &d) { return d.executor->keep != nullptr; },
            "Whether programs may be kept for other processes.")
        .def("load_kept", &load_kept, py::arg("text"), py::arg("blobs"), py::arg("folder"),
             "compile, of what Program.keep wrote of an equal program, without compiling. Raises what compile raises.")
        .def("compile_for", &compile_for, py::arg("target"), py::arg("text"), py::arg("blobs"),
             "Whether the system's compiler takes the text for another chip, \"h13\" to \"h18\": CompileError with its "
             "words where not, AneUnavailable where it cannot be asked. It may end the process.")
        .def("surface", &make_surface, py::arg("nbytes"), "Zero-filled memory for a port.")
        .def("__repr__", [](const Device &d) { return std::string("Device(") + d.executor->describe(d.handle) + ")"; });

    m.def(
        "calls_naming", [](uint32_t label) { return std::exchange(naming, label); }, py::arg("label"),
        "Programs that this thread compiles from now on have this label's name; returns the label before.");
    m.def(
        "calls_under_way",
        [] {
            const char *const KINDS[] = {"", "compile", "load", "evaluate", "unload"};
            const std::vector<std::string> names = span::labels();
            py::list all;
            for (const calls::Call &c : calls::under_way())
                all.append(
                    py::make_tuple(c.thread, c.number, KINDS[c.kind], names[c.label < names.size() ? c.label : 0]));
            return all;
        },
        "(thread, number, kind, program) of what threads are asking of a device now; the number tells one call of a "
        "thread from the next, the program is \"\" where it has no name.");
    m.def("calls_last_resort", &calls::last_resort, py::arg("seconds"), py::arg("line"),
          "Ends the process with this line and exit code 1 unless called again within so many seconds; 0: no more.");
    m.def(
        "ane_selectors",
        [] {
            py::list all;
            for (size_t i = 0; i < ANE_SELECTOR_COUNT; i++) {
                const ane_selector &s = ane_selectors()[i];
                all.append(py::make_tuple(s.owner, std::string(1, s.kind), s.selector, s.required != 0, s.found != 0,
                                          s.types));
            }
            return all;
        },
        "(class, + or -, selector, required, found, types) of every private method in use; found after a device "
        "\"ane\" was opened.");
}

} // namespace anefast::bind
