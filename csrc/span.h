// Spans: what each thread of the process did, and when. The source of every timeline and breakdown.
//
// A span costs one relaxed load while recording is off, two clock readings and a store while it is on.
// Each thread writes its own ring, so nothing is locked; spans_drain (csrc/bind/spans.cpp) empties all of
// them at once. What comes while a ring is full is added up by phase, component and label: no time is lost, only
// when each was. Not a profiler: the sites are chosen by hand,
// one line each, and add up to a training step. Read next: anefast/telemetry/timeline.py.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace anefast::span {

// What a span was spent on: the one list of names for C++, Python and every table. In the order in which a
// breakdown shows them.
#define ANEFAST_COMPONENTS(X)                                                                                          \
    X(DATA, "the next micro-batch: waited for, cut out of the tokens")                                                 \
    X(EMBEDDING, "token rows to the device, and their gradients added up")                                             \
    X(STAGE, "weights and values converted or copied into surfaces and weight files")                                  \
    X(LOCK, "surfaces locked and unlocked")                                                                            \
    X(EVALUATE, "programs evaluated by the device")                                                                    \
    X(READ_BACK, "values copied out of packed surfaces")                                                               \
    X(ELEMENTWISE, "final norm and its gradient; residual adds are inside the programs")                               \
    X(CLASSIFIER, "logits, their exponentials and their two gradients")                                                \
    X(CROSS_ENTROPY, "loss from sums of exponentials")                                                                 \
    X(DW_SUBMIT, "weight gradients handed to the queue")                                                               \
    X(DW_RUN, "weight gradients multiplied and accumulated")                                                           \
    X(DW_WAIT, "waiting for weight gradients")                                                                         \
    X(DW_QUEUED, "weight gradients in the queue before they started")                                                  \
    X(COMMUNICATION, "ranks waited for, gradients summed over them")                                                   \
    X(OPTIMIZER, "gradient norm, clipping and update")                                                                 \
    X(HEALTH, "numeric health looked at")                                                                              \
    X(COMPILE, "programs compiled, loaded and unloaded")                                                               \
    X(COMPILE_WAIT, "waiting for a compile in the background")                                                         \
    X(CHECKPOINT, "weights and moments written to disk")                                                               \
    X(TELEMETRY, "spans collected, rows handed to the writer")

enum class Component : uint8_t {
#define ANEFAST_NAME(name, meaning) name,
    ANEFAST_COMPONENTS(ANEFAST_NAME)
#undef ANEFAST_NAME
};

// Which part of a run a thread is in. Weight gradients are BACKWARD whoever waits for them.
#define ANEFAST_PHASES(X)                                                                                              \
    X(BETWEEN, "between updates")                                                                                      \
    X(FORWARD, "forward pass, to the loss")                                                                            \
    X(BACKWARD, "backward pass, from the gradient of the logits")                                                      \
    X(UPDATE, "new weights from the gradients, and onto the device")                                                   \
    X(VALIDATION, "loss on held-out data")                                                                             \
    X(SAVE, "a checkpoint")

enum class Phase : uint8_t {
#define ANEFAST_NAME(name, meaning) name,
    ANEFAST_PHASES(ANEFAST_NAME)
#undef ANEFAST_NAME
};

// Times are nanoseconds of now(). `self` leaves out the spans inside this one on the same thread, so that
// the selves of a thread add up to its covered time.
struct Record {
    int64_t start, end, self;
    uint64_t flops, bytes; // 0 where unknown
    uint32_t label;        // of label(), 0 for none
    uint32_t count;        // more than 1: that many spans added up; end - start is their sum
    uint16_t thread;
    uint8_t component, phase;
};

extern std::atomic<bool> recording;

inline bool on() { return recording.load(std::memory_order_relaxed); }
inline int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

class Span {
  public:
    explicit Span(Component component, uint32_t label = 0, uint64_t flops = 0, uint64_t bytes = 0) {
        if (on()) begin(component, label, flops, bytes);
    }
    ~Span() {
        if (start_) end();
    }
    Span(const Span &) = delete;
    Span &operator=(const Span &) = delete;

  private:
    void begin(Component component, uint32_t label, uint64_t flops, uint64_t bytes);
    void end();

    int64_t start_ = 0, outer_inner_;
    uint64_t flops_, bytes_;
    uint32_t label_, outer_label_;
    Component component_;
};

// What this thread does from here on belongs to `phase`. Returns the one before.
Phase set_phase(Phase phase);

class InPhase { // until the end of the block
  public:
    explicit InPhase(Phase phase) : before_(set_phase(phase)) {}
    ~InPhase() { set_phase(before_); }
    InPhase(const InPhase &) = delete;
    InPhase &operator=(const InPhase &) = delete;

  private:
    Phase before_;
};

// A job's way through a queue: taken where it is submitted, with the label of the span around that.
struct Ticket {
    int64_t queued = 0; // 0: recording was off
    uint32_t label = 0;
};
Ticket ticket();
void started(const Ticket &ticket); // records DW_QUEUED, from submission to now

uint32_t label(const std::string &name); // the same number for the same name, from 1
std::vector<std::string> labels();       // by number; [0] is ""

uint16_t thread();                                       // number of this thread
void name_thread(const char *name);                      // for traces
std::vector<std::pair<uint16_t, std::string>> threads(); // all that ever recorded

void drain(std::vector<Record> &to); // appends what all threads recorded since the last call
uint64_t dropped();                  // spans lost so far, for want of memory

} // namespace anefast::span
