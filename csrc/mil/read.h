// The reading itself, behind parse.h and outline.h.
#pragma once

#include "outline.h"
#include "values.h"

namespace anefast::mil {

// Throws a Failure at the first fault, std::bad_alloc or std::length_error.
void read(std::string_view text, const BlobTable &blobs, Program *program);
// Notes what can be passed over, and throws only where reading cannot go on.
void read(std::string_view text, const BlobTable &blobs, Outline *outline);

// In a handler: why reading ended. What memory cannot hold is refused like any other text.
Failure reason();

} // namespace anefast::mil
