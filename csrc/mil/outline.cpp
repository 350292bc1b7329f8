// Text to all that can be said about it. The grammar is in read.cpp.
#include "outline.h"

#include "read.h"

namespace anefast::mil {

Outline outline(std::string_view text) {
    Outline out;
    BlobTable table;
    std::vector<BlobMark> seen;
    table.optional = true;
    table.seen = &seen;
    try {
        read(text, table, &out);
        out.complete = true;
    } catch (...) {
        const Failure failure = reason();
        out.notes.problems.push_back({failure.where, failure.message, failure.fault});
        out.functions.resize(out.program.functions.size());
    }
    return out;
}

const char *spelling(Fault fault) {
    static const char *const names[] = {"syntax",  "type",     "undefined", "duplicate", "operation",
                                        "opset",   "argument", "bare",      "typed",     "dtype",
                                        "dynamic", "rank",     "size",      "range",     "data"};
    return names[static_cast<size_t>(fault)];
}

} // namespace anefast::mil
