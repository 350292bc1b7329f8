// See fake_sizes.h.
#include "fake_sizes.h"

#include <stdlib.h>
#include <string.h>

static int held(void) {
    const char *said = getenv("ANEFAST_FAKE_SIZES");
    return said && !strcmp(said, "1");
}

int fake_sizes_equal(const IOSurfaceRef *surfaces, size_t n) {
    for (size_t i = 1; held() && i < n; i++)
        if (IOSurfaceGetAllocSize(surfaces[i]) != IOSurfaceGetAllocSize(surfaces[0])) return 0;
    return 1;
}

static int rising(const anefast_port *ports, size_t n, int sign) {
    for (size_t i = 1; i < n; i++)
        if (sign > 0 ? ports[i].bytes < ports[i - 1].bytes : ports[i].bytes > ports[i - 1].bytes) return 0;
    return 1;
}

int fake_sizes_in_order(const anefast_port *inputs, size_t n_in, const anefast_port *outputs, size_t n_out) {
    return !held() || (rising(inputs, n_in, 1) && rising(outputs, n_out, -1));
}
