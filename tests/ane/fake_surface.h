/* The device's way into a fake surface. Test code. */
#ifndef FAKE_SURFACE_H
#define FAKE_SURFACE_H

#include <IOSurface/IOSurface.h>

/* Its bytes, for the time until fake_surface_end with the same `writes`. */
void *fake_surface_begin(IOSurfaceRef surface, int writes);
void fake_surface_end(IOSurfaceRef surface, int writes);

#endif
