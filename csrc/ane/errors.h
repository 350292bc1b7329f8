// An NSError, or its absence, as one sentence with a hint. What is known about the framework's errors
// is the table in errors.m.
#ifndef ANEFAST_ANE_ERRORS_H
#define ANEFAST_ANE_ERRORS_H

#import <Foundation/Foundation.h>

#include "../error.h"

// "[ane] expected <expected>, got <domain, code and message>. Hint: <what is known about it>."
anefast_status ane_fail_with(anefast_error *error, anefast_status status, const char *expected, NSError *cause);

// True if the connection to the system's service broke. The service restarts by itself.
int ane_interrupted(NSError *cause);
// True if the error says that the device has no memory for a program.
int ane_no_room(NSError *cause);

#endif
