// Which chain goes before or behind which product, and which run by themselves.
//
// A region of its own reads and writes everything past the nearest caches, and waits for its last thread. So a chain
// goes behind the product that it reads, else before the first product that reads it, where that can be.
#include <algorithm>
#include <map>

#include "chain.h"

namespace anefast::host {

namespace {

class Linker {
  public:
    Linker(const Flow &flow, const std::vector<Chain> &chains, const std::vector<Member> &members, Claimed &claimed,
           std::vector<Group> &groups)
        : flow_(flow), f_(flow.f), members_(members), claimed_(claimed), groups_(groups) {
        for (const Chain &chain : chains) follow_source(chain);
        for (const Chain &chain : chains)
            if (!follows(chain)) lead_target(chain);
        for (const Chain &chain : chains)
            if (!claimed_[chain.operations[0]]) take(chain);
    }

  private:
    struct Behind {
        size_t product;
        Link link;
    };

    const Behind *follows(const Chain &chain) const {
        const auto it =
            std::find_if(behind_.begin(), behind_.end(), [&](const Behind &b) { return b.link.chain == &chain; });
        return it == behind_.end() ? nullptr : &*it;
    }

    // Notes the last product whose result a chain without sums reads, perhaps under another shape.
    void follow_source(const Chain &chain) {
        if (chain.axis >= 0) return;
        std::map<size_t, Link> found;
        for (const std::vector<size_t> *list : {&chain.operations, &chain.moved})
            for (size_t i : *list)
                flow_.operands(i, [&](int32_t v) {
                    Link link{&chain, {}, {}};
                    int32_t by;
                    for (;; v = f_.operand(f_.operations[static_cast<size_t>(by)], "x")) {
                        link.values.insert(v);
                        by = flow_.made_by(v);
                        if (by < 0 || claimed_[static_cast<size_t>(by)]) return;
                        if (!is_reshape(static_cast<size_t>(by))) break;
                        link.reshapes.insert(static_cast<size_t>(by));
                    }
                    if (!parts_of(static_cast<size_t>(by)).columns) return;
                    Link &all = found[static_cast<size_t>(by)];
                    all.chain = &chain;
                    all.values.insert(link.values.begin(), link.values.end());
                    all.reshapes.insert(link.reshapes.begin(), link.reshapes.end());
                });
        if (!found.empty()) behind_.push_back({found.rbegin()->first, found.rbegin()->second});
    }

    // The chain before the first product that it makes the right operand of, and with what follows that if it can be.
    void lead_target(const Chain &chain) {
        std::map<size_t, Link> found;
        for (const std::vector<size_t> *list : {&chain.operations, &chain.moved})
            for (size_t i : *list) look_ahead(f_.operations[i].results[0], {&chain, {}, {}}, &found);
        for (const auto &[product, link] : found) {
            for (const Behind &b : behind_)
                if (b.product == product && b.link.chain != &chain && !claimed_[b.link.chain->operations[0]] &&
                    accept(product_group(flow_, product, link, b.link, members_)))
                    return;
            if (accept(product_group(flow_, product, link, {}, members_))) return;
        }
    }

    // Products that read `v`, perhaps under another shape, as their right operand.
    void look_ahead(int32_t v, Link link, std::map<size_t, Link> *found) const {
        link.values.insert(v);
        for (size_t r : flow_.readers(v)) {
            if (claimed_[r]) continue;
            if (is_reshape(r)) {
                Link further = link;
                further.reshapes.insert(r);
                look_ahead(f_.operations[r].results[0], std::move(further), found);
            } else if (parts_of(r).right == v) {
                found->emplace(r, link);
            }
        }
    }

    // Behind its product, or by itself.
    void take(const Chain &chain) {
        if (const Behind *b = follows(chain))
            if (!claimed_[b->product] && accept(product_group(flow_, b->product, {}, b->link, members_))) return;
        const bool alone = chain.operations.size() == 1 && members_[chain.operations[0]].kind != Kind::binary;
        if (!alone || !chain.moved.empty()) accept(chain_group(flow_, chain, members_));
    }

    // Takes a group that is one, if it can be ordered among the others.
    bool accept(Group g) {
        if (g.operations.empty()) return false;
        groups_.push_back(std::move(g));
        if (!can_be_ordered(f_, groups_)) {
            groups_.pop_back();
            return false;
        }
        for (size_t i : groups_.back().operations) claimed_[i] = true;
        return true;
    }

    bool is_reshape(size_t i) const {
        const std::string &type = f_.operations[i].type;
        return type == "reshape" || type == "expand_dims" || type == "squeeze";
    }

    // Of a product of halves; none of anything else.
    Parts parts_of(size_t i) const {
        const mil::Operation &op = f_.operations[i];
        const auto record = table().find(op.type);
        if (record == table().end() || !record->second.parts || f_.values[op.results[0]].type.dtype != mil::DType::fp16)
            return {};
        return record->second.parts(f_, op);
    }

    const Flow &flow_;
    const mil::Function &f_;
    const std::vector<Member> &members_;
    Claimed &claimed_;
    std::vector<Group> &groups_;
    std::vector<Behind> behind_;
};

} // namespace

void link_chains(const Flow &flow, const std::vector<Chain> &chains, const std::vector<Member> &members,
                 Claimed &claimed, std::vector<Group> &groups) {
    Linker(flow, chains, members, claimed, groups);
}

} // namespace anefast::host
