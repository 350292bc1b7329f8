/* Every private class and method this project calls, in one table. Nothing else in the tree spells
 * one: an update of macOS that renames a method breaks one line here, and opening the device says which.
 *
 * The list is plain C so that a machine without an ANE can print it too (none.c). private.m looks
 * the entries up and is the only file that calls them; read it next.
 */
#ifndef ANEFAST_ANE_SELECTORS_H
#define ANEFAST_ANE_SELECTORS_H

#ifdef __cplusplus
extern "C" {
#endif

#define ANE_FRAMEWORK "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"

/* The compiler behind it: two C functions, and keys of the dictionaries that they take and give. compiler.m
 * calls them. */
#define ANE_COMPILER "/System/Library/PrivateFrameworks/ANECompiler.framework/ANECompiler"
#define ANE_COMPILER_INPUT "ANECCreateCompilerInputDictionary"
#define ANE_COMPILER_COMPILE "ANECCompile"
#define ANE_COMPILER_OUT_NAME @"OutputFileName"
#define ANE_COMPILER_OUT_FOLDER @"OutputFilePath"
#define ANE_COMPILER_TARGET @"TargetArchitecture"
#define ANE_COMPILER_ERRORS @"ErrorList"

/* X(key, class, kind: + of the class or - of its objects, selector, required) */
#define ANE_SELECTORS(X)                                                                                               \
    X(DESCRIBE, "_ANEInMemoryModelDescriptor", '+', "modelWithMILText:weights:optionsPlist:", 1)                       \
    X(MODEL, "_ANEInMemoryModel", '+', "inMemoryModelWithDescriptor:", 1)                                              \
    X(HEX, "_ANEInMemoryModel", '-', "hexStringIdentifier", 1)                                                         \
    X(COMPILE, "_ANEInMemoryModel", '-', "compileWithQoS:options:error:", 1)                                           \
    X(LOAD, "_ANEInMemoryModel", '-', "loadWithQoS:options:error:", 1)                                                 \
    X(EVALUATE, "_ANEInMemoryModel", '-', "evaluateWithQoS:options:request:error:", 1)                                 \
    X(UNLOAD, "_ANEInMemoryModel", '-', "unloadWithQoS:error:", 1)                                                     \
    X(EXISTS, "_ANEInMemoryModel", '-', "compiledModelExists", 0)                                                      \
    X(ATTRIBUTES, "_ANEInMemoryModel", '-', "modelAttributes", 0)                                                      \
    X(WRAP, "_ANEIOSurfaceObject", '+', "objectWithIOSurface:", 1)                                                     \
    X(REQUEST, "_ANERequest", '+',                                                                                     \
      "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:", 1)               \
    X(HAS_ANE, "_ANEDeviceInfo", '+', "hasANE", 0)                                                                     \
    X(ARCHITECTURE, "_ANEDeviceInfo", '+', "aneArchitectureType", 0)                                                   \
    X(CORES, "_ANEDeviceInfo", '+', "numANECores", 0)

/* Other methods that make a request, tried in turn if REQUEST is missing or makes none. They take
 * one and two arguments more, events and a handle, which may be nil. Seen by jafreck/ironmill. */
#define ANE_REQUEST_WITH_EVENTS                                                                                        \
    "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:sharedEvents:"
#define ANE_REQUEST_WITH_HANDLE ANE_REQUEST_WITH_EVENTS "transactionHandle:"

enum {
#define X(key, owner, kind, selector, required) ANE_##key,
    ANE_SELECTORS(X)
#undef X
        ANE_SELECTOR_COUNT
};

typedef struct {
    const char *owner, *selector;
    char kind;         /* '+' or '-' */
    int required;      /* the device cannot be opened without it */
    int found;         /* 0 until the framework was opened */
    const char *types; /* the runtime's encoding of it, "" where it was not found */
} ane_selector;

/* The table, ANE_SELECTOR_COUNT entries long, as last looked up. */
const ane_selector *ane_selectors(void);

#ifdef __cplusplus
}
#endif
#endif
