/* The one door: everything an executor must provide, and all that Python knows of it.
 *
 * An executor takes MIL text and weight blobs, and runs programs on surfaces. Two exist: `host`
 * (csrc/host, everywhere) and `ane` (csrc/ane, Apple's private framework on a Mac; elsewhere the
 * same symbols say why there is none). Nothing but this header crosses; read csrc/bind.cpp next.
 *
 * Every call that can fail returns a status and, where it failed, fills the caller's error. All
 * calls are safe from any thread; evaluations of one program are serialised by the executor.
 */
#ifndef ANEFAST_H
#define ANEFAST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ANEFAST_OK = 0,
    ANEFAST_INVALID,     /* a bad argument: wrong port count, null pointer, unknown option */
    ANEFAST_MIL,         /* the MIL text or a blob was refused; line and column are set where known */
    ANEFAST_COMPILE,     /* well-formed MIL that this executor cannot compile or load */
    ANEFAST_LOAD,        /* it compiled, and the device has no room to load it */
    ANEFAST_EVALUATE,    /* an evaluation that was asked for wrongly: short surface, locked surface */
    ANEFAST_DEVICE,      /* the device failed an evaluation that was in order: see `reload` */
    ANEFAST_UNAVAILABLE, /* this machine has no such device; the message says why */
    ANEFAST_MEMORY       /* an allocation failed */
} anefast_status;

enum { ANEFAST_MESSAGE_BYTES = 1024, ANEFAST_MAX_RANK = 5, ANEFAST_ROW_BYTES = 64 };

typedef struct {
    anefast_status status;
    int32_t line, column; /* 1-based position in the MIL text, 0 where there is none */
    char message[ANEFAST_MESSAGE_BYTES];
} anefast_error;

/* One weight file: `path` is the exact BLOBFILE string of the text ("@model_path/weights/w.bin").
 * The bytes are copied before compile returns: later changes have no effect, as on the ANE. */
typedef struct {
    const char *path;
    const void *data;
    size_t bytes;
} anefast_blob;

/* A function input or output as the program lays it out. Ports are listed in ASCII order of name,
 * which is the order surfaces are bound in. Rows start every ANEFAST_ROW_BYTES-rounded width, so
 * strides (in bytes) are those of [.., H, roundup64(W * element size)]; bytes is the whole. */
typedef struct {
    const char *name;
    const char *dtype; /* a MIL spelling: "fp16", "fp32", "int32", ... */
    int32_t rank;
    int32_t shape[ANEFAST_MAX_RANK];
    size_t strides[ANEFAST_MAX_RANK];
    size_t bytes;
} anefast_port;

typedef struct anefast_device anefast_device;
typedef struct anefast_program anefast_program;
typedef struct anefast_surface anefast_surface;

typedef struct {
    const char *name; /* "host" or "ane" */

    /* `options` is "key=value" pairs separated by spaces; "" for the defaults. Every executor takes
     * threads=N, the size of the pool that the CPU's side of a training step runs on. */
    anefast_status (*open)(const char *options, anefast_device **device, anefast_error *error);
    void (*close)(anefast_device *device);
    /* One line for run headers, owned by the device: "host (AVX2 + F16C, 2 threads)". */
    const char *(*describe)(const anefast_device *device);
    /* What a number from this device is: "measured", "measured on the host", or "emulated" where the
     * device stands in for a chip. */
    const char *(*label)(const anefast_device *device);

    anefast_status (*compile)(anefast_device *device, const char *text, size_t text_bytes, const anefast_blob *blobs,
                              size_t n_blobs, anefast_program **program, anefast_error *error);
    /* Ports live as long as the program. Returns their count. */
    size_t (*inputs)(const anefast_program *program, const anefast_port **ports);
    size_t (*outputs)(const anefast_program *program, const anefast_port **ports);
    /* Bytes the program holds beside its surfaces: weights and intermediate buffers. Programs may share
     * either, and each says what it holds: all of them together hold no more than the sum. */
    size_t (*program_bytes)(const anefast_program *program);
    /* Whether the system still had this program compiled from before: 1, 0, or -1 where the device
     * keeps none or cannot say. */
    int (*was_cached)(const anefast_program *program);
    /* Brings back a program that the device has lost, which ANEFAST_DEVICE may mean: loads it again or,
     * where that fails, compiles it anew from what it was made of; *compiled says which. It is the same
     * program afterwards, and an evaluation may be repeated: a program never writes its inputs. */
    anefast_status (*reload)(anefast_program *program, int *compiled, anefast_error *error);
    /* Frees the program whatever the status; a failure says that the device may still hold its part. */
    anefast_status (*unload)(anefast_program *program, anefast_error *error);

    anefast_status (*surface_create)(anefast_device *device, size_t bytes, anefast_surface **surface,
                                     anefast_error *error); /* zero-filled */
    void (*surface_release)(anefast_surface *surface);
    size_t (*surface_bytes)(const anefast_surface *surface);
    /* The CPU may touch a surface only between lock and unlock with the same `read_only`. Locks
     * nest and may be shared by readers; a program refuses to write a locked surface, and to read
     * one that is locked for writing. */
    anefast_status (*surface_lock)(anefast_surface *surface, int read_only, void **base, anefast_error *error);
    anefast_status (*surface_unlock)(anefast_surface *surface, int read_only, anefast_error *error);

    /* Synchronous. Surfaces are in the order of inputs() and outputs(). */
    anefast_status (*evaluate)(anefast_program *program, anefast_surface *const *inputs, size_t n_inputs,
                               anefast_surface *const *outputs, size_t n_outputs, anefast_error *error);

    /* Makes a surface that nobody uses at least so large behind the scenes; surface_bytes stays. The
     * caller names the largest surface that stands on one side of a program with this one. NULL where
     * the device does not mind surfaces of unequal size. */
    anefast_status (*surface_room)(anefast_surface *surface, size_t bytes, anefast_error *error);

    /* Whether an evaluation of a part costs less than one of the whole. NULL: it does not. */
    int (*takes_parts)(const anefast_device *device);
    /* `evaluate` of the beginnings of its inputs: extents has, for each axis of each port of inputs(), how
     * much of it counts. Of the outputs what follows from those is written, to the byte what `evaluate`
     * would write there; the rest may or may not be. The caller promises that it does not depend on what
     * is left out, but for sums in which a mask makes that 0. NULL where takes_parts is. */
    anefast_status (*evaluate_part)(anefast_program *program, const int64_t *extents, anefast_surface *const *inputs,
                                    size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs,
                                    anefast_error *error);

    /* What an evaluation runs, in order: a line for each task, as long as the program lives. Not from two
     * threads at once. NULL where the device does not say. */
    anefast_status (*tasks)(anefast_program *program, const char **text, anefast_error *error);

    /* Writes what compiling has made into `folder`, which is there and empty. `load_kept` takes it from there,
     * in this process or another: a compile of the same text and blobs that compiles nothing. It refuses what the
     * system does not load, whatever the reason; `compile` is what to do then. NULL, both: compiling costs next to
     * nothing here. */
    anefast_status (*keep)(const anefast_program *program, const char *folder, anefast_error *error);
    anefast_status (*load_kept)(anefast_device *device, const char *text, size_t text_bytes, const anefast_blob *blobs,
                                size_t n_blobs, const char *folder, anefast_program **program, anefast_error *error);

    /* Whether the system's compiler takes this text for chips of that architecture, "h13" to "h18", which
     * this machine need not have: ANEFAST_COMPILE with the compiler's words where it does not. Nothing is
     * loaded or kept. A compiler may end the process on what it does not expect. NULL where the device has
     * none for other chips. */
    anefast_status (*compile_for)(anefast_device *device, const char *target, const char *text, size_t text_bytes,
                                  const anefast_blob *blobs, size_t n_blobs, anefast_error *error);
} anefast_executor;

const anefast_executor *anefast_host_executor(void);
const anefast_executor *anefast_ane_executor(void);

#ifdef __cplusplus
}
#endif
#endif
