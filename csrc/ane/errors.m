// See errors.h.
#import "errors.h"

#include <string.h>

#define NO_MEMORY "no memory"
#define TOO_LARGE "0x20004"
enum { NO_ROOM = 53 };

enum { MOST_SHOWN = 256 }; // bytes of the framework's own words; a message has four times as many

// What public projects found behind the framework's errors, by a part of their text or by code. The
// first row that fits is told. Sources: maderix/ANE, Orion, ironmill, Espresso, ANEForge and ane-guide.
typedef struct {
    const char *part; // of the message; NULL fits any
    long code;        // of the framework's own domains; 0 fits any
    const char *hint;
} known_error;

static const known_error KNOWN[] = {
    {"status=0x1d", 0, "a surface is smaller than its port's rows of 64 bytes, or bound to another port"},
    {"status=0x2 ", 0, "the request's indices are not those of the program's ports"},
    {"status=0x12", 0, "the surfaces could not be mapped: too little memory, or too large a surface"},
    {"InvalidMILProgram", 0, "two values share a name, an output is never computed, or a name is dangling"},
    {TOO_LARGE, 0, "the program is too large to load; a plan with fewer layers per program has smaller ones"},
    {NO_MEMORY, 0, "too many programs are loaded, or too large ones; a plan with fewer programs needs less"},
    {"0xe00002c7", 0, "the system wants an entitlement for this call, which ordinary programs lack"},
    {"0xe00002e2", 0, "the system refused a program that is not signed"},
    {"ANECCompile", 0,
     "the compiler gives no reason. After many compiles in one process (119 were seen) see --on-budget; a dtype, "
     "op or axis length this chip lacks is the other usual cause: anefast lint"},
    {NULL, NO_ROOM, "too many programs are loaded, or too large ones"},
    {NULL, 13, "the surfaces could not be mapped: too little memory, or too large a surface"},
};

// Foundation's own numbers for connections to a service (FoundationErrors.h: NSXPCConnectionErrorMinimum and
// Maximum), and its name for their domain.
enum { FIRST_OF_CONNECTIONS = 4096, LAST_OF_CONNECTIONS = 4224 };
static NSString *const FOUNDATION = @"NSCocoaErrorDomain";

int ane_interrupted(NSError *cause) {
    return cause && [[cause domain] isEqualToString:FOUNDATION] && [cause code] >= FIRST_OF_CONNECTIONS &&
           [cause code] <= LAST_OF_CONNECTIONS;
}

int ane_no_room(NSError *cause) {
    const char *text = [[cause localizedDescription] UTF8String];
    return [cause code] == NO_ROOM || (text && (strstr(text, NO_MEMORY) || strstr(text, TOO_LARGE)));
}

static const char *hint_for(const char *domain, const char *text, long code) {
    if (!strstr(domain, "appleneuralengine")) code = 0; // the same number of another domain means another thing
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if ((!KNOWN[i].part || strstr(text, KNOWN[i].part)) && (!KNOWN[i].code || KNOWN[i].code == code))
            return KNOWN[i].hint;
    return "anefast doctor shows what this machine can do";
}

// Bytes of the whole characters that fit: a hint comes behind them.
static int shown(const char *text) {
    size_t n = strnlen(text, MOST_SHOWN + 1);
    if (n <= MOST_SHOWN) return (int)n;
    for (n = MOST_SHOWN; n && ((unsigned char)text[n] & 0xc0) == 0x80; n--) continue;
    return (int)n;
}

anefast_status ane_fail_with(anefast_error *error, anefast_status status, const char *expected, NSError *cause) {
    if (!cause)
        return set_error(error, status,
                         "[ane] expected %s, got neither that nor an error from the framework. Hint: "
                         "anefast doctor shows what this machine can do.",
                         expected);
    const char *domain = [[cause domain] UTF8String], *text = [[cause localizedDescription] UTF8String];
    const long code = (long)[cause code];
    if (!domain) domain = "no domain";
    if (!text) text = "no message";
    const char *hint = ane_interrupted(cause)
                           ? "the Neural Engine's service ended. It starts again by itself; where it "
                             "keeps ending, restart the system"
                           : hint_for(domain, text, code);
    return set_error(error, status, "[ane] expected %s, got %.*s code %ld: %.*s. Hint: %s.", expected, shown(domain),
                     domain, code, shown(text), text, hint);
}
