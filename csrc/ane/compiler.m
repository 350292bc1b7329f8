// See compiler.h. The two functions and their arguments are those that the project named there calls; the
// names are in selectors.h.
#import "compiler.h"

#import <Foundation/Foundation.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#import "errors.h"
#import "folder.h"
#import "private.h"

enum { PATIENCE_S = 60 }; // for a verdict that is given after the call

// The compiler tells its verdict to a block. This is one spelled out, as clang's "Block Implementation
// Specification" has it, for gobjc has no blocks: a global one, which nobody copies.
extern void *_NSConcreteGlobalBlock[32];
enum { BLOCK_IS_GLOBAL = 1 << 28 };

typedef struct verdict {
    void *isa;
    int flags, reserved;
    void (*told)(struct verdict *, int status, NSDictionary *result);
    const struct block_size {
        unsigned long reserved, size;
    } *descriptor;
    pthread_mutex_t guard;
    pthread_cond_t changed;
    int is_told, status;
    char why[256];
} verdict;

static const struct block_size SIZE = {0, sizeof(verdict)};

static void told(verdict *v, int status, NSDictionary *result) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    id list = [result isKindOfClass:[NSDictionary class]] ? [result objectForKey:ANE_COMPILER_ERRORS] : nil;
    const char *why = [[list description] UTF8String];
    pthread_mutex_lock(&v->guard);
    v->status = status;
    snprintf(v->why, sizeof v->why, "%s", why ? why : "no reason");
    v->is_told = 1;
    pthread_cond_signal(&v->changed);
    pthread_mutex_unlock(&v->guard);
    [pool release];
}

static verdict *verdict_open(void) {
    verdict *v = calloc(1, sizeof *v);
    if (!v) return NULL;
    v->isa = _NSConcreteGlobalBlock;
    v->flags = BLOCK_IS_GLOBAL;
    v->told = told;
    v->descriptor = &SIZE;
    pthread_mutex_init(&v->guard, NULL);
    pthread_cond_init(&v->changed, NULL);
    return v;
}

static int verdict_wait(verdict *v) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&v->guard);
    int late = 0;
    while (!v->is_told && !late) late = pthread_cond_timedwait(&v->changed, &v->guard, &until);
    const int is_told = v->is_told;
    pthread_mutex_unlock(&v->guard);
    return is_told;
}

static void verdict_close(verdict *v) {
    pthread_cond_destroy(&v->changed);
    pthread_mutex_destroy(&v->guard);
    free(v);
}

typedef id (*make_input)(const char *path); // retained
typedef void (*compile_it)(id input, id options, verdict *block);

static anefast_status look_up(make_input *input, compile_it *compile, anefast_error *error) {
    void *library = ane_compiler_library();
    *input = library ? (make_input)dlsym(library, ANE_COMPILER_INPUT) : NULL;
    *compile = library ? (compile_it)dlsym(library, ANE_COMPILER_COMPILE) : NULL;
    if (*input && *compile) return ANEFAST_OK;
    return set_error(error, ANEFAST_UNAVAILABLE,
                     "[ane] expected %s and %s of the system's ANECompiler framework, got %s. Hint: this system's "
                     "compiler cannot be asked about other chips; everything else works without.",
                     ANE_COMPILER_INPUT, ANE_COMPILER_COMPILE, library ? "a framework without" : "no such framework");
}

// One verdict, with the program's files in `folder`.
static anefast_status ask(const char *target, NSString *folder, anefast_error *error) {
    make_input make;
    compile_it compile;
    anefast_status status = look_up(&make, &compile, error);
    if (status != ANEFAST_OK) return status;
    id raw = make([[folder stringByAppendingPathComponent:@"model.mil"] fileSystemRepresentation]);
    verdict *v = raw ? verdict_open() : NULL;
    if (!v) {
        [raw release];
        return set_error(error, ANEFAST_COMPILE, "[ane] expected %s to read the program, got nothing from it.",
                         ANE_COMPILER_INPUT);
    }
    NSMutableDictionary *input = [NSMutableDictionary dictionary];
    [input addEntriesFromDictionary:raw];
    [raw release];
    [input setObject:@"anefast.hwx" forKey:ANE_COMPILER_OUT_NAME];
    [input setObject:[folder stringByAppendingString:@"/"] forKey:ANE_COMPILER_OUT_FOLDER];
    NSDictionary *options = [NSDictionary dictionaryWithObject:[NSString stringWithUTF8String:target]
                                                        forKey:ANE_COMPILER_TARGET];
    NSError *thrown = nil;
    @try {
        compile(input, options, v);
    } @catch (id object) {
        thrown = ane_raised(object);
    }
    char expected[64];
    snprintf(expected, sizeof expected, "the compiler to take the program for %.16s", target);
    if (thrown) return ane_fail_with(error, ANEFAST_COMPILE, expected, thrown);
    if (!verdict_wait(v)) // and it stays: the compiler may tell it yet
        return set_error(error, ANEFAST_COMPILE, "[ane] expected %s, got no verdict in %d s.", expected, PATIENCE_S);
    if (v->status)
        status =
            set_error(error, ANEFAST_COMPILE, "[ane] expected %s, got status %d: %s.", expected, v->status, v->why);
    verdict_close(v);
    return status;
}

anefast_status ane_compile_for(const char *target, const char *text, size_t text_bytes, const anefast_blob *blobs,
                               size_t n_blobs, anefast_error *error) {
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    static unsigned long asked;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    NSData *data = [NSData dataWithBytes:text length:text_bytes];
    pthread_mutex_lock(&one_at_a_time);
    NSString *name = [NSString stringWithFormat:@"anefast_target_%d_%lu", (int)getpid(), asked++];
    anefast_status status = ANEFAST_COMPILE;
    ane_folder *folder = ane_folder_create(name, data, ane_weights(blobs, n_blobs), error);
    if (folder) {
        status = ask(target, ane_folder_path(folder), error);
        ane_folder_release(folder);
    } else if (error) {
        status = error->status;
    }
    pthread_mutex_unlock(&one_at_a_time);
    [pool release];
    return status;
}
