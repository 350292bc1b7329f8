/* The `ane` executor where there is no ANE: the same symbols, each of which says why.
 *
 * Not a stub to fill in: on a Mac csrc/ane's Objective-C takes this file's place at build time. */
#include "../error.h"
#include "selectors.h"

static anefast_status refuse(anefast_error *error) {
    return set_error(error, ANEFAST_UNAVAILABLE,
                     "[ane] expected macOS on Apple silicon, got a build for another system: there is no "
                     "Apple Neural Engine to drive here. Hint: open the \"host\" device, which runs the same "
                     "programs.");
}

static anefast_status none_open(const char *options, anefast_device **device, anefast_error *error) {
    (void)options;
    if (device) *device = NULL;
    return refuse(error);
}

static void none_close(anefast_device *device) { (void)device; }

static const char *none_describe(const anefast_device *device) {
    (void)device;
    return "ane (not on this machine)";
}

static const char *none_label(const anefast_device *device) {
    (void)device;
    return "unavailable";
}

static anefast_status none_compile(anefast_device *device, const char *text, size_t text_bytes,
                                   const anefast_blob *blobs, size_t n_blobs, anefast_program **program,
                                   anefast_error *error) {
    (void)device, (void)text, (void)text_bytes, (void)blobs, (void)n_blobs;
    if (program) *program = NULL;
    return refuse(error);
}

static size_t none_ports(const anefast_program *program, const anefast_port **ports) {
    (void)program;
    *ports = NULL;
    return 0;
}

static size_t none_program_bytes(const anefast_program *program) {
    (void)program;
    return 0;
}

static int none_was_cached(const anefast_program *program) {
    (void)program;
    return -1;
}

static anefast_status none_reload(anefast_program *program, int *compiled, anefast_error *error) {
    (void)program;
    *compiled = 0;
    return refuse(error);
}

static anefast_status none_unload(anefast_program *program, anefast_error *error) {
    (void)program;
    return refuse(error);
}

static anefast_status none_surface_create(anefast_device *device, size_t bytes, anefast_surface **surface,
                                          anefast_error *error) {
    (void)device, (void)bytes;
    if (surface) *surface = NULL;
    return refuse(error);
}

static void none_surface_release(anefast_surface *surface) { (void)surface; }

static size_t none_surface_bytes(const anefast_surface *surface) {
    (void)surface;
    return 0;
}

static anefast_status none_surface_lock(anefast_surface *surface, int read_only, void **base, anefast_error *error) {
    (void)surface, (void)read_only;
    *base = NULL;
    return refuse(error);
}

static anefast_status none_surface_unlock(anefast_surface *surface, int read_only, anefast_error *error) {
    (void)surface, (void)read_only;
    return refuse(error);
}

static anefast_status none_evaluate(anefast_program *program, anefast_surface *const *inputs, size_t n_inputs,
                                    anefast_surface *const *outputs, size_t n_outputs, anefast_error *error) {
    (void)program, (void)inputs, (void)n_inputs, (void)outputs, (void)n_outputs;
    return refuse(error);
}

static const anefast_executor NONE = {
    "ane",
    none_open,
    none_close,
    none_describe,
    none_label,
    none_compile,
    none_ports,
    none_ports,
    none_program_bytes,
    none_was_cached,
    none_reload,
    none_unload,
    none_surface_create,
    none_surface_release,
    none_surface_bytes,
    none_surface_lock,
    none_surface_unlock,
    none_evaluate,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
    NULL,
};

const anefast_executor *anefast_ane_executor(void) { return &NONE; }

static const ane_selector TABLE[] = {
#define X(key, owner, kind, selector, required) {owner, selector, kind, required, 0, ""},
    ANE_SELECTORS(X)
#undef X
};

const ane_selector *ane_selectors(void) { return TABLE; }
