// Queue: parameter gradients summed from surfaces on the pool's background queue.
#include "bind.h"

#include <atomic>
#include <deque>
#include <functional>

#include "../cpu/pool.h"
#include "../cpu/weight_grad.h"
#include "../span.h"

namespace anefast::bind {

namespace {

// Weight gradients in the background. A job's surfaces stay locked for reading until it has run; its
// accumulator is kept alive until then and must not be read before wait().
class Queue {
  public:
    ~Queue() { finish(); }

    void weight_grad(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, const py::array &acc,
                     int64_t batch, int64_t seq, uint32_t label, bool fresh) {
        const char *where = "weight_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1, -1}, Access::write);
        const int64_t co = acc.shape(0), ci = acc.shape(1);
        span::Span timed(span::Component::DW_SUBMIT, label, 2 * batch * seq * co * ci);
        const auto *d = take(where, "dy", dy, batch, co, seq), *f = take(where, "x", x, batch, ci, seq, dy.get());
        submit(acc, a, {dy, x}, [=] { anefast::weight_grad(d, f, a, batch, seq, co, ci, fresh); });
    }

    void scale_grad(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, const py::array &acc,
                    int64_t batch, int64_t seq, uint32_t label, bool fresh) {
        span::Span timed(span::Component::DW_SUBMIT, label);
        const char *where = "scale_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1}, Access::write);
        const int64_t c = acc.shape(0);
        const auto *d = take(where, "dy", dy, batch, c, seq), *f = take(where, "x", x, batch, c, seq, dy.get());
        submit(acc, a, {dy, x}, [=] { anefast::scale_grad(d, f, a, batch, seq, c, fresh); });
    }

    void bias_grad(const std::shared_ptr<Surface> &dy, const py::array &acc, int64_t batch, int64_t seq, uint32_t label, bool fresh) {
        span::Span timed(span::Component::DW_SUBMIT, label);
        const char *where = "bias_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1}, Access::write);
        const int64_t c = acc.shape(0);
        const auto *d = take(where, "dy", dy, batch, c, seq);
        submit(acc, a, {dy}, [=] { anefast::bias_grad(d, a, batch, seq, c, fresh); });
    }

    void wait() {
        finish();
        if (!jobs_.empty())
            throw std::runtime_error("[queue] expected sums of this process, got some that its parent queued before it "
                                     "forked and has to itself. Hint: wait() first.");
    }

  private:
    void finish() {
        if (!jobs_.empty()) {
            span::Span timed(span::Component::DW_WAIT);
            py::gil_scoped_release free;
            Pool::shared().drain();
        }
        reap();
    }

    struct Job {
        py::array acc;
        std::shared_ptr<std::atomic<bool>> done;
    };

    // Locks a surface that holds at least (batch, channels, 1, seq) fp16 for reading. Where that fails, the
    // job's other surface, `locked`, is let go.
    static const uint16_t *take(const char *where, const char *name, const std::shared_ptr<Surface> &s, int64_t batch,
                                int64_t channels, int64_t seq, const Surface *locked = nullptr) {
        std::string wrong;
        const std::string place = std::string("[") + where + "] expected ";
        if (!s) wrong = place + name + " to be a surface, got None.";
        else if (batch < 1 || seq < 1 || seq % 32)
            wrong = place + "batch >= 1 and seq a positive multiple of 32, got " + std::to_string(batch) + " and " +
                    std::to_string(seq) + ".";
        else if (static_cast<int64_t>(s->bytes() / 2) / batch / seq < channels)
            wrong = place + name + " to hold (" + std::to_string(batch) + ", " + std::to_string(channels) + ", 1, " +
                    std::to_string(seq) + ") fp16, got a surface of " + std::to_string(s->bytes()) + " bytes.";
        if (!wrong.empty()) {
            if (locked) locked->unlock_quietly(true);
            throw py::value_error(wrong);
        }
        return static_cast<const uint16_t *>(s->lock(true));
    }

    void submit(const py::array &acc, const void *key, std::vector<std::shared_ptr<Surface>> surfaces,
                const std::function<void()> &start) {
        reap();
        auto done = std::make_shared<std::atomic<bool>>(false);
        jobs_.push_back({acc, done});
        py::gil_scoped_release free;
        start();
        // Behind the sums, on their key: it runs when they have.
        Pool::shared().enqueue(key, 1, [done, surfaces = std::move(surfaces)](int64_t) {
            for (const auto &s : surfaces) s->unlock_quietly(true);
            done->store(true, std::memory_order_release);
        });
    }

    void reap() { // needs the GIL: arrays are let go
        while (!jobs_.empty() && jobs_.front().done->load(std::memory_order_acquire)) jobs_.pop_front();
    }

    std::deque<Job> jobs_;
};

} // namespace

void init_queue(py::module_ &m) {
    using py::arg;
    py::class_<Queue>(m, "Queue", "Parameter gradients, summed on the CPU while the device works.")
        .def(py::init<>())
        .def("weight_grad", &Queue::weight_grad, arg("dy"), arg("x"), arg("acc"), arg("batch"), arg("seq"), arg("label") = 0,
             arg("fresh") = false,
             "acc (Co, Ci) fp32 += sum over b, s of dy[b, :, s] x[b, :, s]^T; fresh: = instead of +=.")
        .def("scale_grad", &Queue::scale_grad, arg("dy"), arg("x"), arg("acc"), arg("batch"), arg("seq"), arg("label") = 0,
             arg("fresh") = false,
             "acc (C,) fp32 += sum over b, s of dy * x.")
        .def("bias_grad", &Queue::bias_grad, arg("dy"), arg("acc"), arg("batch"), arg("seq"), arg("label") = 0,
             arg("fresh") = false,
             "acc (C,) fp32 += sum over b, s of dy.")
        .def("wait", &Queue::wait, "Runs what is left; accumulators may be read when it returns.");
}

} // namespace anefast::bind
