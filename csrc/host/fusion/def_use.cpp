// See def_use.h.
#include "def_use.h"

#include <algorithm>

#include "../ops/convert.h"

namespace anefast::host {

DefUse::DefUse(const mil::Function &function)
    : f(function), made_by_(f.values.size(), -1), readers_(f.values.size()), is_output_(f.values.size(), false) {
    for (size_t i = 0; i < f.operations.size(); i++) {
        for (int32_t r : f.operations[i].results) made_by_[r] = static_cast<int32_t>(i);
        operands(i, [&](int32_t v) {
            if (readers_[v].empty() || readers_[v].back() != i) readers_[v].push_back(i);
        });
    }
    for (int32_t v : f.outputs) is_output_[v] = true;
}

const mil::Operation *DefUse::maker(int32_t value, const char *type) const {
    if (value < 0 || made_by_[value] < 0) return nullptr;
    const mil::Operation &op = f.operations[static_cast<size_t>(made_by_[value])];
    return op.type == type ? &op : nullptr;
}

bool DefUse::is_made_by(const std::vector<size_t> &operations, int32_t value) const {
    return made_by_[value] >= 0 &&
           std::find(operations.begin(), operations.end(), static_cast<size_t>(made_by_[value])) != operations.end();
}

bool DefUse::wanted_outside(int32_t value, const std::vector<size_t> &inside) const {
    if (is_output_[value]) return true;
    return std::any_of(readers_[value].begin(), readers_[value].end(),
                       [&](size_t r) { return std::find(inside.begin(), inside.end(), r) == inside.end(); });
}

bool DefUse::scalar(int32_t value, double *number) const {
    const mil::Value &v = f.values[value];
    if (!v.is_const || !v.data || v.type.elements() != 1 || v.type.dtype != mil::DType::fp16) return false;
    loader<double>(v.type.dtype)(v.data, number, 1);
    return true;
}

} // namespace anefast::host
