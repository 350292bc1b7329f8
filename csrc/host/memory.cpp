// See memory.h.
#include "memory.h"

#include <cstring>
#include <new>

#include "../round.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace anefast::host {

namespace {

constexpr size_t ALIGNMENT = 64, PAGE = 4096;

// Values that somebody reads while the function runs, by the tasks that read them.
std::vector<bool> read_values(const mil::Function &f, const std::vector<Group> &groups) {
    std::vector<bool> read(f.values.size(), false), grouped(f.operations.size(), false);
    for (const Group &group : groups) {
        for (size_t i : group.operations) grouped[i] = true;
        for (int32_t v : group.reads) read[v] = true;
    }
    for (size_t i = 0; i < f.operations.size(); i++)
        for (const mil::Argument &a : f.operations[i].arguments)
            for (int32_t v : a.values) read[v] = read[v] || !grouped[i];
    for (int32_t v : f.outputs) read[v] = true;
    return read;
}

} // namespace

size_t rounded_to_pages(size_t bytes) { return round_up(bytes, PAGE); }

// Where there are huge pages they are asked for: arena and weights are walked from end to end, many times.
Memory make_memory(size_t bytes) {
    Memory m;
    if (!bytes) return m;
    m.bytes = rounded_to_pages(bytes);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr size_t HUGE_PAGE = 2 << 20;
    if (m.bytes >= HUGE_PAGE) {
        m.data.reset(static_cast<uint8_t *>(std::aligned_alloc(HUGE_PAGE, m.bytes)));
        if (m.data) madvise(m.data.get(), m.bytes, MADV_HUGEPAGE);
    } else
#endif
        m.data.reset(static_cast<uint8_t *>(std::aligned_alloc(PAGE, m.bytes)));
    if (!m.data) throw std::bad_alloc();
    return m;
}

bool constants_are_there(const mil::Function &f, const std::vector<Group> &groups) {
    const std::vector<bool> read = read_values(f, groups);
    for (size_t v = 0; v < f.values.size(); v++)
        if (read[v] && f.values[v].is_const && !f.values[v].data && f.values[v].strings.empty()) return false;
    return true;
}

Memory keep_constants(mil::Function &f, const std::vector<Group> &groups) {
    const std::vector<bool> read = read_values(f, groups);
    auto in_file = [&](size_t v) { return f.values[v].is_const && f.values[v].data && !f.values[v].inline_bytes; };
    size_t bytes = 0;
    for (size_t v = 0; v < f.values.size(); v++)
        if (in_file(v) && read[v]) bytes += round_up(f.values[v].type.bytes(), ALIGNMENT);
    Memory kept = make_memory(bytes);
    uint8_t *to = kept.data.get();
    for (size_t v = 0; v < f.values.size(); v++) {
        if (!in_file(v)) continue;
        const uint8_t *from = f.values[v].data;
        f.values[v].data = read[v] ? to : nullptr;
        if (!read[v]) continue;
        std::memcpy(to, from, f.values[v].type.bytes());
        to += round_up(f.values[v].type.bytes(), ALIGNMENT);
    }
    return kept;
}

} // namespace anefast::host
