// The groups that chains run in: alone, or before and behind a product.
#include <algorithm>
#include <set>

#include "block_kernel.h"

namespace anefast::host {

namespace {

std::shared_ptr<const ChainKernel> placed(const std::shared_ptr<const ChainKernel> &kernel, const Plan &plan) {
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
size_t taken_from(const Flow &flow, const std::vector<size_t> &operations, const std::vector<size_t> &makers) {
    size_t n = 0;
    for (size_t i : operations) flow.operands(i, [&](int32_t v) { n += flow.is_made_by(makers, v); });
    return n;
}

// All but how it runs. kept: what has memory whether or not anybody else reads it.
Group group_of(const Flow &flow, const std::vector<size_t> &inside, const std::set<int32_t> &kept) {
    Group g;
    g.operations = inside;
    for (size_t i : inside) {
        flow.operands(i, [&](int32_t v) {
            if (!flow.is_made_by(inside, v)) g.reads.push_back(v);
        });
        const mil::Operation &op = flow.f.operations[i];
        for (int32_t r : op.results)
            if (flow.wanted_outside(r, inside) || op.type == "concat" || kept.count(r)) g.writes.push_back(r);
    }
    return g;
}

} // namespace

Group chain_group(const Flow &flow, const Chain &chain, const std::vector<Member> &members) {
    std::vector<size_t> inside;
    add_operations(chain, inside);
    std::sort(inside.begin(), inside.end());
    const auto kernel = make_kernel(flow, chain, members, inside, false);
    if (!kernel) return {};
    Group g = group_of(flow, inside, {});
    g.name = "chain";
    g.build = [kernel](const Plan &plan, Ref) -> Step {
        return [there = placed(kernel, plan)](const Frame &frame) { there->run(frame); };
    };
    return g;
}

Group product_group(const Flow &flow, size_t product, const Link &before, const Link &behind,
                    const std::vector<Member> &members) {
    const mil::Function &f = flow.f;
    const mil::Operation &op = f.operations[product];
    const Parts parts = table().at(op.type).parts(f, op);
    std::vector<size_t> inside = {product};
    for (const Link *link : {&before, &behind}) {
        if (!link->chain) continue;
        add_operations(*link->chain, inside);
        inside.insert(inside.end(), link->reshapes.begin(), link->reshapes.end());
    }
    std::sort(inside.begin(), inside.end());
    inside.erase(std::unique(inside.begin(), inside.end()), inside.end());
    std::set<int32_t> kept = {op.results[0]};
    std::shared_ptr<const ChainKernel> leads, follows;
    int64_t unit = 1,
            share = 1; // rows of the result per row that follows; outer indices per matrix of what goes before
    if (behind.chain) {
        follows = make_kernel(flow, *behind.chain, members, inside, true);
        if (!follows || follows->reduces || !(unit = follows->rows_each(behind.values, parts.rows, parts.columns)))
            return {};
    }
    if (before.chain) {
        std::vector<size_t> own, late;
        add_operations(*before.chain, own);
        if (behind.chain) add_operations(*behind.chain, late);
        // The columns that are there are those that are being packed: nothing but the right operand may read them.
        std::vector<size_t> makers = own;
        makers.insert(makers.end(), before.reshapes.begin(), before.reshapes.end());
        if (taken_from(flow, {product}, makers) != 1 || taken_from(flow, late, makers)) return {};
        for (size_t i : own)
            for (int32_t r : f.operations[i].results)
                if (flow.wanted_outside(r, own)) kept.insert(r); // by the product too
        leads = make_kernel(flow, *before.chain, members, own, true);
        if (!leads || !leads->rows_each(before.values, parts.right_rows, parts.columns)) return {};
        const int64_t matrices =
            static_cast<int64_t>(f.values[op.results[0]].type.elements()) / (parts.rows * parts.columns);
        if (leads->outer() % matrices && matrices > 1) return {};
        share = leads->outer() / matrices;
    }
    Group g = group_of(flow, inside, kept);
    g.name = op.type;
    if (before.chain) g.prologue = before.chain->operations;
    if (behind.chain) g.epilogue = behind.chain->operations;
    g.build = [leads, follows, unit, share, product, &f](const Plan &plan, Ref) -> Step {
        Builder b(f, f.operations[product], plan, product);
        if (leads)
            b.before = [there = placed(leads, plan), share](const Frame &frame, int64_t matrix, int64_t column,
                                                            int64_t columns) {
                there->run_rows(frame, matrix * share * there->rows(), share * there->rows(), column, columns);
            };
        if (follows) {
            b.then.unit = unit;
            b.then.run = [there = placed(follows, plan), unit](const Frame &frame, int64_t row, int64_t rows,
                                                               int64_t column, int64_t columns) {
                there->run_rows(frame, row / unit, rows / unit, column, columns);
            };
        }
        return table().at(b.op.type).build(b);
    };
    return g;
}

} // namespace anefast::host
