// See constants.h.
#include "constants.h"

#include <cstring>

#include "../round.h"
#include "ops/registry.h"

namespace anefast::host {

namespace {

constexpr size_t ALIGNMENT = 64;
// Smaller matrices are not shared. Reading one as the transpose of another takes about one instruction more for each
// element at every evaluation: 0.4 % of a micro-step at 64 positions, where matrices this small save next to no memory.
constexpr size_t SHARED_BYTES = 1 << 16;

// Values that somebody reads while the function runs, by the tasks that read them.
std::vector<bool> read_values(const mil::Function &f, const std::vector<Fusion> &fusions) {
    std::vector<bool> read(f.values.size(), false), fused(f.operations.size(), false);
    for (const Fusion &fusion : fusions) {
        for (size_t i : fusion.operations) fused[i] = true;
        for (int32_t v : fusion.reads) read[v] = true;
    }
    for (size_t i = 0; i < f.operations.size(); i++)
        for (const mil::Argument &a : f.operations[i].arguments)
            for (int32_t v : a.values) read[v] = read[v] || !fused[i];
    for (int32_t v : f.outputs) read[v] = true;
    return read;
}

// For each value whether it is read, as a constant, by nothing but products that take it turned as well.
std::vector<bool> may_be_turned(const mil::Function &f) {
    std::vector<bool> may(f.values.size(), true);
    for (const mil::Operation &op : f.operations)
        for (const mil::Argument &a : op.arguments)
            for (int32_t v : a.values) may[v] = may[v] && a.name == "weight" && takes_turned(f, op);
    for (int32_t v : f.outputs) may[v] = false;
    return may;
}

// A constant that programs may hold together: a large matrix of halves, whatever axes of one element it has.
bool is_matrix(const mil::Type &type) {
    if (type.dtype != mil::DType::fp16 || type.bytes() < SHARED_BYTES || type.shape.size() < 2) return false;
    return static_cast<size_t>(type.shape[0]) * static_cast<size_t>(type.shape[1]) == type.elements();
}

} // namespace

bool constants_are_there(const mil::Function &f, const std::vector<Fusion> &fusions) {
    const std::vector<bool> read = read_values(f, fusions);
    for (size_t v = 0; v < f.values.size(); v++)
        if (read[v] && f.values[v].is_const && !f.values[v].data && f.values[v].strings.empty()) return false;
    return true;
}

Constants keep_constants(mil::Function &f, const std::vector<Fusion> &fusions) {
    const std::vector<bool> read = read_values(f, fusions), turns = may_be_turned(f);
    Constants kept;
    std::vector<mil::Value *> own; // that are no shared matrices
    size_t own_bytes = 0;
    for (size_t i = 0; i < f.values.size(); i++) {
        mil::Value &v = f.values[i];
        if (!v.is_const || !v.data || v.inline_bytes) continue; // only what lies in a file
        if (!read[i]) {
            v.data = nullptr;
            continue;
        }
        kept.bytes += round_up(v.type.bytes(), ALIGNMENT);
        if (!is_matrix(v.type)) {
            own.push_back(&v);
            own_bytes += round_up(v.type.bytes(), ALIGNMENT);
            continue;
        }
        auto matrix = shelved(v.data, v.type.shape[0], v.type.shape[1], turns[i] ? &v.turned : nullptr);
        v.data = matrix->memory.data.get();
        kept.matrices.push_back(std::move(matrix));
    }
    kept.own = make_memory(own_bytes);
    uint8_t *to = kept.own.data.get();
    for (mil::Value *v : own) {
        std::memcpy(to, v->data, v->type.bytes());
        v->data = to;
        to += round_up(v->type.bytes(), ALIGNMENT);
    }
    kept.bytes = rounded_to_pages(kept.bytes);
    return kept;
}

} // namespace anefast::host
