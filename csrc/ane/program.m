// See program.h.
#import "program.h"

#import <Foundation/Foundation.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../calls.h"
#include "../surfaces.h"
#import "errors.h"
#import "folder.h"
#import "layout.h"
#import "private.h"
#import "surface.h"

enum { RETRY_MS = 100, TRIES = 3 }; // a first load right after a compile was seen to fail once

// A request, and the surfaces it was built for: ids of the inputs, then of the outputs.
typedef struct request {
    struct request *next;
    id object;
    uint64_t ids[];
} request;

struct anefast_program {
    pthread_mutex_t running; // evaluations of one program are one after another
    id model;
    int gone;              // the device holds nothing of it any more
    int forgotten;         // the service ended while it was compiled or loaded, or knows nothing of it
    NSData *text;          // with `weights` what it was made of, which
    NSDictionary *weights; // the framework's own description keeps too
    ane_folder *folder;
    ane_ports ports;
    uint32_t qos;
    size_t bytes;
    int was_cached;
    request *requests;
    struct anefast_program *next; // of all loaded programs
};

// Guards every program's requests and the list of programs; held for no call that takes long.
static pthread_mutex_t keeping = PTHREAD_MUTEX_INITIALIZER;
static anefast_program *loaded;
static unsigned long compiles; // of this process, under `keeping`

static void drop(request *r) {
    [r->object release];
    free(r);
}

static void drop_model(anefast_program *p) {
    [p->model release];
    p->model = nil;
    if (p->folder) ane_folder_release(p->folder);
    p->folder = NULL;
}

static void free_program(anefast_program *p) {
    while (p->requests) {
        request *r = p->requests;
        p->requests = r->next;
        drop(r);
    }
    drop_model(p);
    [p->text release];
    [p->weights release];
    ane_ports_free(&p->ports);
    pthread_mutex_destroy(&p->running);
    free(p);
}

static anefast_status make_model(anefast_program *p, anefast_error *error) {
    NSError *cause = nil;
    id descriptor = ane_descriptor(p->text, p->weights, &cause);
    if (!descriptor && !cause)
        return set_error(error, ANEFAST_MIL,
                         "[ane] expected MIL text the system's parser accepts, got no descriptor from it, and it gives "
                         "no reason. Hint: this system may be older than the text's dialect or one of its ops; "
                         "anefast lint knows the usual causes.");
    if (!descriptor) return ane_fail_with(error, ANEFAST_MIL, "MIL text the system's parser accepts", cause);
    p->model = [ane_model(descriptor, &cause) retain];
    if (!p->model) return ane_fail_with(error, ANEFAST_COMPILE, "a model of the program's descriptor", cause);
    NSString *hex = ane_hex(p->model, &cause);
    // It becomes a folder's name below, so it has to be one.
    if (![hex isKindOfClass:[NSString class]] || ![hex length] || [hex hasPrefix:@"."] ||
        [hex rangeOfString:@"/"].length)
        return ane_fail_with(error, ANEFAST_COMPILE, "an identifier of the program that can name a folder", cause);
    p->was_cached = ane_compiled_exists(p->model);
    p->folder = ane_folder_create(hex, p->text, p->weights, error);
    return p->folder ? ANEFAST_OK : error ? error->status : ANEFAST_COMPILE;
}

// Before the framework looks for the program's files. Whether any had to be written again.
static int restored(anefast_program *p) {
    int missing = 0;
    return ane_folder_restore(p->folder, p->text, p->weights, &missing, NULL) == ANEFAST_OK && missing;
}

static void wait_a_little(void) {
    const struct timespec wait = {0, RETRY_MS * 1000000L};
    nanosleep(&wait, NULL);
}

static anefast_status load(anefast_program *p, anefast_error *error) {
    NSError *cause = nil;
    call_turn(CALL_LOAD);
    if (ane_load(p->model, p->qos, &cause)) return ANEFAST_OK;
    wait_a_little();
    restored(p);
    cause = nil;
    if (ane_load(p->model, p->qos, &cause)) return ANEFAST_OK;
    p->forgotten = !ane_no_room(cause);
    return ane_fail_with(error, ANEFAST_LOAD, "a compiled program to load, tried twice", cause);
}

// Again where the files went away meanwhile. Nothing else is tried again: each failed compile holds up the
// next ones.
static BOOL compile(anefast_program *p, NSError **cause) {
    for (int left = TRIES; left--;) {
        *cause = nil;
        if (ane_compile(p->model, p->qos, cause)) return YES;
        p->forgotten = ane_interrupted(*cause);
        if (p->forgotten || !restored(p)) break;
        wait_a_little(); // whoever cleans up may not be done
    }
    return NO;
}

static anefast_status load_and_read(anefast_program *p, anefast_error *error) {
    NSError *ignored = nil;
    anefast_status status = load(p, error);
    if (status != ANEFAST_OK) return status;
    status = ane_layout_apply(ane_attributes(p->model), &p->ports, error);
    if (status != ANEFAST_OK) ane_unload(p->model, p->qos, &ignored); // the first error is the one to tell
    return status;
}

static anefast_status compile_and_load(anefast_program *p, anefast_error *error) {
    NSError *cause = nil;
    pthread_mutex_lock(&keeping);
    const unsigned long before = compiles++;
    pthread_mutex_unlock(&keeping);
    call_turn(CALL_COMPILE);
    if (!compile(p, &cause)) {
        char expected[96];
        snprintf(expected, sizeof expected, "the program to compile, after %lu compiles of this process", before);
        return ane_fail_with(error, ANEFAST_COMPILE, expected, cause);
    }
    return load_and_read(p, error);
}

// From text and weights to a loaded program; once more where the service ended on the way, perhaps in
// another thread's call: the next one knows nothing of what was done.
static anefast_status build(anefast_program *p, anefast_error *error) {
    anefast_status status = make_model(p, error);
    p->forgotten = 0;
    if (status == ANEFAST_OK) status = compile_and_load(p, error);
    if (status == ANEFAST_OK || !p->forgotten) return status;
    drop_model(p);
    wait_a_little();
    status = make_model(p, error);
    return status == ANEFAST_OK ? compile_and_load(p, error) : status;
}

// The same without compiling, of files that another process has kept.
static anefast_status bring(anefast_program *p, NSString *kept, anefast_error *error) {
    anefast_status status = make_model(p, error);
    if (status == ANEFAST_OK) status = ane_folder_bring(p->folder, kept, error);
    return status == ANEFAST_OK ? load_and_read(p, error) : status;
}

// kept: a folder to load from, NULL to compile.
static anefast_status make(uint32_t qos, const char *text, size_t text_bytes, const anefast_blob *blobs, size_t n_blobs,
                           const char *kept, anefast_program **program, anefast_error *error) {
    *program = NULL;
    anefast_program *p = calloc(1, sizeof *p);
    if (!p) return set_error(error, ANEFAST_MEMORY, "[ane] expected memory for a program's record, got none.");
    pthread_mutex_init(&p->running, NULL);
    p->qos = qos;
    for (size_t i = 0; i < n_blobs; i++) p->bytes += blobs[i].bytes;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    p->text = [[NSData dataWithBytes:text length:text_bytes] retain];
    p->weights = [ane_weights(blobs, n_blobs) retain];
    anefast_status status = ane_ports_read(text, text_bytes, blobs, n_blobs, &p->ports, error);
    if (status == ANEFAST_OK) status = kept ? bring(p, [NSString stringWithUTF8String:kept], error) : build(p, error);
    if (status == ANEFAST_OK) {
        pthread_mutex_lock(&keeping);
        p->next = loaded;
        loaded = p;
        pthread_mutex_unlock(&keeping);
        *program = p;
    } else {
        free_program(p);
    }
    [pool release];
    return status;
}

anefast_status ane_program_compile(uint32_t qos, const char *text, size_t text_bytes, const anefast_blob *blobs,
                                   size_t n_blobs, anefast_program **program, anefast_error *error) {
    return make(qos, text, text_bytes, blobs, n_blobs, NULL, program, error);
}

anefast_status ane_program_load_kept(uint32_t qos, const char *text, size_t text_bytes, const anefast_blob *blobs,
                                     size_t n_blobs, const char *folder, anefast_program **program,
                                     anefast_error *error) {
    return make(qos, text, text_bytes, blobs, n_blobs, folder, program, error);
}

anefast_status ane_program_keep(const anefast_program *p, const char *folder, anefast_error *error) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    const anefast_status status =
        ane_folder_keep(p->folder, p->text, p->weights, [NSString stringWithUTF8String:folder], error);
    [pool release];
    return status;
}

size_t ane_program_inputs(const anefast_program *program, const anefast_port **ports) {
    *ports = program->ports.inputs;
    return program->ports.n_inputs;
}

size_t ane_program_outputs(const anefast_program *program, const anefast_port **ports) {
    *ports = program->ports.outputs;
    return program->ports.n_outputs;
}

size_t ane_program_bytes(const anefast_program *program) { return program->bytes; }
int ane_program_was_cached(const anefast_program *program) { return program->was_cached; }

// A program that the system took away meanwhile cannot be unloaded, and need not be: it is one that loads
// again and then unloads, or that the device does not know any more.
static BOOL unload(anefast_program *p, NSError **cause) {
    NSError *ignored = nil;
    if (p->gone || ane_unload(p->model, p->qos, cause)) return YES;
    if (!ane_load(p->model, p->qos, &ignored)) return YES;
    return ane_unload(p->model, p->qos, &ignored);
}

anefast_status ane_program_unload(anefast_program *p, anefast_error *error) {
    anefast_status status = ANEFAST_OK;
    NSError *cause = nil;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    pthread_mutex_lock(&keeping);
    for (anefast_program **at = &loaded; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    pthread_mutex_unlock(&keeping);
    restored(p); // it was seen to look for them
    if (!unload(p, &cause)) status = ane_fail_with(error, ANEFAST_EVALUATE, "a program to unload", cause);
    free_program(p);
    [pool release];
    return status;
}

// 1) programs that the device has lost

// A copy of how ports are laid out, to see whether it is still so; NULL where there is no memory.
static anefast_port *copy_of(const anefast_port *ports, size_t n) {
    anefast_port *copy = malloc((n ? n : 1) * sizeof *copy);
    if (copy) memcpy(copy, ports, n * sizeof *copy);
    return copy;
}

static int same_layout(const anefast_port *a, const anefast_port *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (a[i].bytes != b[i].bytes || memcmp(a[i].strides, b[i].strides, sizeof a[i].strides)) return 0;
    return 1;
}

// A new model of the same text and weights in place of p->model, which is kept where that fails.
static anefast_status compile_anew(anefast_program *p, anefast_error *error) {
    const ane_ports *ports = &p->ports;
    anefast_port *inputs = copy_of(ports->inputs, ports->n_inputs),
                 *outputs = copy_of(ports->outputs, ports->n_outputs);
    id model = p->model;
    ane_folder *folder = p->folder;
    p->model = nil;
    p->folder = NULL;
    anefast_status status =
        inputs && outputs ? build(p, error) : set_error(error, ANEFAST_MEMORY, "[ane] no memory to compile anew.");
    if (status == ANEFAST_OK && !(same_layout(inputs, ports->inputs, ports->n_inputs) &&
                                  same_layout(outputs, ports->outputs, ports->n_outputs))) {
        NSError *ignored = nil;
        ane_unload(p->model, p->qos, &ignored);
        status = set_error(error, ANEFAST_COMPILE,
                           "[ane] expected the program compiled anew to have its ports as "
                           "before, got other strides. Hint: start the run again.");
    }
    free(inputs);
    free(outputs);
    if (status != ANEFAST_OK) {
        drop_model(p);
        p->model = model;
        p->folder = folder;
    } else {
        [model release];
        ane_folder_release(folder);
    }
    return status;
}

anefast_status ane_program_reload(anefast_program *p, int *compiled, anefast_error *error) {
    anefast_status status = ANEFAST_OK;
    NSError *ignored = nil;
    *compiled = 0;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    pthread_mutex_lock(&p->running);
    pthread_mutex_lock(&keeping);
    while (p->requests) { // of the program as it was
        request *r = p->requests;
        p->requests = r->next;
        drop(r);
    }
    pthread_mutex_unlock(&keeping);
    restored(p);
    ane_unload(p->model, p->qos, &ignored); // whatever the device still has of it
    if (!ane_load(p->model, p->qos, &ignored)) {
        status = compile_anew(p, error);
        *compiled = 1;
    }
    p->gone = status != ANEFAST_OK;
    pthread_mutex_unlock(&p->running);
    [pool release];
    return status;
}

// 2) requests

static void ids_of(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs,
                   uint64_t *ids) {
    for (size_t i = 0; i < n_inputs; i++) ids[i] = inputs[i]->id;
    for (size_t i = 0; i < n_outputs; i++) ids[n_inputs + i] = outputs[i]->id;
}

static BOOL wrap_all(anefast_surface *const *surfaces, size_t n, NSMutableArray *objects, NSMutableArray *indices,
                     NSError **cause) {
    for (size_t i = 0; i < n; i++) {
        id object = ane_wrap(surfaces[i]->ref, cause);
        if (!object) return NO;
        [objects addObject:object];
        [indices addObject:[NSNumber numberWithUnsignedInteger:i]];
    }
    return YES;
}

// The program's request for these surfaces, made at the first evaluation with them. Retained for the
// caller, because a surface may be freed, and its requests with it, the moment `keeping` is let go.
static id request_for(anefast_program *p, anefast_surface *const *inputs, anefast_surface *const *outputs,
                      NSError **cause) {
    const size_t n = p->ports.n_inputs + p->ports.n_outputs;
    request *made = malloc(sizeof *made + n * sizeof(uint64_t));
    if (!made) return nil;
    ids_of(inputs, p->ports.n_inputs, outputs, p->ports.n_outputs, made->ids);
    pthread_mutex_lock(&keeping);
    request *found = p->requests;
    while (found && memcmp(found->ids, made->ids, n * sizeof(uint64_t))) found = found->next;
    if (found) {
        free(made);
    } else {
        NSMutableArray *in = [NSMutableArray array], *in_at = [NSMutableArray array];
        NSMutableArray *out = [NSMutableArray array], *out_at = [NSMutableArray array];
        made->object = nil;
        if (wrap_all(inputs, p->ports.n_inputs, in, in_at, cause) &&
            wrap_all(outputs, p->ports.n_outputs, out, out_at, cause))
            made->object = [ane_request(in, in_at, out, out_at, cause) retain];
        if (made->object) {
            made->next = p->requests;
            p->requests = made;
            found = made;
        } else {
            free(made);
        }
    }
    id object = found ? [found->object retain] : nil;
    pthread_mutex_unlock(&keeping);
    return object;
}

void ane_program_forget(const anefast_surface *surface) {
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    pthread_mutex_lock(&keeping);
    for (anefast_program *p = loaded; p; p = p->next) {
        const size_t n = p->ports.n_inputs + p->ports.n_outputs;
        for (request **at = &p->requests; *at;) {
            request *r = *at;
            int names_it = 0;
            for (size_t i = 0; i < n; i++) names_it |= r->ids[i] == surface->id;
            if (names_it) {
                *at = r->next;
                drop(r);
            } else {
                at = &r->next;
            }
        }
    }
    pthread_mutex_unlock(&keeping);
    [pool release];
}

// 3) evaluation

static anefast_status run(anefast_program *p, anefast_surface *const *inputs, anefast_surface *const *outputs,
                          anefast_error *error) {
    NSError *cause = nil;
    id request = request_for(p, inputs, outputs, &cause);
    if (!request) return ane_fail_with(error, ANEFAST_EVALUATE, "a request for these surfaces", cause);
    const BOOL done = ane_evaluate(p->model, p->qos, request, &cause);
    [request release];
    return done ? ANEFAST_OK : ane_fail_with(error, ANEFAST_DEVICE, "an evaluation to succeed", cause);
}

anefast_status ane_program_evaluate(anefast_program *p, anefast_surface *const *inputs, size_t n_inputs,
                                    anefast_surface *const *outputs, size_t n_outputs, anefast_error *error) {
    const ane_ports *ports = &p->ports;
    anefast_status status =
        surfaces_check("input", ports->inputs, ports->n_inputs, inputs, n_inputs, ane_surface_bytes, error);
    if (status == ANEFAST_OK)
        status =
            surfaces_check("output", ports->outputs, ports->n_outputs, outputs, n_outputs, ane_surface_bytes, error);
    if (status != ANEFAST_OK) return status;
    pthread_mutex_lock(&p->running);
    size_t which = 0;
    int is_output = 0;
    const char *why = ane_surfaces_acquire(inputs, n_inputs, outputs, n_outputs, &which, &is_output);
    if (why) {
        const anefast_port *port = is_output ? &ports->outputs[which] : &ports->inputs[which];
        status = surfaces_refuse(is_output ? "output" : "input", port, why, error);
    } else {
        NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
        status = run(p, inputs, outputs, error);
        [pool release];
        ane_surfaces_release(inputs, n_inputs, outputs, n_outputs);
    }
    pthread_mutex_unlock(&p->running);
    return status;
}
