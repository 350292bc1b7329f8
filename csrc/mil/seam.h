// What every executor does with MIL at its C seam: weight files in, a place in the text out.
#pragma once

#include <string>
#include <vector>

#include "../error.h"
#include "program.h"

namespace anefast::mil {

// The caller's weight files as parse() takes them; nothing is copied.
inline std::vector<Blob> lent(const anefast_blob *blobs, size_t n) {
    std::vector<Blob> all;
    for (size_t i = 0; i < n; i++)
        all.push_back({blobs[i].path, static_cast<const uint8_t *>(blobs[i].data), blobs[i].bytes});
    return all;
}

inline anefast_status fail(anefast_error *error, anefast_status status, const std::string &message, Position at = {}) {
    return set_error_at(error, status, at.line, at.column, "%s", message.c_str());
}

} // namespace anefast::mil
