// The module anefast._C. The bindings are the only code that knows pybind11: this file opens the
// module and turns statuses into exceptions; csrc/bind/ holds one file per topic.
#include "bind/bind.h"

namespace anefast::bind {

namespace {

struct Errors {
    py::object mil, compile, load, evaluation, device, unavailable;
};

Errors &errors() { // leaked on purpose: exceptions may outlive the interpreter's module teardown
    static Errors *all = new Errors();
    return *all;
}

// `base`: a class, or a tuple of classes.
py::object make(py::module_ &m, const char *name, const py::object &base, const char *doc) {
    std::string full = std::string("anefast._C.") + name;
    auto cls = py::reinterpret_steal<py::object>(PyErr_NewExceptionWithDoc(full.c_str(), doc, base.ptr(), nullptr));
    if (!cls) throw py::error_already_set();
    m.attr(name) = cls;
    return cls;
}

py::object builtin(PyObject *cls) { return py::reinterpret_borrow<py::object>(cls); }

[[noreturn]] void throw_python(py::handle cls, const std::string &message) {
    PyErr_SetObject(cls.ptr(), decoded(message).ptr());
    throw py::error_already_set();
}

std::string no_memory(const std::string &where) {
    return "[" + where +
           "] expected memory to work in, got none. Hint: a smaller batch, shorter sequences, or a machine "
           "with more.";
}

} // namespace

py::str decoded(const std::string &text) {
    PyObject *made = PyUnicode_DecodeUTF8(text.data(), static_cast<py::ssize_t>(text.size()), "replace");
    if (!made) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(made);
}

void init_errors(py::module_ &m) {
    py::object bad = builtin(PyExc_ValueError), failure = builtin(PyExc_RuntimeError), base = failure;
    if (std::string(py::str(m.attr("__name__"))) == "anefast._C") { // tests also load this file alone
        py::module_ ours = py::module_::import("anefast.errors");   // which imports nothing of ours
        bad = ours.attr("BadInput");
        failure = ours.attr("Failure");
        base = py::make_tuple(ours.attr("AnefastError"), base);
    }
    errors().mil =
        make(m, "MILError", bad, "MIL text or a blob was refused; line and column are 1-based, 0 if unknown.");
    errors().mil.attr("line") = 0;
    errors().mil.attr("column") = 0;
    errors().compile = make(m, "CompileError", failure, "Well-formed MIL that this device cannot compile or load.");
    errors().load = make(m, "LoadError", errors().compile, "It compiled, and the device has no room to load it.");
    errors().evaluation = make(m, "EvaluationError", failure, "An evaluation failed.");
    errors().device = make(m, "DeviceError", errors().evaluation,
                           "The device failed an evaluation that was in order; Program.reload may help.");
    errors().unavailable = make(m, "AneUnavailable", base, "This machine has no such device; the message says why.");
    // Out of memory where nothing says better what for.
    py::register_exception_translator([](std::exception_ptr error) {
        try {
            if (error) std::rethrow_exception(error);
        } catch (const std::bad_alloc &) {
            PyErr_SetString(PyExc_MemoryError, no_memory("native").c_str());
        }
    });
}

void raise_mil(int line, int column, const std::string &message) {
    py::object instance = errors().mil(decoded(message)); // which says the position itself
    instance.attr("line") = line;
    instance.attr("column") = column;
    PyErr_SetObject(errors().mil.ptr(), instance.ptr());
    throw py::error_already_set();
}

void raise(const anefast_error &error) {
    std::string message = error.message;
    std::string at =
        error.line > 0 ? " (line " + std::to_string(error.line) + ", column " + std::to_string(error.column) + ")" : "";
    switch (error.status) {
    case ANEFAST_MIL: raise_mil(error.line, error.column, message);
    case ANEFAST_COMPILE: throw_python(errors().compile, message + at);
    case ANEFAST_LOAD: throw_python(errors().load, message);
    case ANEFAST_DEVICE: throw_python(errors().device, message);
    case ANEFAST_EVALUATE: throw_python(errors().evaluation, message);
    case ANEFAST_UNAVAILABLE: throw_python(errors().unavailable, message);
    case ANEFAST_MEMORY: throw_python(PyExc_MemoryError, message);
    case ANEFAST_INVALID:
    case ANEFAST_OK: break;
    }
    throw_python(PyExc_ValueError, message);
}

void raise_failed(const std::string &where, const std::exception_ptr &error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::bad_alloc &) {
        throw_python(PyExc_MemoryError, no_memory(where));
    } catch (const std::exception &e) {
        throw_python(PyExc_RuntimeError, "[" + where + "] failed: " + e.what());
    }
}

View::View(const py::object &object, const char *where) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
        PyErr_Clear();
        throw py::value_error(std::string("[") + where + "] expected a contiguous buffer, got " +
                              std::string(py::str(py::type::of(object))) +
                              ". Hint: pass bytes or a C-contiguous array.");
    }
}

std::string describe(const py::array &a) {
    std::string s = std::string(py::str(a.dtype())) + " (";
    for (py::ssize_t i = 0; i < a.ndim(); i++) {
        if (i) s += ", ";
        s += std::to_string(a.shape(i));
    }
    return s + ")";
}

void *elements(const py::array &a, const char *where, const char *name, const char *dtype, const Shape &shape,
               Access access) {
    const bool is_dtype = a.dtype().is(py::dtype(dtype)) || a.dtype().equal(py::dtype(dtype));
    bool is_shape = a.ndim() == static_cast<py::ssize_t>(shape.size());
    py::ssize_t axis = 0;
    for (py::ssize_t n : shape) {
        is_shape = is_shape && (n < 0 || a.shape(axis) == n);
        axis++;
    }
    const std::string place = std::string("[") + where + "] expected " + name + " to be ";
    if (!is_dtype || !is_shape) {
        std::string want = std::string(dtype) + " (";
        for (py::ssize_t n : shape)
            want += (want.back() == '(' ? "" : ", ") + (n < 0 ? std::string("any") : std::to_string(n));
        throw py::value_error(place + want + "), got " + describe(a) + ".");
    }
    if (!(a.flags() & py::array::c_style))
        throw py::value_error(place + "C-contiguous, got strides. Hint: np.ascontiguousarray.");
    if (access == Access::write && !a.writeable())
        throw py::value_error(place + "writable, got a read-only array. Hint: lock the surface for writing.");
    return const_cast<void *>(a.data());
}

} // namespace anefast::bind

PYBIND11_MODULE(_C, m) {
    m.doc() = "The native side of anefast: devices, programs, surfaces, blobs and the CPU's kernels.";
    using namespace anefast::bind;
    init_errors(m);
    init_device(m);
    init_mil(m);
    init_arrays(m);
    init_optim(m);
    init_unstored(m);
    init_training(m);
    init_queue(m);
    init_spans(m);
    init_probe(m);
    init_generate(m);
}
