// A fake ANECompiler framework, in the library of the fake AppleNeuralEngine: the two functions that this
// project calls, with their arguments checked. What it takes is what the host executor takes.
#import <Foundation/Foundation.h>

#include <signal.h>
#include <string.h>

#include "../../csrc/anefast.h"
#include "fake.h"

#define PUBLIC __attribute__((visibility("default")))

extern void *_NSConcreteGlobalBlock[32];

typedef struct block {
    void *isa;
    int flags, reserved;
    void (*invoke)(struct block *, int status, NSDictionary *result);
    const struct {
        unsigned long reserved, size;
    } *descriptor;
} block;

PUBLIC id ANECCreateCompilerInputDictionary(const char *path) {
    if (!path || *path != '/') fake_refuse("a program at no absolute path");
    if (fake_fault("target_input")) return nil;
    NSString *file = [NSString stringWithUTF8String:path];
    NSDictionary *network =
        [NSDictionary dictionaryWithObjectsAndKeys:[file lastPathComponent], @"NetworkSourceFileName",
                                                   [file stringByDeletingLastPathComponent], @"NetworkSourcePath", nil];
    return [[NSDictionary alloc] initWithObjectsAndKeys:[NSArray arrayWithObject:network], @"InputNetworks", nil];
}

static void tell(block *told, int status, NSString *why) {
    NSDictionary *result = nil;
    if (why) result = [NSDictionary dictionaryWithObject:[NSArray arrayWithObject:why] forKey:@"ErrorList"];
    told->invoke(told, status, result);
}

// What the host executor says of the program in `folder`; nil where it takes it.
static NSString *refusal(NSString *folder) {
    const anefast_executor *host = anefast_host_executor();
    anefast_device *device;
    anefast_program *program;
    anefast_error error;
    NSData *text = [NSData dataWithContentsOfFile:[folder stringByAppendingPathComponent:@"model.mil"]];
    NSString *weights = [folder stringByAppendingPathComponent:@"weights"];
    NSArray *names = [[NSFileManager defaultManager] directoryContentsAtPath:weights];
    anefast_blob blobs[16];
    if (!text || [names count] > 16) fake_refuse("a program without its files");
    for (NSUInteger i = 0; i < [names count]; i++) {
        NSString *name = [names objectAtIndex:i];
        NSData *data = [NSData dataWithContentsOfFile:[weights stringByAppendingPathComponent:name]];
        NSString *path = [@"@model_path/weights/" stringByAppendingString:name];
        blobs[i] = (anefast_blob){[path UTF8String], [data bytes], [data length]};
    }
    if (host->open("", &device, &error) != ANEFAST_OK) fake_refuse("%s", error.message);
    const anefast_status status =
        host->compile(device, [text bytes], [text length], blobs, [names count], &program, &error);
    if (status == ANEFAST_OK) host->unload(program, &error);
    host->close(device);
    return status == ANEFAST_OK ? nil : [NSString stringWithUTF8String:error.message];
}

PUBLIC void ANECCompile(NSDictionary *input, NSDictionary *options, block *told) {
    NSDictionary *network = [[input objectForKey:@"InputNetworks"] objectAtIndex:0];
    NSString *folder = [network objectForKey:@"NetworkSourcePath"];
    NSString *target = [options objectForKey:@"TargetArchitecture"];
    if (![[network objectForKey:@"NetworkSourceFileName"] isEqualToString:@"model.mil"] || !target ||
        [options count] != 1)
        fake_refuse("a compile with input or options of a wrong form");
    if (![[input objectForKey:@"OutputFilePath"] isEqualToString:[folder stringByAppendingString:@"/"]] ||
        ![[input objectForKey:@"OutputFileName"] length])
        fake_refuse("a compile that would write elsewhere");
    if (told->isa != _NSConcreteGlobalBlock || told->flags != 1 << 28 || told->descriptor->size < sizeof *told)
        fake_refuse("a block of a wrong form");
    fake_add("target_compiles", 1);
    if (fake_fault("target_crash")) raise(SIGSEGV);
    fake_hang("target_hang");
    if (fake_fault("target_raises")) [NSException raise:NSGenericException format:@"no such target"];
    if (fake_fault("target")) {
        tell(told, 22, @"CompilationFailure");
        return;
    }
    const int number = [[target substringFromIndex:1] intValue];
    if (![target hasPrefix:@"h"] || number < 13 || number > 18) {
        tell(told, 1, nil);
        return;
    }
    NSData *text = [NSData dataWithContentsOfFile:[folder stringByAppendingPathComponent:@"model.mil"]];
    if (fake_setting("no_concat") == number && memmem([text bytes], [text length], " concat(", 8)) {
        tell(told, 22, @"CompilationFailure");
        return;
    }
    NSString *why = refusal(folder);
    if (!why)
        [@"compiled" writeToFile:[folder stringByAppendingPathComponent:[input objectForKey:@"OutputFileName"]]
                      atomically:NO];
    tell(told, why ? 1 : 0, why);
}
