// The `ane` executor: csrc/anefast.h answered by Apple's private AppleNeuralEngine framework. This file
// opens and describes the device; a program's life is program.m, surfaces are surface.m, and every
// private name is in selectors.h. Cross-compiled and run under a test harness; not yet run on Apple
// hardware.
#import <Foundation/Foundation.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "../cpu/threads.h"
#import "compiler.h"
#import "errors.h"
#import "private.h"
#import "program.h"
#import "surface.h"

enum { DEFAULT_QOS = 21, MAX_QOS = 63 };

struct anefast_device {
    uint32_t qos;
    char description[256];
};

// qos=N is the system's priority of our programs; threads=N the pool of the CPU's side, as on the host.
static anefast_status read_options(const char *options, uint32_t *qos, int *threads, anefast_error *error) {
    const char *at = options ? options : "";
    for (;;) {
        at += strspn(at, " \t\n");
        const size_t n = strcspn(at, " \t\n");
        if (n == 0) return ANEFAST_OK;
        char *rest = NULL;
        const int is_qos = n > 4 && !strncmp(at, "qos=", 4);
        const long value = is_qos ? strtol(at + 4, &rest, 10) : 0;
        const int is_threads = n > 8 && !strncmp(at, "threads=", 8);
        const int count = is_threads ? threads_read(at + 8, n - 8) : 0;
        if (is_qos ? rest != at + n || value < 0 || value > MAX_QOS : !count)
            return set_error(error, ANEFAST_INVALID,
                             "[ane] expected the options qos=N with N from 0 to %d and threads=N with N from 1 to %d, "
                             "got \"%.*s\".",
                             MAX_QOS, MOST_THREADS, (int)n, at);
        if (is_qos) *qos = (uint32_t)value;
        else *threads = count;
        at += n;
    }
}

// ", what" where there is something to say; cut where it does not fit.
static void add(char *line, size_t room, const char *what) {
    const size_t used = strlen(line);
    if (what && *what) snprintf(line + used, room - used, "%s%s", used ? ", " : "", what);
}

#ifdef __APPLE__
static void add_system(char *line, size_t room, const char *before, const char *name) {
    char value[64] = "", said[128];
    size_t size = sizeof value - 1;
    if (sysctlbyname(name, value, &size, NULL, 0) != 0) return;
    snprintf(said, sizeof said, "%s%s", before, value);
    add(line, room, said);
}
#endif

// "ane (Apple M1 Pro, h13g, 16 cores, macOS 26.2, build 25C56)"
static void describe_to(char *description, size_t room) {
    char parts[224] = "", cores[32];
    const size_t n = sizeof parts;
#ifdef ANEFAST_FAKE_ANE
    add(parts, n, "fake framework");
#endif
#ifdef __APPLE__
    add_system(parts, n, "", "machdep.cpu.brand_string");
#endif
    add(parts, n, [ane_architecture() UTF8String]);
    const uint32_t count = ane_core_count();
    snprintf(cores, sizeof cores, "%u cores", count);
    if (count) add(parts, n, cores);
#ifdef __APPLE__
    add_system(parts, n, "macOS ", "kern.osproductversion");
    add_system(parts, n, "build ", "kern.osversion");
#endif
    snprintf(description, room, "ane (%s)", parts);
}

static anefast_status open_inside_pool(const char *options, anefast_device **device, anefast_error *error) {
    uint32_t qos = DEFAULT_QOS;
    int threads = 0;
    anefast_status status = ane_private_open(error);
    if (status == ANEFAST_OK && ane_has_device() == 0)
        status = set_error(error, ANEFAST_UNAVAILABLE,
                           "[ane] expected a Neural Engine, got a system that says it has none (a virtual machine?). "
                           "Hint: device \"host\" runs the same programs.");
    if (status == ANEFAST_OK) status = read_options(options, &qos, &threads, error);
    if (status != ANEFAST_OK) return status;
    struct anefast_device *made = calloc(1, sizeof *made);
    if (!made) return set_error(error, ANEFAST_MEMORY, "[ane] expected memory for a device's record, got none.");
    made->qos = qos;
    if (threads) threads_set(threads);
    describe_to(made->description, sizeof made->description);
    *device = made;
    return ANEFAST_OK;
}

static anefast_status device_open(const char *options, anefast_device **device, anefast_error *error) {
    *device = NULL;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    const anefast_status status = open_inside_pool(options, device, error);
    [pool release];
    return status;
}

static void device_close(anefast_device *device) { free(device); }
static const char *device_describe(const anefast_device *device) { return device->description; }

static const char *device_label(const anefast_device *device) {
    (void)device;
#ifdef ANEFAST_FAKE_ANE
    return "emulated";
#else
    return "measured";
#endif
}

// Everything below that reaches the framework is refused in a fork; what was the parent's stays the
// parent's, and is not freed.

static anefast_status device_compile(anefast_device *device, const char *text, size_t text_bytes,
                                     const anefast_blob *blobs, size_t n_blobs, anefast_program **program,
                                     anefast_error *error) {
    *program = NULL;
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_program_compile(device->qos, text, text_bytes, blobs, n_blobs, program, error);
}

static anefast_status program_load_kept(anefast_device *device, const char *text, size_t text_bytes,
                                        const anefast_blob *blobs, size_t n_blobs, const char *folder,
                                        anefast_program **program, anefast_error *error) {
    *program = NULL;
    const anefast_status status = ane_private_forked(error);
    return status ? status
                  : ane_program_load_kept(device->qos, text, text_bytes, blobs, n_blobs, folder, program, error);
}

static anefast_status program_keep(const anefast_program *program, const char *folder, anefast_error *error) {
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_program_keep(program, folder, error);
}

static anefast_status device_compile_for(anefast_device *device, const char *target, const char *text,
                                         size_t text_bytes, const anefast_blob *blobs, size_t n_blobs,
                                         anefast_error *error) {
    (void)device;
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_compile_for(target, text, text_bytes, blobs, n_blobs, error);
}

static anefast_status program_reload(anefast_program *program, int *compiled, anefast_error *error) {
    *compiled = 0;
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_program_reload(program, compiled, error);
}

static anefast_status program_unload(anefast_program *program, anefast_error *error) {
    return ane_private_forked(NULL) ? ANEFAST_OK : ane_program_unload(program, error);
}

static anefast_status program_evaluate(anefast_program *program, anefast_surface *const *inputs, size_t n_inputs,
                                       anefast_surface *const *outputs, size_t n_outputs, anefast_error *error) {
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_program_evaluate(program, inputs, n_inputs, outputs, n_outputs, error);
}

static anefast_status surface_create(anefast_device *device, size_t bytes, anefast_surface **surface,
                                     anefast_error *error) {
    (void)device;
    *surface = NULL;
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_surface_create(bytes, surface, error);
}

static anefast_status surface_room(anefast_surface *surface, size_t bytes, anefast_error *error) {
    const anefast_status status = ane_private_forked(error);
    if (status) return status;
    ane_program_forget(surface); // its requests hold the IOSurface that goes
    return ane_surface_room(surface, bytes, error);
}

static void surface_release(anefast_surface *surface) {
    if (!surface || ane_private_forked(NULL)) return;
    ane_program_forget(surface);
    ane_surface_free(surface);
}

static anefast_status surface_lock(anefast_surface *surface, int read_only, void **base, anefast_error *error) {
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_surface_lock(surface, read_only, base, error);
}

static anefast_status surface_unlock(anefast_surface *surface, int read_only, anefast_error *error) {
    const anefast_status status = ane_private_forked(error);
    return status ? status : ane_surface_unlock(surface, read_only, error);
}

static const anefast_executor ANE = {
    "ane",
    device_open,
    device_close,
    device_describe,
    device_label,
    device_compile,
    ane_program_inputs,
    ane_program_outputs,
    ane_program_bytes,
    ane_program_was_cached,
    program_reload,
    program_unload,
    surface_create,
    surface_release,
    ane_surface_bytes,
    surface_lock,
    surface_unlock,
    program_evaluate,
    surface_room,
    NULL, /* takes_parts, evaluate_part: a program has one shape */
    NULL,
    NULL, /* tasks */
    program_keep,
    program_load_kept,
    device_compile_for,
};

const anefast_executor *anefast_ane_executor(void) { return &ANE; }
