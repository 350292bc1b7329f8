// What a model is made of and asked with, as the fake framework has them: descriptor, surface object, request.
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

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

void throw_if(const char *fault); // an exception, where that fault is due
