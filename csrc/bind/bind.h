// What the binding files share: argument checks and the way a C error becomes a Python exception.
// Nothing here computes. Read csrc/bind.cpp for the module, then one file per topic.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "../anefast.h"

namespace anefast::bind {

namespace py = pybind11;

using Arrays = std::vector<py::array>;
using Shape = std::vector<py::ssize_t>;

void init_errors(py::module_ &m);
void init_device(py::module_ &m);
void init_mil(py::module_ &m);
void init_arrays(py::module_ &m); // blobs, halves and the matrix product
void init_training(py::module_ &m);
void init_queue(py::module_ &m);
void init_optim(py::module_ &m);
void init_unstored(py::module_ &m);
void init_spans(py::module_ &m);
void init_probe(py::module_ &m);
void init_generate(py::module_ &m);

// Raises what `error` says: MILError, ValueError, CompileError, EvaluationError, AneUnavailable...
[[noreturn]] void raise(const anefast_error &error);
[[noreturn]] void raise_mil(int line, int column, const std::string &message);

// Text of any bytes, for a message may end in the middle of a character and a name hold anything.
py::str decoded(const std::string &text);

// A contiguous, readable view of any buffer, held until destroyed (with the GIL).
class View {
  public:
    View(const py::object &object, const char *where);
    ~View() { PyBuffer_Release(&view_); }
    View(const View &) = delete;
    View &operator=(const View &) = delete;
    const uint8_t *data() const { return static_cast<const uint8_t *>(view_.buf); }
    size_t bytes() const { return static_cast<size_t>(view_.len); }

  private:
    Py_buffer view_;
};

enum class Access { read, write };

// The elements of a C-contiguous array of exactly this dtype ("float16", ...) and shape, or a
// ValueError that says where, what was expected and what came. -1 in `shape` matches any length.
void *elements(const py::array &a, const char *where, const char *name, const char *dtype, const Shape &shape,
               Access access);

template <class T> T *elements_of(const py::array &a, const char *where, const char *name, const char *dtype,
                                  const Shape &shape, Access access = Access::read) {
    return static_cast<T *>(elements(a, where, name, dtype, shape, access));
}

std::string describe(const py::array &a); // "float32 (3, 4)"

// Without the GIL until the end of the block. A daemon thread that the interpreter has left behind stays here: Python
// ends it from inside by an exception that no destructor may let out, and what it holds is nobody's to touch.
class WithoutGil {
  public:
    WithoutGil() : state_(PyEval_SaveThread()) {}
    ~WithoutGil() {
        try {
            PyEval_RestoreThread(state_);
        } catch (...) {
            for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
        }
    }
    WithoutGil(const WithoutGil &) = delete;
    WithoutGil &operator=(const WithoutGil &) = delete;

  private:
    PyThreadState *const state_;
};

// Raises what a computation threw, in words that say which one: MemoryError, or RuntimeError.
[[noreturn]] void raise_failed(const std::string &where, const std::exception_ptr &error);

// Runs body() without the GIL. What it throws names `where`.
template <class Body> auto computing(const char *where, const Body &body) {
    std::exception_ptr error;
    {
        WithoutGil free;
        try {
            return body();
        } catch (const std::exception &) {
            error = std::current_exception();
        }
    }
    raise_failed(where, error);
}

// A base of what Python holds by shared_ptr. pybind11 marks a new Python object as the owner before it registers it,
// and where that finds no memory it frees the value itself, undestroyed, though the shared_ptr still holds it. So only
// the shared_ptr frees one of these: it is made by std::make_shared alone, and their own delete does nothing.
// Every class with a constructor is one: what py::init of a plain value throws at that point ends the process.
struct Counted {
    static void operator delete(void *) {}
};

// The constructor of such a class for Python.
template <class T, class... Arguments> auto init_counted() {
    static_assert(std::is_base_of_v<Counted, T>);
    return py::init([](Arguments... all) { return std::make_shared<T>(all...); });
}

// A surface of an open device. The device outlives it.
struct Device;
struct Surface : Counted {
    std::shared_ptr<Device> device;
    anefast_surface *handle = nullptr;
    ~Surface();
    size_t bytes() const;
    void *lock(bool read_only) const; // raises
    void unlock(bool read_only) const;
    void unlock_quietly(bool read_only) const; // for a lock we know we hold
};

// Surfaces locked for reading until it is let go, or destroyed.
class Reading {
  public:
    Reading() = default;
    ~Reading() { release(); }
    Reading(const Reading &) = delete;
    Reading &operator=(const Reading &) = delete;
    const uint16_t *add(const std::shared_ptr<Surface> &surface) {
        held_.push_back(surface); // first, for nothing may fail once it is locked
        try {
            return static_cast<const uint16_t *>(surface->lock(true));
        } catch (...) {
            held_.pop_back();
            throw;
        }
    }
    void release() noexcept {
        for (const auto &s : held_) s->unlock_quietly(true);
        held_.clear();
    }

  private:
    std::vector<std::shared_ptr<Surface>> held_;
};

} // namespace anefast::bind
