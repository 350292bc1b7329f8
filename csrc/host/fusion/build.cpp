// The fusions that chains run in: alone, or as prologue and epilogue of a product.
#include <algorithm>
#include <set>

#include "block_kernel.h"

namespace anefast::host {

namespace {

std::shared_ptr<const ChainKernel> placed(const std::shared_ptr<const ChainKernel> &kernel, const MemoryPlan &plan) {
    auto there = std::make_shared<ChainKernel>(*kernel);
    for (Place &p : there->places)
        if (p.where == Place::memory) p.ref = plan.where[static_cast<size_t>(p.value)];
    return there;
}

void add_operations(const Chain &chain, std::vector<size_t> &inside) {
    inside.insert(inside.end(), chain.operations.begin(), chain.operations.end());
    inside.insert(inside.end(), chain.moved.begin(), chain.moved.end());
}

// How many operands of these operations `makers` make.
size_t taken_from(const DefUse &uses, const std::vector<size_t> &operations, const std::vector<size_t> &makers) {
    size_t n = 0;
    for (size_t i : operations) uses.operands(i, [&](int32_t v) { n += uses.is_made_by(makers, v); });
    return n;
}

// All but how it runs. kept: what has memory whether or not anybody else reads it.
Fusion fusion_of(const DefUse &uses, const std::vector<size_t> &inside, const std::set<int32_t> &kept) {
    Fusion g;
    g.operations = inside;
    for (size_t i : inside) {
        uses.operands(i, [&](int32_t v) {
            if (!uses.is_made_by(inside, v)) g.reads.push_back(v);
        });
        const mil::Operation &op = uses.f.operations[i];
        for (int32_t r : op.results)
            if (uses.wanted_outside(r, inside) || op.type == "concat" || kept.count(r)) g.writes.push_back(r);
    }
    return g;
}

} // namespace

Fusion chain_fusion(const DefUse &uses, const Chain &chain, const std::vector<Member> &members) {
    std::vector<size_t> inside;
    add_operations(chain, inside);
    std::sort(inside.begin(), inside.end());
    const auto kernel = make_kernel(uses, chain, members, inside, false);
    if (!kernel) return {};
    Fusion g = fusion_of(uses, inside, {});
    g.name = "chain";
    g.build = [kernel](const MemoryPlan &plan, Ref) -> Runnable {
        return [there = placed(kernel, plan)](const Frame &frame) { there->run(frame); };
    };
    return g;
}

Fusion product_fusion(const DefUse &uses, size_t product, const Link &prologue, const Link &epilogue,
                      const std::vector<Member> &members) {
    const mil::Function &f = uses.f;
    const mil::Operation &op = f.operations[product];
    const Parts parts = table().at(op.type).parts(f, op);
    std::vector<size_t> inside = {product};
    for (const Link *link : {&prologue, &epilogue}) {
        if (!link->chain) continue;
        add_operations(*link->chain, inside);
        inside.insert(inside.end(), link->reshapes.begin(), link->reshapes.end());
    }
    std::sort(inside.begin(), inside.end());
    inside.erase(std::unique(inside.begin(), inside.end()), inside.end());
    std::set<int32_t> kept = {op.results[0]};
    std::shared_ptr<const ChainKernel> first, last; // of the prologue, of the epilogue
    // A batch of products is a stack of matrices. The epilogue may see `unit` rows of the stack as one row of its own
    // shape; the prologue makes `share` of its outer indices for each matrix of the right operand.
    int64_t unit = 1, share = 1;
    if (epilogue.chain) {
        last = make_kernel(uses, *epilogue.chain, members, inside, true);
        if (!last || last->reduces || !(unit = last->rows_each(epilogue.values, parts.rows, parts.columns))) return {};
    }
    if (prologue.chain) {
        std::vector<size_t> own, late;
        add_operations(*prologue.chain, own);
        if (epilogue.chain) add_operations(*epilogue.chain, late);
        // The columns that are there are those that are being packed: nothing but the right operand may read them.
        std::vector<size_t> makers = own;
        makers.insert(makers.end(), prologue.reshapes.begin(), prologue.reshapes.end());
        if (taken_from(uses, {product}, makers) != 1 || taken_from(uses, late, makers)) return {};
        for (size_t i : own)
            for (int32_t r : f.operations[i].results)
                if (uses.wanted_outside(r, own)) kept.insert(r); // by the product too
        first = make_kernel(uses, *prologue.chain, members, own, true);
        if (!first || !first->rows_each(prologue.values, parts.right_rows, parts.columns)) return {};
        const int64_t matrices =
            static_cast<int64_t>(f.values[op.results[0]].type.elements()) / (parts.rows * parts.columns);
        if (first->outer() % matrices && matrices > 1) return {};
        share = first->outer() / matrices;
    }
    Fusion g = fusion_of(uses, inside, kept);
    g.name = op.type;
    if (prologue.chain) g.prologue = prologue.chain->operations;
    if (epilogue.chain) g.epilogue = epilogue.chain->operations;
    g.build = [first, last, unit, share, product, &f](const MemoryPlan &plan, Ref) -> Runnable {
        Builder b(f, f.operations[product], plan, product);
        if (first)
            b.prologue = [there = placed(first, plan), share](const Frame &frame, int64_t matrix, int64_t column,
                                                              int64_t columns) {
                there->run_rows(frame, matrix * share * there->rows(), share * there->rows(), column, columns);
            };
        if (last) {
            b.epilogue.unit = unit;
            b.epilogue.run = [there = placed(last, plan), unit](const Frame &frame, int64_t row, int64_t rows,
                                                                int64_t column, int64_t columns) {
                there->run_rows(frame, row / unit, rows / unit, column, columns);
            };
        }
        return table().at(b.op.type).build(b);
    };
    return g;
}

} // namespace anefast::host
