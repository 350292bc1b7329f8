// See shelf.h.
#include "shelf.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "../fork.h"

namespace anefast::host {

namespace {

struct Shelf {
    ForkMutex mutex;
    std::unordered_multimap<uint64_t, std::pair<const Matrix *, std::weak_ptr<const Matrix>>> matrices;
    std::multiset<size_t> wanted; // bytes of each program's intermediate values
    std::vector<Memory> idle;     // smallest first
};

Shelf &shelf() {
    static auto *one = new Shelf; // programs may outlive everything that is destroyed at exit
    return *one;
}

// Of the diagonal, which a matrix and its transpose have in common.
uint64_t key_of(const uint16_t *values, int64_t rows, int64_t columns) {
    uint64_t key = static_cast<uint64_t>(rows * columns);
    for (int64_t i = 0; i < std::min(rows, columns); i++)
        key = (key ^ values[i * columns + i]) * 0x100000001b3; // FNV-1a
    return key;
}

// In squares, so that either side's lines are read while they are near.
bool is_transpose(const uint16_t *a, const uint16_t *b, int64_t rows, int64_t columns) {
    constexpr int64_t SIDE = 32;
    for (int64_t i = 0; i < rows; i += SIDE)
        for (int64_t j = 0; j < columns; j += SIDE) {
            const int64_t i_end = std::min(i + SIDE, rows), j_end = std::min(j + SIDE, columns);
            uint16_t other = 0;
            for (int64_t y = i; y < i_end; y++)
                for (int64_t x = j; x < j_end; x++) other |= a[y * columns + x] ^ b[x * rows + y];
            if (other) return false;
        }
    return true;
}

const uint16_t *halves(const uint8_t *bytes) { return reinterpret_cast<const uint16_t *>(bytes); }

} // namespace

Matrix::~Matrix() {
    Shelf &s = shelf();
    std::lock_guard<std::mutex> held(s.mutex);
    const auto [begin, end] = s.matrices.equal_range(key);
    for (auto at = begin; at != end; ++at)
        if (at->second.first == this) {
            s.matrices.erase(at);
            break;
        }
}

std::shared_ptr<const Matrix> shelved(const uint8_t *values, int64_t rows, int64_t columns, bool *turned) {
    Shelf &s = shelf();
    const uint16_t *const mine = halves(values);
    const uint64_t key = key_of(mine, rows, columns);
    const size_t bytes = static_cast<size_t>(rows * columns) * sizeof(uint16_t);
    std::vector<std::shared_ptr<const Matrix>> like; // compared, and let go, without the lock
    {
        std::lock_guard<std::mutex> held(s.mutex);
        const auto [begin, end] = s.matrices.equal_range(key);
        like.reserve(
            static_cast<size_t>(std::distance(begin, end))); // now: nothing may throw, or be let go, under the lock
        for (auto at = begin; at != end; ++at)
            if (auto found = at->second.second.lock()) like.push_back(std::move(found));
    }
    for (const auto &found : like)
        if (found->rows == rows && found->columns == columns && !std::memcmp(found->memory.data.get(), values, bytes)) {
            if (turned) *turned = false;
            return found;
        }
    for (const auto &found : like)
        if (turned && found->rows == columns && found->columns == rows &&
            is_transpose(mine, halves(found->memory.data.get()), rows, columns)) {
            *turned = true;
            return found;
        }
    auto made = std::make_shared<Matrix>(rows, columns, key, make_memory(bytes));
    std::memcpy(made->memory.data.get(), values, bytes);
    std::lock_guard<std::mutex> held(s.mutex);
    s.matrices.emplace(key, std::make_pair(made.get(), std::weak_ptr<const Matrix>(made)));
    if (turned) *turned = false;
    return made;
}

Arena::Arena(size_t bytes) : bytes_(rounded_to_pages(bytes)) {
    Shelf &s = shelf();
    std::lock_guard<std::mutex> held(s.mutex);
    s.idle.reserve(s.wanted.size() + 1); // no program is lent two: what is lent can be given back
    s.wanted.insert(bytes_);
}

Arena::~Arena() {
    Shelf &s = shelf();
    std::vector<Memory> gone;
    std::lock_guard<std::mutex> held(s.mutex);
    s.wanted.erase(s.wanted.find(bytes_));
    const size_t most = s.wanted.empty() ? 0 : *s.wanted.rbegin();
    while (!s.idle.empty() && s.idle.back().bytes > most) {
        gone.push_back(std::move(s.idle.back()));
        s.idle.pop_back();
    }
}

Arena::Lent::Lent(const Arena &arena) {
    if (!arena.bytes_) return;
    Shelf &s = shelf();
    {
        std::lock_guard<std::mutex> held(s.mutex);
        if (!s.idle.empty()) {
            memory_ = std::move(s.idle.back());
            s.idle.pop_back();
        }
    }
    if (memory_.bytes >= arena.bytes_) return;
    memory_ = Memory{};
    memory_ = make_memory(arena.bytes_);
}

Arena::Lent::~Lent() {
    if (!memory_.bytes) return;
    Shelf &s = shelf();
    std::lock_guard<std::mutex> held(s.mutex);
    const auto before = std::upper_bound(s.idle.begin(), s.idle.end(), memory_.bytes,
                                         [](size_t bytes, const Memory &m) { return bytes < m.bytes; });
    s.idle.insert(before, std::move(memory_));
}

} // namespace anefast::host
