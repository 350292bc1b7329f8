// A fake AppleNeuralEngine framework: the classes and methods this project calls, with their states and
// arguments checked, and evaluation carried out by the host executor on the program it was given.
// What a test can make go wrong is every fake_fault here; fake.h says how.
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include <pthread.h>
#include <string.h>

#include "../../csrc/anefast.h"
#include "fake.h"
#include "fake_sizes.h"
#include "fake_surface.h"

typedef enum { FRESH, COMPILED, LOADED, LOST } State; // LOST: an unload was made to fail

@interface _ANEInMemoryModelDescriptor : NSObject {
  @public
    NSData *text;
    NSDictionary *weights;
}
@end

@interface _ANEIOSurfaceObject : NSObject {
  @public
    IOSurfaceRef surface;
}
@end

@interface _ANERequest : NSObject {
  @public
    NSArray *inputs, *outputs;
}
@end

@interface _ANEInMemoryModel : NSObject {
    _ANEInMemoryModelDescriptor *descriptor;
    State state;
    anefast_program *program; // of the host
    NSMutableArray *room;     // host surfaces of the ports, as pointers
    NSDictionary *attributes;
    int evaluating;
}
@end

@interface _ANEDeviceInfo : NSObject
@end

static anefast_device *device;
static NSMutableSet *compiled; // identifiers that were compiled in this process
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

static void throw_if(const char *fault) {
    if (fake_fault(fault))
        [NSException raise:NSInvalidArgumentException format:@"-[_ANEModel %s]: unrecognized selector", fault];
}

@implementation _ANEInMemoryModelDescriptor
+ (id)modelWithMILText:(NSData *)text weights:(NSDictionary *)weights optionsPlist:(NSData *)plist {
    if (![text isKindOfClass:[NSData class]]) fake_refuse("MIL text that is not NSData");
    if (![weights isKindOfClass:[NSDictionary class]] || plist) fake_refuse("weights or options of a wrong kind");
    NSEnumerator *paths = [weights keyEnumerator];
    for (NSString *path; (path = [paths nextObject]);) {
        NSDictionary *one = [weights objectForKey:path];
        if (![path hasPrefix:@"@model_path/"] || [[one objectForKey:@"offset"] intValue] != 0 ||
            ![[one objectForKey:@"data"] isKindOfClass:[NSData class]])
            fake_refuse("weights %s of a wrong form", [path UTF8String]);
    }
    throw_if("descriptor_raises");
    if (fake_fault("descriptor")) return nil;
    _ANEInMemoryModelDescriptor *made = [[[self alloc] init] autorelease];
    fake_add("descriptors", 1);
    made->text = [text copy];
    made->weights = [weights copy];
    return made;
}
- (void)dealloc {
    [text release];
    [weights release];
    fake_add("descriptors", -1);
    [super dealloc];
}
@end

@implementation _ANEIOSurfaceObject
+ (id)objectWithIOSurface:(IOSurfaceRef)surface {
    if (!surface) fake_refuse("no surface to wrap");
    if (fake_fault("wrap")) return nil;
    _ANEIOSurfaceObject *made = [[[self alloc] init] autorelease];
    fake_add("wrapped", 1);
    made->surface = (IOSurfaceRef)CFRetain(surface);
    return made;
}
- (void)dealloc {
    CFRelease(surface);
    fake_add("wrapped", -1);
    [super dealloc];
}
@end

static void check_side(NSArray *objects, NSArray *indices) {
    if (![objects count] || [objects count] != [indices count]) fake_refuse("a request with uneven arrays");
    for (NSUInteger i = 0; i < [objects count]; i++)
        if (![[objects objectAtIndex:i] isKindOfClass:[_ANEIOSurfaceObject class]] ||
            [[indices objectAtIndex:i] unsignedIntegerValue] != i)
            fake_refuse("a request whose indices are not 0, 1, ...");
}

@implementation _ANERequest
+ (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weights
              perfStats:(id)stats
         procedureIndex:(NSNumber *)procedure {
    check_side(inputs, inputIndices);
    check_side(outputs, outputIndices);
    if (weights || stats || [procedure intValue] != 0) fake_refuse("a request for what we do not use");
    throw_if("request_raises");
    if (fake_fault("request")) return nil;
    _ANERequest *made = [[[self alloc] init] autorelease];
    fake_add("requests", 1);
    made->inputs = [inputs copy];
    made->outputs = [outputs copy];
    return made;
}
// Another maker, which a system may have in the place of the first. A test that wants it spells its name
// right in a copy of this library: sharedEvents.
+ (id)requestWithInputs:(NSArray *)inputs
           inputIndices:(NSArray *)inputIndices
                outputs:(NSArray *)outputs
          outputIndices:(NSArray *)outputIndices
          weightsBuffer:(id)weights
              perfStats:(id)stats
         procedureIndex:(NSNumber *)procedure
           hiddenEvents:(id)events {
    if (events) fake_refuse("a request with events");
    return [self requestWithInputs:inputs
                      inputIndices:inputIndices
                           outputs:outputs
                     outputIndices:outputIndices
                     weightsBuffer:weights
                         perfStats:stats
                    procedureIndex:procedure];
}
- (void)dealloc {
    [inputs release];
    [outputs release];
    fake_add("requests", -1);
    [super dealloc];
}
@end

// 1) what a model says of its ports

static NSString *type_name(const char *dtype) {
    if (!strcmp(dtype, "fp16")) return @"Float16";
    if (!strcmp(dtype, "fp32")) return @"Float32";
    return [NSString stringWithUTF8String:dtype];
}

static NSDictionary *live_of(const anefast_port *port, NSString *suffix) {
    NSMutableDictionary *live = [NSMutableDictionary dictionary];
    [live setObject:[[NSString stringWithUTF8String:port->name] stringByAppendingString:suffix] forKey:@"Name"];
    [live setObject:type_name(port->dtype) forKey:@"Type"];
    if (port->rank != 4) return live;
    const size_t wide = fake_fault("attributes_stride") ? 2 : 1;
    const struct {
        NSString *key;
        size_t value;
    } numbers[] = {
        {@"Batches", (size_t)port->shape[0]},
        {@"Channels", (size_t)port->shape[1] + (fake_fault("attributes_shape") ? 1 : 0)},
        {@"Depth", 1},
        {@"Height", (size_t)port->shape[2]},
        {@"Width", (size_t)port->shape[3]},
        {@"BatchStride", port->strides[0] * wide},
        {@"DepthStride", port->strides[0] * wide},
        {@"PlaneStride", port->strides[1] * wide},
        {@"RowStride", fake_fault("attributes_narrow") ? 2 : fake_fault("attributes_huge") ? SIZE_MAX / 4 : port->strides[2] * wide},
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
    for (NSUInteger i = 0; i < [paths count]; i++)
        weights = mixed(weights, [[descriptor->weights objectForKey:[paths objectAtIndex:i]] objectForKey:@"data"]);
    return [NSString stringWithFormat:@"%016llX_0_%016llX", (unsigned long long)mixed(1469598103934665603u, descriptor->text),
                                      (unsigned long long)weights];
}

- (NSString *)folder {
    return [NSTemporaryDirectory() stringByAppendingPathComponent:[self hexStringIdentifier]];
}

- (void)checkFile:(NSString *)name holds:(NSData *)data {
    NSString *path = [[self folder] stringByAppendingPathComponent:name];
    if (![[NSData dataWithContentsOfFile:path] isEqual:data])
        fake_refuse("%s does not hold what the descriptor does", [path UTF8String]);
}

- (BOOL)compiledModelExists {
    host();
    pthread_mutex_lock(&guard);
    const BOOL known = [compiled containsObject:[self hexStringIdentifier]];
    pthread_mutex_unlock(&guard);
    return known;
}

- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (state != FRESH || qos > 63 || ![options isKindOfClass:[NSDictionary class]]) fake_refuse("a compile out of order");
    [self checkFile:@"model.mil" holds:descriptor->text];
    NSArray *paths = [descriptor->weights allKeys];
    anefast_blob blobs[16];
    const NSUInteger n = [paths count];
    if (n > 16) fake_refuse("more than 16 weight files");
    for (NSUInteger i = 0; i < n; i++) {
        NSString *path = [paths objectAtIndex:i];
        NSData *data = [[descriptor->weights objectForKey:path] objectForKey:@"data"];
        [self checkFile:[path substringFromIndex:[@"@model_path/" length]] holds:data];
        blobs[i] = (anefast_blob){[path UTF8String], [data bytes], [data length]};
    }
    throw_if("compile_raises");
    if (fake_fault("compile")) return no(error, COMPILER, 1, @"_ANECompiler : ANECCompile() FAILED err=(CompilationFailure)");
    if (fake_fault("invalid")) return no(error, COMPILER, 1, @"_ANECompiler : ANECCompile() FAILED err=(InvalidMILProgram)");
    if (fake_fault("compile_posix")) return no(error, NSPOSIXErrorDomain, 13, @"Permission denied");
    if (fake_fault("compile_long")) {
        NSString *said = [@"" stringByPaddingToLength:3000 withString:[NSString stringWithUTF8String:"\xc3\xa4"] startingAtIndex:0];
        return no(error, COMPILER, 1, said);
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
    [[NSData data] writeToFile:[[self folder] stringByAppendingPathComponent:@"net.plist"] atomically:NO];
    pthread_mutex_lock(&guard);
    [compiled addObject:[self hexStringIdentifier]];
    pthread_mutex_unlock(&guard);
    fake_add("compiles", 1);
    state = COMPILED;
    return YES;
}

- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (state != COMPILED || qos > 63 || ![options isKindOfClass:[NSDictionary class]]) fake_refuse("a load out of order");
    throw_if("load_raises");
    if (fake_fault("load")) return no(error, RUNTIME, 6, @"Program load failed 0x20004");
    if (fake_fault("load_memory")) return no(error, RUNTIME, 53, @"Program load failed - no memory");
    attributes = [attributes_of(program) retain];
    fake_add("loaded", 1);
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
        if (IOSurfaceGetAllocSize(theirs) < ports[i].bytes) return NO;
        void *base, *bytes = fake_surface_begin(theirs, back);
        anefast_error error;
        if (host()->surface_lock(mine, !!back, &base, &error) != ANEFAST_OK) fake_refuse("%s", error.message);
        const int last = ports[i].rank - 1;
        const size_t row = last > 0 ? ports[i].strides[last - 1] : ports[i].bytes;
        const size_t used = last < 0 ? row : (size_t)ports[i].shape[last] * ports[i].strides[last];
        for (size_t at = 0; at < ports[i].bytes; at += row) // what is between rows is nobody's
            if (back) memcpy((char *)bytes + at, (char *)base + at, used);
            else memcpy((char *)base + at, (char *)bytes + at, used);
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

- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(_ANERequest *)request
                  error:(NSError **)error {
    if (state != LOADED || qos > 63 || ![options isKindOfClass:[NSDictionary class]] ||
        ![request isKindOfClass:[_ANERequest class]])
        fake_refuse("an evaluation out of order");
    throw_if("evaluate_raises");
    if (__sync_fetch_and_add(&evaluating, 1)) fake_refuse("two evaluations of one program at once");
    NSString *const SHORT = @"ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error";
    const anefast_port *in, *out;
    const size_t n_in = host()->inputs(program, &in), n_out = host()->outputs(program, &out);
    if ([request->inputs count] != n_in || [request->outputs count] != n_out) fake_refuse("a request of another program");
    fake_add("evaluations", 1);
    BOOL done = YES;
    if (fake_fault("evaluate") || !equal_sizes(request->inputs) || !equal_sizes(request->outputs) ||
        ![self copySide:request->inputs ports:in from:0 back:NO]) {
        done = no(error, RUNTIME, 8, SHORT);
    } else if (fake_fault("evaluate_index")) {
        done = no(error, RUNTIME, 8, @"ANEProgramProcessRequestDirect() Failed with status=0x2 : Program Inference error");
    } else if (!fake_sizes_in_order(in, n_in, out, n_out)) {
        [self clearSide:request->outputs ports:out];
    } else {
        anefast_surface *surfaces[256];
        if ([room count] > 256) fake_refuse("more than 256 ports");
        for (NSUInteger i = 0; i < [room count]; i++) surfaces[i] = [[room objectAtIndex:i] pointerValue];
        anefast_error wrong;
        if (host()->evaluate(program, surfaces, n_in, surfaces + n_in, n_out, &wrong) != ANEFAST_OK)
            fake_refuse("%s", wrong.message);
        if (![self copySide:request->outputs ports:out from:n_in back:YES]) done = no(error, RUNTIME, 8, SHORT);
    }
    __sync_fetch_and_sub(&evaluating, 1);
    return done;
}

- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error {
    if (state != LOADED || qos > 63) fake_refuse("an unload out of order");
    if (evaluating) fake_refuse("an unload during an evaluation");
    [self checkFile:@"model.mil" holds:descriptor->text]; // must still be there
    state = LOST;
    fake_add("loaded", -1);
    throw_if("unload_raises");
    if (fake_fault("unload")) return no(error, RUNTIME, 12, @"Program unload failed");
    state = COMPILED;
    return YES;
}

- (void)dealloc {
    if (state == LOADED) fake_refuse("a model was freed while loaded");
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
