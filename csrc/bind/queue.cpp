// Queue: parameter gradients summed from surfaces on the pool's background queue.
#include "bind.h"

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "../cpu/pool.h"
#include "../cpu/weight_grad.h"
#include "../span.h"

namespace anefast::bind {

namespace {

// Weight gradients in the background. A job's surfaces stay locked for reading until it has run; its
// accumulator is kept alive until then and must not be read before wait(). Touched with the GIL held.
class Queue : public Counted {
  public:
    ~Queue() {
        finish();
        py::error_scope keep; // nobody waits for these sums; what is being raised already stays
        try {
            tell();
        } catch (py::error_already_set &error) {
            error.discard_as_unraisable("a Queue that was dropped");
        } catch (const std::exception &) { // no memory for the words
            PyErr_NoMemory();
            PyErr_WriteUnraisable(nullptr);
        }
    }

    void weight_grad(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, const py::array &acc,
                     int64_t batch, int64_t seq, uint32_t label, bool fresh) {
        const char *where = "weight_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1, -1}, Access::write);
        const int64_t co = acc.shape(0), ci = acc.shape(1);
        span::Span timed(span::Component::DW_SUBMIT, label, 2 * batch * seq * co * ci);
        auto job = std::make_shared<Job>(where, label);
        const auto *d = take(*job, "dy", dy, batch, co, seq), *f = take(*job, "x", x, batch, ci, seq);
        submit(acc, a, job, [=](FirstError &e) { anefast::weight_grad(d, f, a, batch, seq, co, ci, fresh, e); });
    }

    void scale_grad(const std::shared_ptr<Surface> &dy, const std::shared_ptr<Surface> &x, const py::array &acc,
                    int64_t batch, int64_t seq, uint32_t label, bool fresh) {
        span::Span timed(span::Component::DW_SUBMIT, label);
        const char *where = "scale_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1}, Access::write);
        const int64_t c = acc.shape(0);
        auto job = std::make_shared<Job>(where, label);
        const auto *d = take(*job, "dy", dy, batch, c, seq), *f = take(*job, "x", x, batch, c, seq);
        submit(acc, a, job, [=](FirstError &e) { anefast::scale_grad(d, f, a, batch, seq, c, fresh, e); });
    }

    void bias_grad(const std::shared_ptr<Surface> &dy, const py::array &acc, int64_t batch, int64_t seq, uint32_t label,
                   bool fresh) {
        span::Span timed(span::Component::DW_SUBMIT, label);
        const char *where = "bias_grad";
        auto *a = elements_of<float>(acc, where, "acc", "float32", {-1}, Access::write);
        const int64_t c = acc.shape(0);
        auto job = std::make_shared<Job>(where, label);
        const auto *d = take(*job, "dy", dy, batch, c, seq);
        submit(acc, a, job, [=](FirstError &e) { anefast::bias_grad(d, a, batch, seq, c, fresh, e); });
    }

    void wait() {
        const uint64_t asked = submitted_;
        finish();
        tell();
        if (reaped_ < asked)
            throw std::runtime_error("[queue] expected sums that this process queued, got some that its parent queued "
                                     "before the fork; only the parent has them. Hint: call wait() before you fork.");
    }

    uint64_t submitted() const { return submitted_; }

    // Whether the first `count` jobs have run. What went wrong in them is for wait() to tell.
    bool has_run(uint64_t count) {
        reap();
        return reaped_ >= count;
    }

  private:
    struct Job {
        Job(const char *where, uint32_t label) : where(where), label(label) {}
        const char *const where;
        const uint32_t label;
        Reading reading;
        FirstError error;
        std::atomic<bool> done{false};

        void end() noexcept {
            reading.release();
            done.store(true, std::memory_order_release);
        }
    };

    void finish() {
        if (!jobs_.empty()) {
            span::Span timed(span::Component::DW_WAIT);
            WithoutGil free;
            Pool::shared().drain();
        }
        reap();
    }

    // Raises the first of what went wrong, once. The sums of it, and any later ones onto them, are of no use.
    void tell() {
        const std::shared_ptr<Job> job = std::move(failed_);
        if (!job) return;
        const std::vector<std::string> labels = span::labels();
        const std::string name = job->label < labels.size() ? labels[job->label] : "";
        raise_failed(job->where + (name.empty() ? "" : " of " + name), job->error.error());
    }

    // Locks a surface that holds at least (batch, channels, 1, seq) fp16 for reading, until the job ends.
    static const uint16_t *take(Job &job, const char *name, const std::shared_ptr<Surface> &s, int64_t batch,
                                int64_t channels, int64_t seq) {
        std::string wrong;
        const std::string place = std::string("[") + job.where + "] expected ";
        if (!s) wrong = place + name + " to be a surface, got None.";
        else if (batch < 1 || seq < 1 || seq % 32)
            wrong = place + "batch >= 1 and seq a positive multiple of 32, got " + std::to_string(batch) + " and " +
                    std::to_string(seq) + ".";
        else if (static_cast<int64_t>(s->bytes() / 2) / batch / seq < channels)
            wrong = place + name + " to hold (" + std::to_string(batch) + ", " + std::to_string(channels) + ", 1, " +
                    std::to_string(seq) + ") fp16, got a surface of " + std::to_string(s->bytes()) + " bytes.";
        if (!wrong.empty()) throw py::value_error(wrong);
        return job.reading.add(s);
    }

    template <class Start>
    void submit(const py::array &acc, const void *key, const std::shared_ptr<Job> &job, const Start &start) {
        reap();
        jobs_.push_back({acc, job});
        submitted_++;
        computing(job->where, [&] {
            try {
                start(job->error);
                // Behind the sums, on their key: it runs when they have.
                Pool::shared().enqueue(key, 1, [job](int64_t) { job->end(); }, job->error);
            } catch (...) { // not all of it is queued: what is must be over before its operands go
                Pool::shared().drain();
                job->end();
                throw;
            }
        });
    }

    void reap() { // arrays are let go
        for (; !jobs_.empty() && jobs_.front().job->done.load(std::memory_order_acquire); jobs_.pop_front(), reaped_++)
            if (!failed_ && jobs_.front().job->error.any()) failed_ = jobs_.front().job;
    }

    struct Waiting {
        py::array acc;
        std::shared_ptr<Job> job;
    };
    std::deque<Waiting> jobs_;
    std::shared_ptr<Job> failed_; // the first, until it is raised
    uint64_t submitted_ = 0, reaped_ = 0;
};

} // namespace

void init_queue(py::module_ &m) {
    using py::arg;
    py::class_<Queue, std::shared_ptr<Queue>>(m, "Queue",
                                              "Parameter gradients, summed on the CPU while the device works.")
        .def(init_counted<Queue>())
        .def("weight_grad", &Queue::weight_grad, arg("dy"), arg("x"), arg("acc"), arg("batch"), arg("seq"),
             arg("label") = 0, arg("fresh") = false,
             "acc (Co, Ci) fp32 += sum over b, s of dy[b, :, s] x[b, :, s]^T; fresh: = instead of +=.")
        .def("scale_grad", &Queue::scale_grad, arg("dy"), arg("x"), arg("acc"), arg("batch"), arg("seq"),
             arg("label") = 0, arg("fresh") = false, "acc (C,) fp32 += sum over b, s of dy * x.")
        .def("bias_grad", &Queue::bias_grad, arg("dy"), arg("acc"), arg("batch"), arg("seq"), arg("label") = 0,
             arg("fresh") = false, "acc (C,) fp32 += sum over b, s of dy.")
        .def_property_readonly("submitted", &Queue::submitted, "How many sums were queued so far.")
        .def("has_run", &Queue::has_run, arg("count"),
             "Whether the first so many of them have run; wait() tells what failed.")
        .def("wait", &Queue::wait, "Runs what is left; accumulators may be read when it returns.");
}

} // namespace anefast::bind
