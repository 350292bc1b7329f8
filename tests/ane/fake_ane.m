// A fake AppleNeuralEngine framework: the classes and methods this project calls, with their states and
// arguments checked, and evaluation carried out by the host executor on the program it was given.
// What a test can make go wrong is every fake_fault here; fake.h says how.
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../../csrc/anefast.h"
#include "fake.h"
#include "fake_request.h"
#include "fake_sizes.h"
#include "fake_surface.h"

// LOST: an unload was made to fail, or the system took the program away without a word.
typedef enum { FRESH, COMPILED, LOADED, LOST } State;

@interface _ANEInMemoryModel : NSObject {
    _ANEInMemoryModelDescriptor *descriptor;
    State state;
    anefast_program *program; // of the host
    NSMutableArray *room;     // host surfaces of the ports, as pointers
    NSDictionary *attributes;
    int evaluating;
    long sleeps, deaths; // of the system, when this was loaded and when it was compiled
    NSData *stale;       // output of the evaluation before
}
@end

@interface _ANEDeviceInfo : NSObject
@end

static anefast_device *device;
static long sleeps_of_the_system, deaths_of_the_service; // it evicts every program; it forgets them too
static NSMutableSet *compiled;                           // identifiers that were compiled in this process
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static const anefast_executor *host(void) {
    const anefast_executor *executor = anefast_host_executor();
    anefast_error error;
    pthread_mutex_lock(&guard);
    if (!device && executor->open("", &device, &error) != ANEFAST_OK) fake_refuse("%s", error.message);
    if (!compiled) compiled = [[NSMutableSet alloc] init];
    pthread_mutex_unlock(&guard);
    return executor;
}

static BOOL no(NSError **error, NSString *domain, int code, NSString *said) {
    if (!error) fake_refuse("a call without a place for its error");
    *error = nil;
    if (fake_fault("silent")) return NO;
    *error = [NSError errorWithDomain:domain
                                 code:code
                             userInfo:[NSDictionary dictionaryWithObject:said forKey:NSLocalizedDescriptionKey]];
    return NO;
}

static NSString *const RUNTIME = @"com.apple.appleneuralengine";
static NSString *const COMPILER = @"com.apple.appleneuralengine.compiler";

// What NSXPCConnection says when the process at its other end is gone.
static BOOL ended(NSError **error) {
    return no(error, @"NSCocoaErrorDomain", 4097, @"connection to service named com.apple.appleneuralengine");
}

// 1) what a model says of its ports

static NSString *type_name(const char *dtype) {
    if (!strcmp(dtype, "fp16")) return @"Float16";
    if (!strcmp(dtype, "fp32")) return @"Float32";
    return [NSString stringWithUTF8String:dtype];
}

// Where the next row of a port begins in the device's memory.
static size_t row_of(const anefast_port *port) {
    const size_t rows = (size_t)fake_setting("rows"), packed = port->strides[2];
    return rows ? (packed + rows - 1) / rows * rows : packed;
}

static NSDictionary *live_of(const anefast_port *port, NSString *suffix) {
    NSMutableDictionary *live = [NSMutableDictionary dictionary];
    [live setObject:[[NSString stringWithUTF8String:port->name] stringByAppendingString:suffix] forKey:@"Name"];
    [live setObject:type_name(port->dtype) forKey:@"Type"];
    if (port->rank != 4) return live;
    const size_t wide = fake_fault("attributes_stride") ? 2 : 1;
    const size_t row = row_of(port), plane = row * (size_t)port->shape[2], batch = plane * (size_t)port->shape[1];
    const struct {
        NSString *key;
        size_t value;
    } numbers[] = {
        {@"Batches", (size_t)port->shape[0]},
        {@"Channels", (size_t)port->shape[1] + (fake_fault("attributes_shape") ? 1 : 0)},
        {@"Depth", 1},
        {@"Height", (size_t)port->shape[2]},
        {@"Width", (size_t)port->shape[3]},
        {@"BatchStride", batch * wide},
        {@"DepthStride", batch * wide},
        {@"PlaneStride", plane * wide},
        {@"RowStride", fake_fault("attributes_narrow") ? 2
                       : fake_fault("attributes_huge") ? SIZE_MAX / 4
                                                       : row * wide},
        {@"PlaneCount", (size_t)port->shape[1]},
        {@"Interleave", fake_fault("attributes_interleave") ? 4 : 1},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        [live setObject:[NSNumber numberWithUnsignedLongLong:numbers[i].value] forKey:numbers[i].key];
    if (fake_fault("attributes_types")) [live setObject:@"wide" forKey:@"RowStride"];
    return live;
}

static NSDictionary *attributes_of(anefast_program *program) {
    NSMutableDictionary *symbols = [NSMutableDictionary dictionary], *network = [NSMutableDictionary dictionary];
    for (int side = 0; side < 2; side++) {
        const anefast_port *ports;
        const size_t n = side ? host()->outputs(program, &ports) : host()->inputs(program, &ports);
        NSMutableArray *names = [NSMutableArray array], *live = [NSMutableArray array];
        for (size_t i = 0; i < n; i++) {
            NSDictionary *one = live_of(&ports[i], side ? @"@output" : @"");
            [names addObject:[one objectForKey:@"Name"]];
            [live addObject:one];
        }
        if (n > 1 && fake_fault("attributes_order")) [names exchangeObjectAtIndex:0 withObjectAtIndex:n - 1];
        if (fake_fault("attributes_names")) names = [NSMutableArray arrayWithObject:@"t0"];
        [symbols setObject:names forKey:side ? @"kANEFModelOutputSymbolsArrayKey" : @"kANEFModelInputSymbolsArrayKey"];
        [network setObject:live forKey:side ? @"LiveOutputList" : @"LiveInputList"];
    }
    return [NSDictionary dictionaryWithObjectsAndKeys:symbols, @"ANEFModelDescription",
                                                      [NSArray arrayWithObject:network], @"NetworkStatusList", nil];
}

// 2) the model

static uint64_t mixed(uint64_t hash, NSData *data) { // FNV-1a, eight bytes at a time
    const unsigned char *bytes = [data bytes];
    for (size_t n = [data length], i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, bytes + i, n - i < 8 ? n - i : 8);
        hash = (hash ^ word) * 1099511628211u;
    }
    return hash;
}

@implementation _ANEInMemoryModel
+ (id)inMemoryModelWithDescriptor:(_ANEInMemoryModelDescriptor *)descriptor {
    if (![descriptor isKindOfClass:[_ANEInMemoryModelDescriptor class]]) fake_refuse("a model without a descriptor");
    if (fake_fault("model")) return nil;
    _ANEInMemoryModel *made = [[[self alloc] init] autorelease];
    fake_add("models", 1);
    made->descriptor = [descriptor retain];
    return made;
}

- (NSString *)hexStringIdentifier {
    if (fake_fault("hex")) return nil;
    if (fake_fault("hex_path")) return @"../outside";
    uint64_t weights = 1469598103934665603u;
    NSArray *paths = [[descriptor->weights allKeys] sortedArrayUsingSelector:@selector(compare:)];
    for (NSUInteger i = 0; i < [paths count] && !fake_setting("names_by_text"); i++)
        weights = mixed(weights, [[descriptor->weights objectForKey:[paths objectAtIndex:i]] objectForKey:@"data"]);
    return [NSString stringWithFormat:@"%016llX_0_%016llX",
                                      (unsigned long long)mixed(1469598103934665603u, descriptor->text),
                                      (unsigned long long)weights];
}

- (NSString *)folder {
    return [NSTemporaryDirectory() stringByAppendingPathComponent:[self hexStringIdentifier]];
}

// NO where one of its files is gone. The text must be what the descriptor holds, and where they are read,
// in a compile, so must the weights: later on nobody looks at their bytes.
- (BOOL)hasFiles:(BOOL)read {
    NSMutableDictionary *files = [NSMutableDictionary dictionaryWithObject:descriptor->text forKey:@"model.mil"];
    NSEnumerator *paths = [descriptor->weights keyEnumerator];
    for (NSString *path; (path = [paths nextObject]);)
        [files setObject:[[descriptor->weights objectForKey:path] objectForKey:@"data"]
                  forKey:[path substringFromIndex:[@"@model_path/" length]]];
    NSEnumerator *names = [files keyEnumerator];
    for (NSString *name; (name = [names nextObject]);) {
        NSString *path = [[self folder] stringByAppendingPathComponent:name];
        NSData *held = [NSData dataWithContentsOfFile:path];
        if (!held) return NO;
        if ((read || [name isEqualToString:@"model.mil"]) && ![held isEqual:[files objectForKey:name]])
            fake_refuse("%s does not hold what the descriptor does", [path UTF8String]);
    }
    return YES;
}

// A system that went to sleep, or whose service ended, since this was loaded.
- (BOOL)isLost {
    return state == LOADED && (sleeps != __atomic_load_n(&sleeps_of_the_system, __ATOMIC_SEQ_CST) ||
                               deaths != __atomic_load_n(&deaths_of_the_service, __ATOMIC_SEQ_CST));
}

- (void)lose {
    state = LOST;
    fake_add("loaded", -1);
}

- (BOOL)compiledModelExists {
    host();
    pthread_mutex_lock(&guard);
    const BOOL known = [compiled containsObject:[self hexStringIdentifier]];
    pthread_mutex_unlock(&guard);
    return known;
}

// The host's program of what the descriptor holds.
- (BOOL)build:(NSError **)error {
    NSArray *paths = [descriptor->weights allKeys];
    anefast_blob blobs[16];
    const NSUInteger n = [paths count];
    if (n > 16) fake_refuse("more than 16 weight files");
    for (NSUInteger i = 0; i < n; i++) {
        NSString *path = [paths objectAtIndex:i];
        NSData *data = [[descriptor->weights objectForKey:path] objectForKey:@"data"];
        blobs[i] = (anefast_blob){[path UTF8String], [data bytes], [data length]};
    }
    anefast_error refused;
    if (host()->compile(device, [descriptor->text bytes], [descriptor->text length], blobs, n, &program, &refused) !=
        ANEFAST_OK)
        return no(error, COMPILER, 1,
                  [NSString stringWithFormat:@"_ANECompiler : ANECCompile() FAILED err=(%s)", refused.message]);
    room = [[NSMutableArray alloc] init];
    for (int side = 0; side < 2; side++) {
        const anefast_port *ports;
        const size_t count = side ? host()->outputs(program, &ports) : host()->inputs(program, &ports);
        for (size_t i = 0; i < count; i++) {
            anefast_surface *surface;
            if (host()->surface_create(device, ports[i].bytes, &surface, &refused) != ANEFAST_OK)
                fake_refuse("%s", refused.message);
            [room addObject:[NSValue valueWithPointer:surface]];
        }
    }
    return YES;
}

- (NSData *)plist {
    return
        [[@"compiled of " stringByAppendingString:[self hexStringIdentifier]] dataUsingEncoding:NSUTF8StringEncoding];
}

// What the compiler puts beside the program's files, or not: somebody may be cleaning up.
- (void)leaveFiles {
    NSEnumerator *weights = [descriptor->weights objectEnumerator];
    NSDictionary *first = [weights nextObject];
    [[self plist] writeToFile:[[self folder] stringByAppendingPathComponent:@"net.plist"] atomically:NO];
    if (first)
        [[first objectForKey:@"data"] writeToFile:[[self folder] stringByAppendingPathComponent:@"data"] atomically:NO];
}

// Whether the folder holds what a compiler left of this program, in this process or another.
- (BOOL)wasCompiled {
    NSData *plist = [NSData dataWithContentsOfFile:[[self folder] stringByAppendingPathComponent:@"net.plist"]];
    NSData *data = [NSData dataWithContentsOfFile:[[self folder] stringByAppendingPathComponent:@"data"]];
    NSDictionary *first = [[descriptor->weights objectEnumerator] nextObject];
    if (fake_setting("forgets") || !plist || (first && !data)) return NO;
    if (![plist isEqual:[self plist]] || (first && ![data isEqual:[first objectForKey:@"data"]]))
        fake_refuse("a load of what was compiled of another program, or was damaged since");
    return YES;
}

- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (state != FRESH || qos > 63 || ![options isKindOfClass:[NSDictionary class]])
        fake_refuse("a compile out of order");
    if (fake_fault("clean")) [[NSFileManager defaultManager] removeItemAtPath:[self folder] error:NULL];
    if (![self hasFiles:YES])
        return no(error, COMPILER, 1, @"_ANECompiler : ANECCompile() FAILED err=(InvalidMILProgram)");
    fake_hang("hang_compile");
    throw_if("compile_raises");
    if (fake_fault("service_compile")) return ended(error);
    if (fake_fault("compile"))
        return no(error, COMPILER, 1, @"_ANECompiler : ANECCompile() FAILED err=(CompilationFailure)");
    if (fake_fault("invalid"))
        return no(error, COMPILER, 1, @"_ANECompiler : ANECCompile() FAILED err=(InvalidMILProgram)");
    if (fake_fault("compile_posix")) return no(error, NSPOSIXErrorDomain, 13, @"Permission denied");
    if (fake_fault("compile_long")) {
        NSString *said = [@"" stringByPaddingToLength:3000
                                           withString:[NSString stringWithUTF8String:"\xc3\xa4"]
                                      startingAtIndex:0];
        return no(error, COMPILER, 1, said);
    }
    if (![self build:error]) return NO;
    [self leaveFiles];
    pthread_mutex_lock(&guard);
    [compiled addObject:[self hexStringIdentifier]];
    pthread_mutex_unlock(&guard);
    fake_add("compiles", 1);
    deaths = deaths_of_the_service;
    state = COMPILED;
    return YES;
}

- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (qos > 63 || ![options isKindOfClass:[NSDictionary class]]) fake_refuse("a load out of order");
    if (state == FRESH && !program) {
        if (![self hasFiles:NO] || ![self wasCompiled]) return no(error, RUNTIME, 6, @"ANERuntimeErrorCacheMiss");
        if (![self build:error]) fake_refuse("a load of what does not compile");
        fake_add("brought", 1);
        deaths = deaths_of_the_service;
    }
    fake_hang("hang_load");
    throw_if("load_raises");
    if (fake_fault("service_load")) {
        __atomic_add_fetch(&deaths_of_the_service, 1, __ATOMIC_SEQ_CST);
        return ended(error);
    }
    if (deaths != __atomic_load_n(&deaths_of_the_service, __ATOMIC_SEQ_CST))
        return no(error, RUNTIME, 6, @"Program load failed 0x20001 : no such program"); // the new service never saw it
    if (![self hasFiles:NO]) return no(error, RUNTIME, 6, @"Program load failed 0x20003 : no net.plist");
    const long most = fake_setting("loaded");
    if (most && fake_count("loaded") >= most) return no(error, RUNTIME, 53, @"Program load failed - no memory");
    if (fake_fault("load")) return no(error, RUNTIME, 6, @"Program load failed 0x20004");
    if (fake_fault("load_memory")) return no(error, RUNTIME, 53, @"Program load failed - no memory");
    [attributes release];
    attributes = [attributes_of(program) retain];
    fake_add("loaded", 1);
    sleeps = sleeps_of_the_system;
    state = LOADED;
    return YES;
}

- (id)modelAttributes {
    if (state != LOADED) return nil;
    if (fake_fault("attributes_missing")) return nil;
    if (fake_fault("attributes_odd")) return [NSArray arrayWithObject:@"odd"];
    if (fake_fault("attributes_raises")) [NSException raise:NSGenericException format:@"no attributes"];
    return attributes;
}

// Between a surface as the device sees it and the host's surface of the same port.
- (BOOL)copySide:(NSArray *)objects ports:(const anefast_port *)ports from:(size_t)first back:(BOOL)back {
    for (NSUInteger i = 0; i < [objects count]; i++) {
        anefast_surface *mine = [[room objectAtIndex:first + i] pointerValue];
        IOSurfaceRef theirs = ((_ANEIOSurfaceObject *)[objects objectAtIndex:i])->surface;
        const int last = ports[i].rank - 1;
        const size_t row = last > 0 ? ports[i].strides[last - 1] : ports[i].bytes;
        const size_t wide = ports[i].rank == 4 ? row_of(&ports[i]) : row;
        if (IOSurfaceGetAllocSize(theirs) < ports[i].bytes / row * wide) return NO;
        void *base, *bytes = fake_surface_begin(theirs, back);
        anefast_error error;
        if (host()->surface_lock(mine, !!back, &base, &error) != ANEFAST_OK) fake_refuse("%s", error.message);
        const size_t used = last < 0 ? row : (size_t)ports[i].shape[last] * ports[i].strides[last];
        for (size_t at = 0, there = 0; at < ports[i].bytes; at += row, there += wide) // between rows is nobody's
            if (back) memcpy((char *)bytes + there, (char *)base + at, used);
            else memcpy((char *)base + at, (char *)bytes + there, used);
        host()->surface_unlock(mine, !!back, &error);
        fake_surface_end(theirs, back);
    }
    return YES;
}

static BOOL equal_sizes(NSArray *objects) {
    IOSurfaceRef surfaces[256];
    const size_t n = [objects count] < 256 ? [objects count] : 256;
    for (size_t i = 0; i < n; i++) surfaces[i] = ((_ANEIOSurfaceObject *)[objects objectAtIndex:i])->surface;
    return fake_sizes_equal(surfaces, n);
}

// What comes out where the device bound nothing: no error, and zeros.
- (void)clearSide:(NSArray *)objects ports:(const anefast_port *)ports {
    for (NSUInteger i = 0; i < [objects count]; i++) {
        IOSurfaceRef theirs = ((_ANEIOSurfaceObject *)[objects objectAtIndex:i])->surface;
        memset(fake_surface_begin(theirs, YES), 0, ports[i].bytes);
        fake_surface_end(theirs, YES);
    }
}

// Values that are wrong, and nobody says so: those of the evaluation before, zeros, or one row of many.
- (void)spoil:(anefast_surface *)surface port:(const anefast_port *)port {
    const int old = fake_fault("wrong_old"), zero = fake_fault("wrong_zero"), row = fake_fault("wrong_row");
    const int nan = fake_fault("wrong_nan");
    void *base;
    anefast_error error;
    if (host()->surface_lock(surface, 0, &base, &error) != ANEFAST_OK) fake_refuse("%s", error.message);
    NSData *now = [[NSData alloc] initWithBytes:base length:port->bytes];
    if (old && [stale length] == port->bytes) memcpy(base, [stale bytes], port->bytes);
    if (zero) memset(base, 0, port->bytes);
    if (row) memset((char *)base + port->bytes / 128 * 64, 0x42, 64); // halves of 3.13
    if (nan) memset(base, 0x7e, 64);
    host()->surface_unlock(surface, 0, &error);
    [stale release];
    stale = now;
}

- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(_ANERequest *)request
                  error:(NSError **)error {
    if ((state != LOADED && state != LOST) || qos > 63 || ![options isKindOfClass:[NSDictionary class]] ||
        ![request isKindOfClass:[_ANERequest class]])
        fake_refuse("an evaluation out of order");
    throw_if("evaluate_raises");
    fake_hang("hang_evaluate");
    if (fake_fault("sleep")) __atomic_add_fetch(&sleeps_of_the_system, 1, __ATOMIC_SEQ_CST);
    if (fake_fault("service")) {
        __atomic_add_fetch(&deaths_of_the_service, 1, __ATOMIC_SEQ_CST);
        return ended(error);
    }
    if ([self isLost] || state == LOST)
        return no(error, RUNTIME, 8, @"ANEProgramProcessRequestDirect() Failed with status=0x15 : Program not loaded");
    if (__sync_fetch_and_add(&evaluating, 1)) fake_refuse("two evaluations of one program at once");
    NSString *const SHORT = @"ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error";
    const anefast_port *in, *out;
    const size_t n_in = host()->inputs(program, &in), n_out = host()->outputs(program, &out);
    if ([request->inputs count] != n_in || [request->outputs count] != n_out)
        fake_refuse("a request of another program");
    fake_add("evaluations", 1);
    BOOL done = YES;
    if (fake_fault("evaluate") || !equal_sizes(request->inputs) || !equal_sizes(request->outputs) ||
        ![self copySide:request->inputs ports:in from:0 back:NO]) {
        done = no(error, RUNTIME, 8, SHORT);
    } else if (fake_fault("evaluate_index")) {
        done =
            no(error, RUNTIME, 8, @"ANEProgramProcessRequestDirect() Failed with status=0x2 : Program Inference error");
    } else if (!fake_sizes_in_order(in, n_in, out, n_out)) {
        [self clearSide:request->outputs ports:out];
    } else {
        anefast_surface *surfaces[256];
        if ([room count] > 256) fake_refuse("more than 256 ports");
        for (NSUInteger i = 0; i < [room count]; i++) surfaces[i] = [[room objectAtIndex:i] pointerValue];
        anefast_error wrong;
        if (host()->evaluate(program, surfaces, n_in, surfaces + n_in, n_out, &wrong) != ANEFAST_OK)
            fake_refuse("%s", wrong.message);
        [self spoil:surfaces[n_in] port:&out[0]];
        if (![self copySide:request->outputs ports:out from:n_in back:YES]) done = no(error, RUNTIME, 8, SHORT);
        const long after = fake_setting("slow_after");
        if (after && fake_count("evaluations") > after) usleep((useconds_t)fake_setting("slow_us"));
    }
    __sync_fetch_and_sub(&evaluating, 1);
    return done;
}

- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error {
    if ((state != LOADED && state != LOST) || qos > 63) fake_refuse("an unload out of order");
    if (evaluating) fake_refuse("an unload during an evaluation");
    fake_hang("hang_unload");
    if ([self isLost]) [self lose];
    if (state == LOST) return no(error, RUNTIME, 12, @"Program unload failed : not loaded");
    if (![self hasFiles:NO]) return no(error, RUNTIME, 12, @"Program unload failed : no such model");
    state = LOST;
    fake_add("loaded", -1);
    throw_if("unload_raises");
    if (fake_fault("unload")) return no(error, RUNTIME, 12, @"Program unload failed");
    state = COMPILED;
    return YES;
}

- (void)dealloc {
    if ([self isLost]) [self lose];
    if (state == LOADED) fake_refuse("a model was freed while loaded");
    [stale release];
    for (NSUInteger i = 0; i < [room count]; i++) host()->surface_release([[room objectAtIndex:i] pointerValue]);
    anefast_error ignored;
    if (program) host()->unload(program, &ignored);
    [room release];
    [attributes release];
    [descriptor release];
    fake_add("models", -1);
    [super dealloc];
}
@end

@implementation _ANEDeviceInfo
+ (BOOL)hasANE {
    return !fake_fault("no_ane");
}
+ (NSString *)aneArchitectureType {
    return fake_fault("architecture") ? @"h99z" : nil;
}
+ (unsigned int)numANECores {
    return fake_fault("cores") ? 16 : 0;
}
@end
