// The private framework as plain functions: what selectors.h names, opened, looked up and called.
//
// Each call here catches what Objective-C may raise and gives it back as an NSError, so that nothing
// unwinds through C++. A caller has an autorelease pool; results are autoreleased. Manual retain and
// release throughout csrc/ane, and only what Apple clang, clang with the GCC runtime and gobjc all
// take: no literals, subscripts, blocks, @autoreleasepool or classes of our own.
#ifndef ANEFAST_ANE_PRIVATE_H
#define ANEFAST_ANE_PRIVATE_H

#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include "../anefast.h"
#include "selectors.h"

#if defined(__has_feature)
#if __has_feature(objc_arc)
#error "csrc/ane counts its references by hand: build it with -fno-objc-arc"
#endif
#endif

// Opens the framework and fills the table, once per process. After a failure the next call tries again.
anefast_status ane_private_open(anefast_error *error);
// ANEFAST_UNAVAILABLE in a fork of the process that opened it: the system forbids its use there, and
// a thread that the fork does not have may hold a mutex.
anefast_status ane_private_forked(anefast_error *error);

// The system's ANECompiler framework, opened; NULL where there is none. compiler.m is who calls it.
void *ane_compiler_library(void);
// What was raised, as an error: its name for a domain.
NSError *ane_raised(id thrown);

id ane_descriptor(NSData *text, NSDictionary *weights, NSError **error); // nil without error: text refused
id ane_model(id descriptor, NSError **error);
id ane_hex(id model, NSError **error);
BOOL ane_compile(id model, uint32_t qos, NSError **error);
BOOL ane_load(id model, uint32_t qos, NSError **error);
BOOL ane_evaluate(id model, uint32_t qos, id request, NSError **error);
BOOL ane_unload(id model, uint32_t qos, NSError **error);
int ane_compiled_exists(id model); // 1, 0, or -1 where the framework cannot say
id ane_attributes(id model);       // nil where it has none
id ane_wrap(IOSurfaceRef surface, NSError **error);
// Surface objects and the numbers 0, 1, ... of each side.
id ane_request(NSArray *inputs, NSArray *input_indices, NSArray *outputs, NSArray *output_indices, NSError **error);

int ane_has_device(void);      // 1, 0, or -1 where the framework cannot say
id ane_architecture(void);     // "h13g", or nil
uint32_t ane_core_count(void); // 0 where unknown

#endif
