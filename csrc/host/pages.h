// Memory by the page: for what programs keep of their weight files, and compute in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace anefast::host {

// Whole pages, not yet touched.
struct Memory {
    std::unique_ptr<uint8_t, void (*)(void *)> data{nullptr, std::free};
    size_t bytes = 0;
};
size_t rounded_to_pages(size_t bytes);
Memory make_memory(size_t bytes); // of so many bytes, rounded to pages; none for 0. Throws std::bad_alloc

} // namespace anefast::host
