// Text to all that can be said about it. The grammar is in read.cpp.
#include "outline.h"

#include <new>
#include <stdexcept>

#include "read.h"

namespace anefast::mil {

Outline outline(std::string_view text) {
    Outline out;
    BlobTable table;
    std::vector<BlobMark> seen;
    table.optional = true;
    table.seen = &seen;
    const auto stopped = [&](Position where, std::string message, Fault fault) {
        out.notes.problems.push_back({where, std::move(message), fault});
        out.functions.resize(out.program.functions.size());
    };
    try {
        read(text, table, &out);
        out.complete = true;
    } catch (const Failure &failure) {
        stopped(failure.where, failure.message, failure.fault);
    } catch (const std::bad_alloc &) {
        stopped({1, 1}, "[mil] expected memory for the program, got none", Fault::size);
    } catch (const std::length_error &) {
        stopped({1, 1}, "[mil] expected memory for the program, got none", Fault::size);
    }
    return out;
}

const char *spelling(Fault fault) {
    static const char *const names[] = {"syntax", "type",   "undefined", "duplicate", "operation", "opset", "argument",
                                        "bare",   "dtype",  "dynamic",   "rank",      "size",      "range", "data"};
    return names[static_cast<size_t>(fault)];
}

} // namespace anefast::mil
