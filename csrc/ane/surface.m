// See surface.h. One mutex for all surfaces: it is held for counters and the locking calls only, and
// taking every surface of an evaluation under it leaves no order in which two could wait for each other.
#import "surface.h"

#import <Foundation/Foundation.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../surfaces.h"
#import "errors.h"

// The device maps pages of 16 KiB; several chips refuse less than one, and a part of one is seen to be
// refused too. More than a port needs is fine everywhere.
enum { PAGE_BYTES = 16384 };

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t freed = PTHREAD_COND_INITIALIZER;
static uint64_t last_id;

static IOSurfaceRef create(size_t asked) {
    const size_t bytes = asked > SIZE_MAX - PAGE_BYTES ? asked : (asked + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    const CFStringRef keys[] = {kIOSurfaceWidth,       kIOSurfaceHeight,    kIOSurfaceBytesPerElement,
                                kIOSurfaceBytesPerRow, kIOSurfaceAllocSize, kIOSurfacePixelFormat};
    const size_t values[] = {bytes, 1, 1, bytes, bytes, 0};
    NSMutableDictionary *properties = [NSMutableDictionary dictionary];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        [properties setObject:[NSNumber numberWithUnsignedLongLong:values[i]] forKey:(id)keys[i]];
    return IOSurfaceCreate((CFDictionaryRef)properties);
}

anefast_status ane_surface_create(size_t bytes, anefast_surface **surface, anefast_error *error) {
    *surface = NULL;
    if (bytes == 0) return surfaces_refuse_empty(error);
    struct anefast_surface *made = calloc(1, sizeof *made);
    if (!made) return set_error(error, ANEFAST_MEMORY, "[surface] expected memory for a surface's record, got none.");
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    made->room = bytes;
    made->ref = create(bytes);
    [pool release];
    made->bytes = bytes;
    if (!made->ref) {
        free(made);
        return set_error(error, ANEFAST_MEMORY,
                         "[surface] expected an IOSurface of %zu bytes, got none from the system. Hint: a smaller "
                         "batch or model needs less memory.",
                         bytes);
    }
    pthread_mutex_lock(&gate);
    made->id = ++last_id;
    pthread_mutex_unlock(&gate);
    void *base;
    anefast_status status = ane_surface_lock(made, 0, &base, error);
    if (status == ANEFAST_OK) {
        memset(base, 0, bytes);
        status = ane_surface_unlock(made, 0, error);
    }
    if (status != ANEFAST_OK) {
        ane_surface_free(made);
        return status;
    }
    *surface = made;
    return ANEFAST_OK;
}

void ane_surface_free(anefast_surface *surface) {
    if (!surface) return;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    if (surface->readers) IOSurfaceUnlock(surface->ref, kIOSurfaceLockReadOnly, NULL);
    if (surface->writers) IOSurfaceUnlock(surface->ref, 0, NULL);
    CFRelease(surface->ref);
    [pool release];
    free(surface);
}

// Moves what a surface holds into another IOSurface; both are locked for that alone.
static kern_return_t move(IOSurfaceRef from, IOSurfaceRef to, size_t bytes) {
    kern_return_t result = IOSurfaceLock(from, kIOSurfaceLockReadOnly, NULL);
    if (result) return result;
    result = IOSurfaceLock(to, 0, NULL);
    if (!result) {
        memcpy(IOSurfaceGetBaseAddress(to), IOSurfaceGetBaseAddress(from), bytes);
        result = IOSurfaceUnlock(to, 0, NULL);
    }
    const kern_return_t unlocked = IOSurfaceUnlock(from, kIOSurfaceLockReadOnly, NULL);
    return result ? result : unlocked;
}

static anefast_status exchange(anefast_surface *surface, size_t bytes, anefast_error *error) {
    if (surface->readers || surface->writers || surface->device_readers || surface->device_writers)
        return set_error(error, ANEFAST_INVALID,
                         "[surface] expected a surface that nobody uses, to make room for %zu bytes, got one that is "
                         "locked or in an evaluation.",
                         bytes);
    IOSurfaceRef larger = create(bytes);
    if (!larger)
        return set_error(error, ANEFAST_MEMORY,
                         "[surface] expected an IOSurface of %zu bytes, as large as the largest beside it, got none "
                         "from the system. Hint: fewer layers per program have fewer surfaces.",
                         bytes);
    const kern_return_t result = move(surface->ref, larger, surface->bytes);
    if (result) {
        CFRelease(larger);
        return set_error(error, ANEFAST_EVALUATE,
                         "[surface] expected a surface to be copied, got IOSurface status 0x%x.", (unsigned)result);
    }
    CFRelease(surface->ref);
    surface->ref = larger;
    surface->room = bytes;
    surface->id = ++last_id;
    return ANEFAST_OK;
}

anefast_status ane_surface_room(anefast_surface *surface, size_t bytes, anefast_error *error) {
    if (surface->room >= bytes) return ANEFAST_OK;
    NSAutoreleasePool *pool = [[NSAutoreleasePool alloc] init];
    pthread_mutex_lock(&gate);
    const anefast_status status = exchange(surface, bytes, error);
    pthread_mutex_unlock(&gate);
    [pool release];
    return status;
}

size_t ane_surface_bytes(const anefast_surface *surface) { return surface->bytes; }

// The system's lock is taken with the first of ours of that kind and given back with the last.
anefast_status ane_surface_lock(anefast_surface *surface, int read_only, void **base, anefast_error *error) {
    if (!surface) return surfaces_refuse_null(error);
    kern_return_t result = 0;
    pthread_mutex_lock(&gate);
    while (surface->device_writers || (!read_only && surface->device_readers)) pthread_cond_wait(&freed, &gate);
    int *count = read_only ? &surface->readers : &surface->writers;
    if (*count == 0) result = IOSurfaceLock(surface->ref, read_only ? kIOSurfaceLockReadOnly : 0, NULL);
    if (result == 0) ++*count;
    pthread_mutex_unlock(&gate);
    if (result)
        return set_error(error, ANEFAST_EVALUATE,
                         "[lock] expected a surface locked for %s, got IOSurfaceLock status 0x%x.",
                         read_only ? "reading" : "writing", (unsigned)result);
    *base = IOSurfaceGetBaseAddress(surface->ref);
    return ANEFAST_OK;
}

anefast_status ane_surface_unlock(anefast_surface *surface, int read_only, anefast_error *error) {
    kern_return_t result = 0;
    int held = 0;
    if (surface) {
        pthread_mutex_lock(&gate);
        int *count = read_only ? &surface->readers : &surface->writers;
        held = *count > 0;
        if (held && --*count == 0) result = IOSurfaceUnlock(surface->ref, read_only ? kIOSurfaceLockReadOnly : 0, NULL);
        pthread_mutex_unlock(&gate);
    }
    if (!held) return surfaces_refuse_unlock(read_only, error);
    if (result)
        return set_error(error, ANEFAST_EVALUATE,
                         "[unlock] expected a surface unlocked, got IOSurfaceUnlock status 0x%x.", (unsigned)result);
    return ANEFAST_OK;
}

static int busy(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs, size_t n_outputs) {
    for (size_t i = 0; i < n_inputs; i++)
        if (inputs[i]->device_writers) return 1;
    for (size_t i = 0; i < n_outputs; i++)
        if (outputs[i]->device_writers || outputs[i]->device_readers) return 1;
    return 0;
}

const char *ane_surfaces_acquire(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs,
                                 size_t n_outputs, size_t *which, int *is_output) {
    const char *why = NULL;
    size_t read = 0, written = 0;
    *is_output = 0;
    pthread_mutex_lock(&gate);
    while (busy(inputs, n_inputs, outputs, n_outputs)) pthread_cond_wait(&freed, &gate);
    for (; read < n_inputs; read++) {
        *which = read;
        why = surfaces_why_not_read(inputs[read]->writers);
        if (why) break;
        inputs[read]->device_readers++;
    }
    for (; written < n_outputs && !why; written++) {
        anefast_surface *s = outputs[written];
        *which = written;
        *is_output = 1;
        why = surfaces_why_not_write(s->readers, s->writers, s->device_readers, s->device_writers);
        if (why) break;
        s->device_writers++;
    }
    if (why) {
        for (size_t i = 0; i < read; i++) inputs[i]->device_readers--;
        for (size_t i = 0; i < written; i++) outputs[i]->device_writers--;
    }
    pthread_mutex_unlock(&gate);
    return why;
}

void ane_surfaces_release(anefast_surface *const *inputs, size_t n_inputs, anefast_surface *const *outputs,
                          size_t n_outputs) {
    pthread_mutex_lock(&gate);
    for (size_t i = 0; i < n_inputs; i++) inputs[i]->device_readers--;
    for (size_t i = 0; i < n_outputs; i++) outputs[i]->device_writers--;
    pthread_cond_broadcast(&freed);
    pthread_mutex_unlock(&gate);
}
