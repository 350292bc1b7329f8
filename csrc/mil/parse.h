// MIL text -> typed program. Never crashes, whatever the bytes: the result is a program or an Error.
#pragma once

#include "program.h"

namespace anefast::mil {

struct Error {
    Position where;
    std::string message; // "[mil] expected ..., got ...", with the offending text quoted
};

// Parses and type-checks. Blobs are those BLOBFILE constants may name; pass none to check text whose
// weights are not at hand (`weights_optional`), in which case such constants have null data.
// Constants point into the blobs' data, which is not copied. Returns false and fills `error` where the text is refused.
bool parse(std::string_view text, const std::vector<Blob> &blobs, bool weights_optional, Program *program,
           Error *error);

} // namespace anefast::mil
