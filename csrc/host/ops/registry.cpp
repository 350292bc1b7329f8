// The table of operations, and the arguments they share.
#include "registry.h"

#include "../../half.h"
#include "convert.h"
#include "../chip/numbers.h"

namespace anefast::host {

// The files of operations in this folder. Each has an add_NAME, which adds its own; a new file is a name here.
#define ANEFAST_OP_FILES(FILE)                                                                                         \
    FILE(elementwise) FILE(unary) FILE(reductions) FILE(normalisers) FILE(products) FILE(movement) FILE(composed)
#define ANEFAST_OP_FILE(NAME) void add_##NAME(Table &t);
ANEFAST_OP_FILES(ANEFAST_OP_FILE)
#undef ANEFAST_OP_FILE

int32_t Builder::operand(const char *name) const {
    const int32_t v = f.operand(op, name);
    if (v < 0) refuse(std::string("expected an argument ") + name + ", got none");
    return v;
}

double Builder::constant(const char *name) const {
    const int32_t v = operand(name);
    const mil::Value &value = f.values[v];
    if (!value.is_const || !value.data || value.type.elements() != 1)
        refuse(std::string("expected ") + name + " to be one constant number");
    double x;
    loader<double>(value.type.dtype)(value.data, &x, 1);
    return x;
}

size_t Builder::axis(size_t rank, int32_t fallback) const {
    const int32_t a = f.integer(op, "axis", fallback);
    return static_cast<size_t>(a < 0 ? a + static_cast<int32_t>(rank) : a);
}

std::vector<bool> Builder::axes(size_t rank) const {
    const std::vector<int32_t> named = f.ints(op, "axes");
    std::vector<bool> is(rank, named.empty());
    for (int32_t a : named) is[static_cast<size_t>(a < 0 ? a + static_cast<int32_t>(rank) : a)] = true;
    return is;
}

void Builder::refuse(const std::string &why) const { throw Refusal{op.where, "[host] " + op.type + ": " + why + "."}; }

void Table::add(const mil::OpRecord &record, OpKernel kernel) {
    kernels_[record.name] = kernel;
    mil::add_op(record);
}

const OpKernel *Table::find(const std::string &type) const {
    const auto found = kernels_.find(type);
    return found == kernels_.end() ? nullptr : &found->second;
}

const Table &table() {
    static const Table *all = [] {
        auto *t = new Table();
#define ANEFAST_OP_FILE(NAME) add_##NAME(*t);
        ANEFAST_OP_FILES(ANEFAST_OP_FILE)
#undef ANEFAST_OP_FILE
        add_profile(*t);
        return t;
    }();
    return *all;
}

// While the library is loaded: whoever reads MIL text must know these operations, and may never ask for a kernel.
[[maybe_unused]] static const Table &at_load = table();

} // namespace anefast::host
