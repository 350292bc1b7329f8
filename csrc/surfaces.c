/* See surfaces.h. */
#include "surfaces.h"

#include "error.h"

anefast_status surfaces_refuse_empty(anefast_error *error) {
    return set_error(error, ANEFAST_INVALID, "[surface] expected at least 1 byte, got 0.");
}

anefast_status surfaces_refuse_null(anefast_error *error) {
    return set_error(error, ANEFAST_INVALID, "[lock] expected a surface, got null.");
}

anefast_status surfaces_refuse_unlock(int read_only, anefast_error *error) {
    return set_error(error, ANEFAST_INVALID,
                     "[unlock] expected a surface locked for %s, got one that is not. Hint: unlock with the read_only "
                     "of its lock.",
                     read_only ? "reading" : "writing");
}

anefast_status surfaces_check(const char *side, const anefast_port *ports, size_t n_ports,
                              anefast_surface *const *surfaces, size_t n, size_t (*bytes_of)(const anefast_surface *),
                              anefast_error *error) {
    if (n != n_ports)
        return set_error(error, ANEFAST_INVALID, "[evaluate] expected %zu %s surfaces, got %zu.", n_ports, side, n);
    for (size_t i = 0; i < n; i++) {
        if (!surfaces[i])
            return set_error(error, ANEFAST_INVALID, "[evaluate] expected a surface for %s %s, got none.", side,
                             ports[i].name);
        const size_t bytes = bytes_of(surfaces[i]);
        if (bytes < ports[i].bytes)
            return set_error(error, ANEFAST_EVALUATE,
                             "[evaluate] status=0x1d: expected %s %s to have %zu bytes, got a surface of %zu. Hint: "
                             "rows are rounded up to 64 bytes; use nbytes.",
                             side, ports[i].name, ports[i].bytes, bytes);
    }
    return ANEFAST_OK;
}

const char *surfaces_why_not_read(int writers) {
    return writers ? "to be unlocked for writing, got a surface the CPU has locked for writing" : NULL;
}

const char *surfaces_why_not_write(int readers, int writers, int device_readers, int device_writers) {
    if (readers || writers) return "to be unlocked, got a surface the CPU has locked";
    if (device_readers) return "to be a surface of its own, got one that is also an input";
    if (device_writers) return "to be a surface of its own, got one bound to two outputs";
    return NULL;
}

anefast_status surfaces_refuse(const char *side, const anefast_port *port, const char *why, anefast_error *error) {
    return set_error(error, ANEFAST_EVALUATE, "[evaluate] expected %s %s %s.", side, port->name, why);
}
