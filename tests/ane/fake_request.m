// See fake_request.h.
#include "fake_request.h"

#include "fake.h"

void throw_if(const char *fault) {
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
