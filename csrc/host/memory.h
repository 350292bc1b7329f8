// What a program holds in memory beside its steps: the arena, and what it keeps of its weight files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "groups.h"

namespace anefast::host {

// Whole pages, not yet touched.
struct Memory {
    std::unique_ptr<uint8_t, void (*)(void *)> data{nullptr, std::free};
    size_t bytes = 0;
};
size_t rounded_to_pages(size_t bytes);
Memory make_memory(size_t bytes); // of so many bytes, rounded to pages; none for 0. Throws std::bad_alloc

// Copies the constants that will be read out of the weight files, which are the caller's, and points the
// function to the copies; the others have no data any more.
Memory keep_constants(mil::Function &f, const std::vector<Group> &groups);
// Whether every constant that will be read still has its data.
bool constants_are_there(const mil::Function &f, const std::vector<Group> &groups);

} // namespace anefast::host
