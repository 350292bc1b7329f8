/* What each thread is asking of a device at this moment, so that a watchdog can see a call that does not
 * return. A call costs two stores: whoever looks on brings the clock. The bindings say that a call
 * begins and ends; an executor says where one goes on with another kind. Read anefast/runtime/watchdog.py
 * next, which looks on. */
#ifndef ANEFAST_CALLS_H
#define ANEFAST_CALLS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { CALL_NONE, CALL_COMPILE, CALL_LOAD, CALL_EVALUATE, CALL_UNLOAD } call_kind;

/* label: the number of the program's name, as spans have it; 0 where it has none. Returns what to give to
 * call_end: calls nest. */
uint64_t call_begin(call_kind kind, uint32_t label);
void call_end(uint64_t before);
/* The call of this thread, if there is one, is of this kind from here on, and its time begins anew. */
void call_turn(call_kind kind);

#ifdef __cplusplus
}

#include <string>
#include <vector>

namespace anefast::calls {

struct Call {
    uintptr_t thread; // as Python numbers threads
    uint64_t number;  // another one for each call and turn of a thread
    call_kind kind;
    uint32_t label;
};

std::vector<Call> under_way(); // of all threads

// For calls that hang with the interpreter's lock, so that nobody in Python can look on: ends the process
// with `line` and exit code 1 once `seconds` pass without another call of this. 0 seconds: no more.
void last_resort(double seconds, const std::string &line);

struct Scope {
    Scope(call_kind kind, uint32_t label) : before(call_begin(kind, label)) {}
    ~Scope() { call_end(before); }
    Scope(const Scope &) = delete;
    Scope &operator=(const Scope &) = delete;
    const uint64_t before;
};

} // namespace anefast::calls
#endif
#endif
