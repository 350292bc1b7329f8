// See private.h. The casts of objc_msgSend here are the only ones: each spells the types with which
// public projects are known to call that method.
#import "private.h"

#import <objc/message.h>
#import <objc/runtime.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../error.h"

static ane_selector table[ANE_SELECTOR_COUNT] = {
#define X(key, owner, kind, selector, required) {owner, selector, kind, required, 0, ""},
    ANE_SELECTORS(X)
#undef X
};
static Class classes[ANE_SELECTOR_COUNT];
static SEL selectors[ANE_SELECTOR_COUNT];
static const char *const OTHER_REQUESTS[] = {ANE_REQUEST_WITH_EVENTS, ANE_REQUEST_WITH_HANDLE};
enum { OTHERS = sizeof OTHER_REQUESTS / sizeof *OTHER_REQUESTS };
static SEL others[OTHERS]; // NULL where the framework has none
static int opened;
static pid_t opener;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

const ane_selector *ane_selectors(void) { return table; }

static void *library(const char *of_the_system) {
#ifdef ANEFAST_FAKE_ANE // test builds only: a shipped build opens the system's frameworks or none
    const char *path = getenv("ANEFAST_FAKE_ANE_PATH");
    return dlopen(path ? path : of_the_system, RTLD_NOW | RTLD_LOCAL);
#else
    return dlopen(of_the_system, RTLD_NOW | RTLD_LOCAL);
#endif
}

void *ane_compiler_library(void) { return library(ANE_COMPILER); }

static anefast_status unavailable(anefast_error *error, const char *expected, const char *got) {
    return set_error(error, ANEFAST_UNAVAILABLE,
                     "[ane] expected %s, got %s. Hint: anefast doctor lists what this system has; "
                     "device \"host\" runs the same programs.",
                     expected, got);
}

// Whether there is any other maker of requests.
static int look_up_others(Class request) {
    int found = 0;
    for (int i = 0; i < OTHERS; i++) {
        SEL name = sel_registerName(OTHER_REQUESTS[i]);
        others[i] = request && class_getClassMethod(request, name) ? name : NULL;
        found |= others[i] != NULL;
    }
    return found;
}

static anefast_status look_up(anefast_error *error) {
    char expected[512], got[256];
    if (!library(ANE_FRAMEWORK)) {
        const char *why = dlerror();
        return unavailable(error, "the system's AppleNeuralEngine framework", why ? why : "no reason from dlopen");
    }
    int missing = -1, more = 0;
    for (int i = 0; i < ANE_SELECTOR_COUNT; i++) {
        ane_selector *entry = &table[i];
        classes[i] = (Class)objc_getClass(entry->owner);
        selectors[i] = sel_registerName(entry->selector);
        Method method = NULL;
        if (classes[i])
            method = entry->kind == '+' ? class_getClassMethod(classes[i], selectors[i])
                                        : class_getInstanceMethod(classes[i], selectors[i]);
        entry->found = method != NULL;
        entry->types = method ? method_getTypeEncoding(method) : "";
        const int other = i == ANE_REQUEST && look_up_others(classes[i]);
        if (entry->required && !method && !other) {
            if (missing < 0) missing = i;
            else more++;
        }
    }
    if (missing >= 0) {
        const ane_selector *entry = &table[missing];
        snprintf(expected, sizeof expected, "the AppleNeuralEngine framework to have %c[%s %s]", entry->kind,
                 entry->owner, entry->selector);
        snprintf(got, sizeof got, "a framework without that %s%s", classes[missing] ? "method" : "class",
                 more ? ", nor others this project calls" : "");
        return unavailable(error, expected, got);
    }
    return ANEFAST_OK;
}

anefast_status ane_private_open(anefast_error *error) {
    if (ane_private_forked(error) != ANEFAST_OK) return ANEFAST_UNAVAILABLE;
    pthread_mutex_lock(&opening);
    const anefast_status status = opened ? ANEFAST_OK : look_up(error);
    opened = status == ANEFAST_OK;
    if (opened) opener = getpid();
    pthread_mutex_unlock(&opening);
    return status;
}

anefast_status ane_private_forked(anefast_error *error) {
    if (!opener || opener == getpid()) return ANEFAST_OK;
    return set_error(error, ANEFAST_UNAVAILABLE,
                     "[ane] expected the process that opened the framework, got a fork of it, where the system "
                     "forbids its use. Hint: start processes afresh, with multiprocessing's \"spawn\".");
}

NSError *ane_raised(id thrown) {
    NSString *name = @"an Objective-C exception", *reason = nil;
    if ([thrown isKindOfClass:[NSException class]]) {
        name = [thrown name];
        reason = [thrown reason];
    }
    if (!reason) reason = @"raised without a reason";
    return [NSError errorWithDomain:name
                               code:0
                           userInfo:[NSDictionary dictionaryWithObjectsAndKeys:reason, NSLocalizedDescriptionKey, nil]];
}

#define CALL(statement)                                                                                                \
    @try {                                                                                                             \
        statement;                                                                                                     \
    } @catch (id thrown) {                                                                                             \
        if (error) *error = ane_raised(thrown);                                                                        \
    }

id ane_descriptor(NSData *text, NSDictionary *weights, NSError **error) {
    id found = nil;
    CALL(found = ((id (*)(id, SEL, id, id, id))objc_msgSend)((id)classes[ANE_DESCRIBE], selectors[ANE_DESCRIBE], text,
                                                             weights, nil))
    return found;
}

id ane_model(id descriptor, NSError **error) {
    id found = nil;
    CALL(found = ((id (*)(id, SEL, id))objc_msgSend)((id)classes[ANE_MODEL], selectors[ANE_MODEL], descriptor))
    return found;
}

id ane_hex(id model, NSError **error) {
    id found = nil;
    CALL(found = ((id (*)(id, SEL))objc_msgSend)(model, selectors[ANE_HEX]))
    return found;
}

static BOOL step(id model, int which, uint32_t qos, NSError **error) {
    BOOL done = NO;
    CALL(done = ((BOOL (*)(id, SEL, uint32_t, id, NSError **))objc_msgSend)(model, selectors[which], qos,
                                                                            [NSDictionary dictionary], error))
    return done;
}

BOOL ane_compile(id model, uint32_t qos, NSError **error) { return step(model, ANE_COMPILE, qos, error); }
BOOL ane_load(id model, uint32_t qos, NSError **error) { return step(model, ANE_LOAD, qos, error); }

BOOL ane_evaluate(id model, uint32_t qos, id request, NSError **error) {
    BOOL done = NO;
    CALL(done = ((BOOL (*)(id, SEL, uint32_t, id, id, NSError **))objc_msgSend)(
             model, selectors[ANE_EVALUATE], qos, [NSDictionary dictionary], request, error))
    return done;
}

BOOL ane_unload(id model, uint32_t qos, NSError **error) {
    BOOL done = NO;
    CALL(done = ((BOOL (*)(id, SEL, uint32_t, NSError **))objc_msgSend)(model, selectors[ANE_UNLOAD], qos, error))
    return done;
}

int ane_compiled_exists(id model) {
    NSError *ignored = nil, **error = &ignored;
    int exists = -1;
    if (table[ANE_EXISTS].found) CALL(exists = ((BOOL (*)(id, SEL))objc_msgSend)(model, selectors[ANE_EXISTS]) ? 1 : 0)
    return exists;
}

id ane_attributes(id model) {
    NSError *ignored = nil, **error = &ignored;
    id found = nil;
    if (table[ANE_ATTRIBUTES].found) CALL(found = ((id (*)(id, SEL))objc_msgSend)(model, selectors[ANE_ATTRIBUTES]))
    return found;
}

id ane_wrap(IOSurfaceRef surface, NSError **error) {
    id found = nil;
    CALL(found = ((id (*)(id, SEL, IOSurfaceRef))objc_msgSend)((id)classes[ANE_WRAP], selectors[ANE_WRAP], surface))
    return found;
}

id ane_request(NSArray *inputs, NSArray *input_indices, NSArray *outputs, NSArray *output_indices, NSError **error) {
    const id class = (id)classes[ANE_REQUEST], first = [NSNumber numberWithInt:0];
    id found = nil;
    if (table[ANE_REQUEST].found)
        CALL(found = ((id (*)(id, SEL, id, id, id, id, id, id, id))objc_msgSend)(
                 class, selectors[ANE_REQUEST], inputs, input_indices, outputs, output_indices, nil, nil, first))
    if (!found && others[0])
        CALL(found = ((id (*)(id, SEL, id, id, id, id, id, id, id, id))objc_msgSend)(
                 class, others[0], inputs, input_indices, outputs, output_indices, nil, nil, first, nil))
    if (!found && others[1])
        CALL(found = ((id (*)(id, SEL, id, id, id, id, id, id, id, id, id))objc_msgSend)(
                 class, others[1], inputs, input_indices, outputs, output_indices, nil, nil, first, nil, nil))
    return found;
}

int ane_has_device(void) {
    NSError *ignored = nil, **error = &ignored;
    int has = -1;
    if (table[ANE_HAS_ANE].found)
        CALL(has = ((BOOL (*)(id, SEL))objc_msgSend)((id)classes[ANE_HAS_ANE], selectors[ANE_HAS_ANE]) ? 1 : 0)
    return has;
}

id ane_architecture(void) {
    NSError *ignored = nil, **error = &ignored;
    id found = nil;
    if (table[ANE_ARCHITECTURE].found)
        CALL(found = ((id (*)(id, SEL))objc_msgSend)((id)classes[ANE_ARCHITECTURE], selectors[ANE_ARCHITECTURE]))
    return [found isKindOfClass:[NSString class]] ? found : nil;
}

uint32_t ane_core_count(void) {
    NSError *ignored = nil, **error = &ignored;
    uint64_t cores = 0;
    if (table[ANE_CORES].found)
        CALL(cores = ((uint64_t (*)(id, SEL))objc_msgSend)((id)classes[ANE_CORES], selectors[ANE_CORES]))
    return (uint32_t)cores; // the method may be declared with 32 bits: the upper ones are not ours
}
