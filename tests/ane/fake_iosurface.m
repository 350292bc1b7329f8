// A fake IOSurface: shared memory mapped twice, once for the CPU and once for the device. The CPU's pages
// are inaccessible while unlocked and read-only under read-only locks, so an access without the right
// lock is a crash. A surface is an object, so CFRelease releases it, as toll-free bridging has it.
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake.h"
#include "fake_surface.h"

const CFStringRef kIOSurfaceWidth = (CFStringRef) @"Width", kIOSurfaceHeight = (CFStringRef) @"Height",
                  kIOSurfaceBytesPerElement = (CFStringRef) @"BytesPerElement",
                  kIOSurfaceBytesPerRow = (CFStringRef) @"BytesPerRow",
                  kIOSurfaceAllocSize = (CFStringRef) @"AllocSize",
                  kIOSurfacePixelFormat = (CFStringRef) @"PixelFormat";

enum { PAGE = 16384, FAILURE = 0x2c7 };

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

@interface FakeSurface : NSObject {
  @public
    size_t bytes;
    void *cpu, *device;
    int readers, writers, device_readers, device_writers;
}
@end

@implementation FakeSurface
- (void)dealloc {
    if (readers || writers) fake_refuse("a surface was freed while locked");
    if (device_readers || device_writers) fake_refuse("a surface was freed during an evaluation");
    munmap(cpu, bytes);
    munmap(device, bytes);
    fake_add("surfaces", -1);
    [super dealloc];
}
@end

IOSurfaceRef IOSurfaceCreate(CFDictionaryRef properties) {
    NSDictionary *asked = (NSDictionary *)properties;
    size_t bytes = [[asked objectForKey:(id)kIOSurfaceAllocSize] unsignedLongLongValue];
    if ([asked count] != 6 || !bytes ||
        [[asked objectForKey:(id)kIOSurfaceWidth] unsignedLongLongValue] *
                [[asked objectForKey:(id)kIOSurfaceBytesPerElement] unsignedLongLongValue] !=
            [[asked objectForKey:(id)kIOSurfaceBytesPerRow] unsignedLongLongValue] ||
        bytes < [[asked objectForKey:(id)kIOSurfaceBytesPerRow] unsignedLongLongValue])
        fake_refuse("IOSurfaceCreate with %s", [[asked description] UTF8String]);
    if (fake_fault("surface_create")) return NULL;
    if (bytes % PAGE) return NULL; // as the newer ones do
    const int file = memfd_create("iosurface", 0);
    if (file < 0 || ftruncate(file, (off_t)bytes)) fake_refuse("no memory for a surface of %zu bytes", bytes);
    void *cpu = mmap(NULL, bytes, PROT_NONE, MAP_SHARED, file, 0);
    void *device = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (cpu == MAP_FAILED || device == MAP_FAILED) fake_refuse("no address space for a surface");
    FakeSurface *surface = [[FakeSurface alloc] init];
    surface->bytes = bytes;
    surface->cpu = cpu;
    surface->device = device;
    fake_add("surfaces", 1);
    return (IOSurfaceRef)surface;
}

static void protect(FakeSurface *s) {
    const int access = s->writers ? PROT_READ | PROT_WRITE : s->readers ? PROT_READ : PROT_NONE;
    if (mprotect(s->cpu, s->bytes, access)) fake_refuse("mprotect failed");
}

kern_return_t IOSurfaceLock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed) {
    FakeSurface *s = (FakeSurface *)surface;
    if (seed) *seed = 0;
    if (options > kIOSurfaceLockReadOnly) fake_refuse("IOSurfaceLock with options %u", options);
    fake_hang("hang_lock");
    if (fake_fault("lock")) return FAILURE;
    pthread_mutex_lock(&guard);
    if (s->device_writers || (!options && s->device_readers)) fake_refuse("a lock during an evaluation");
    if (options) s->readers++;
    else s->writers++;
    protect(s);
    pthread_mutex_unlock(&guard);
    fake_add("locks", 1);
    return 0;
}

kern_return_t IOSurfaceUnlock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed) {
    FakeSurface *s = (FakeSurface *)surface;
    if (seed) *seed = 0;
    pthread_mutex_lock(&guard);
    if (options ? !s->readers : !s->writers) fake_refuse("an unlock without its lock");
    if (options) s->readers--;
    else s->writers--;
    protect(s);
    pthread_mutex_unlock(&guard);
    fake_add("locks", -1);
    return fake_fault("unlock") ? FAILURE : 0;
}

void *IOSurfaceGetBaseAddress(IOSurfaceRef surface) { return ((FakeSurface *)surface)->cpu; }
size_t IOSurfaceGetAllocSize(IOSurfaceRef surface) { return ((FakeSurface *)surface)->bytes; }
CFTypeRef CFRetain(CFTypeRef object) { return (CFTypeRef)[(id)object retain]; }
void CFRelease(CFTypeRef object) { [(id)object release]; }

void *fake_surface_begin(IOSurfaceRef surface, int writes) {
    FakeSurface *s = (FakeSurface *)surface;
    pthread_mutex_lock(&guard);
    if (s->writers || (writes && s->readers)) fake_refuse("an evaluation of a surface the CPU has locked");
    if (s->device_writers || (writes && s->device_readers)) fake_refuse("two evaluations of one surface");
    if (writes) s->device_writers++;
    else s->device_readers++;
    pthread_mutex_unlock(&guard);
    return s->device;
}

void fake_surface_end(IOSurfaceRef surface, int writes) {
    FakeSurface *s = (FakeSurface *)surface;
    pthread_mutex_lock(&guard);
    if (writes) s->device_writers--;
    else s->device_readers--;
    pthread_mutex_unlock(&guard);
}
