// See layout.h. The shape of the dictionary is known from two public projects' dumps (ironmill,
// ANEForge): symbol arrays under ANEFModelDescription, live lists with strides under NetworkStatusList.
// Nothing in it is taken on trust; every object is asked for its class first.
#import "layout.h"

#include <string.h>

#import "errors.h"

static const int64_t MOST_BYTES = (int64_t)1 << 40; // of a port; no surface is as large

static id of_class(id object, Class wanted) { return [object isKindOfClass:wanted] ? object : nil; }

static id entry(id dictionary, NSString *key, Class wanted) {
    return of_class([of_class(dictionary, [NSDictionary class]) objectForKey:key], wanted);
}

// "y@output" is how output tables spell y.
static NSString *plain(NSString *symbol) {
    const NSRange at = [symbol rangeOfString:@"@"];
    return at.length ? [symbol substringToIndex:at.location] : symbol;
}

static int is_port(const anefast_port *port, NSString *symbol) {
    const char *name = [plain(symbol) UTF8String];
    return name && !strcmp(name, port->name);
}

// A name of ours in another place is an order we do not know. A name that is nobody's says nothing
// about order: a system may spell its symbols as it likes.
static anefast_status check_order(NSArray *symbols, const anefast_port *ports, size_t n, const char *side,
                                  anefast_error *error) {
    if (!symbols) return ANEFAST_OK;
    int moved = [symbols count] != n;
    for (size_t i = 0; !moved && i < n; i++) {
        NSString *symbol = of_class([symbols objectAtIndex:i], [NSString class]);
        if (!symbol || is_port(&ports[i], symbol)) continue;
        for (size_t other = 0; other < n; other++) moved |= is_port(&ports[other], symbol);
    }
    if (!moved) return ANEFAST_OK;
    NSMutableArray *ours = [NSMutableArray array];
    for (size_t i = 0; i < n; i++) [ours addObject:[NSString stringWithUTF8String:ports[i].name]];
    return set_error(error, ANEFAST_COMPILE,
                     "[ane] expected the model's %s to be %s, in that order, got %s. Hint: this system binds ports in "
                     "another way than any known one; please report it with anefast doctor.",
                     side, [[ours componentsJoinedByString:@", "] UTF8String],
                     [[symbols componentsJoinedByString:@", "] UTF8String]);
}

// A number of a live entry; -1 where there is none.
static int64_t number(NSDictionary *live, NSString *key) {
    NSNumber *found = entry(live, key, [NSNumber class]);
    return found ? (int64_t)[found longLongValue] : -1;
}

static NSDictionary *live_of(NSArray *list, const anefast_port *port) {
    for (NSUInteger i = 0; i < [list count]; i++) {
        NSString *symbol = entry([list objectAtIndex:i], @"Name", [NSString class]);
        if (symbol && is_port(port, symbol)) return [list objectAtIndex:i];
    }
    return nil;
}

// Only [N, C, H, W] has strides whose meaning is known; other ranks keep the rule, and a surface that
// is too small for them is refused by the evaluation.
static anefast_status apply_strides(NSDictionary *live, anefast_port *port, anefast_error *error) {
    if (!live || port->rank != 4) return ANEFAST_OK;
    NSString *axes[] = {@"Batches", @"Channels", @"Height", @"Width"};
    NSString *strides[] = {@"BatchStride", @"PlaneStride", @"RowStride"};
    for (int i = 0; i < 4; i++) {
        const int64_t size = number(live, axes[i]);
        if (size != -1 && size != port->shape[i])
            return set_error(error, ANEFAST_COMPILE,
                             "[ane] expected the model's %s of port %s to be %d, got %lld. Hint: please report it with "
                             "anefast doctor.",
                             [axes[i] UTF8String], port->name, port->shape[i], (long long)size);
    }
    const int64_t interleave = number(live, @"Interleave");
    if (interleave > 1)
        return set_error(error, ANEFAST_COMPILE,
                         "[ane] expected port %s to be laid out plainly, got an interleave of %lld. Hint: please "
                         "report it with anefast doctor.",
                         port->name, (long long)interleave);
    int64_t least = (int64_t)port->shape[3] * (int64_t)port->strides[3];
    for (int i = 2; i >= 0; i--) {
        if (![live objectForKey:strides[i]]) return ANEFAST_OK;
        const int64_t stride = number(live, strides[i]); // -1, and refused, where it is no number
        if (stride < least || stride > MOST_BYTES / port->shape[i])
            return set_error(error, ANEFAST_COMPILE,
                             "[ane] expected the model's %s of port %s to be at least %lld bytes and the whole "
                             "less than a terabyte, got %lld. Hint: please report it with anefast doctor.",
                             [strides[i] UTF8String], port->name, (long long)least, (long long)stride);
        least = stride * port->shape[i];
    }
    for (int i = 0; i < 3; i++) port->strides[i] = (size_t)number(live, strides[i]);
    port->bytes = port->strides[0] * (size_t)port->shape[0];
    return ANEFAST_OK;
}

anefast_status ane_layout_apply(id attributes, ane_ports *ports, anefast_error *error) {
    id description = entry(attributes, @"ANEFModelDescription", [NSDictionary class]);
    // One status per network, and there is one; it was seen in a list, and is taken without one too.
    id network = entry(attributes, @"NetworkStatusList", [NSObject class]);
    if (of_class(network, [NSArray class])) network = [network count] ? [network objectAtIndex:0] : nil;
    NSString *symbols[] = {@"kANEFModelInputSymbolsArrayKey", @"kANEFModelOutputSymbolsArrayKey"};
    NSString *lists[] = {@"LiveInputList", @"LiveOutputList"};
    anefast_status status = ANEFAST_OK;
    for (int side = 0; side < 2 && status == ANEFAST_OK; side++) {
        anefast_port *all = side ? ports->outputs : ports->inputs;
        const size_t n = side ? ports->n_outputs : ports->n_inputs;
        status =
            check_order(entry(description, symbols[side], [NSArray class]), all, n, side ? "outputs" : "inputs", error);
        NSArray *list = entry(network, lists[side], [NSArray class]);
        for (size_t i = 0; i < n && status == ANEFAST_OK; i++)
            status = apply_strides(live_of(list, &all[i]), &all[i], error);
    }
    return status;
}
