// What a program keeps of its weight files.
#pragma once

#include <memory>
#include <vector>

#include "fusion/fusion.h"
#include "pages.h"
#include "shelf.h"

namespace anefast::host {

struct Constants {
    Memory own;                                          // the small ones, side by side
    std::vector<std::shared_ptr<const Matrix>> matrices; // others may hold them too
    size_t bytes = 0;                                    // of both, whoever else holds them
};

// Keeps the constants that will be read, out of files that are the caller's, and points the function to what is kept;
// the others have no data any more. A matrix that only products read may be kept as its transpose: Value::turned.
Constants keep_constants(mil::Function &f, const std::vector<Fusion> &fusions);
// Whether every constant that will be read still has its data.
bool constants_are_there(const mil::Function &f, const std::vector<Fusion> &fusions);

} // namespace anefast::host
