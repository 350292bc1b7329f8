// Which chain is prologue or epilogue of which product, and which run by themselves.
//
// A region of its own reads and writes everything past the nearest caches, and waits for its last thread. So a chain
// is the epilogue of the product that it reads, else the prologue of the first product that reads it, where that can
// be.
#include <algorithm>
#include <map>

#include "chain.h"

namespace anefast::host {

namespace {

class Linker {
  public:
    Linker(const DefUse &uses, const std::vector<Chain> &chains, const std::vector<Member> &members, Claimed &claimed,
           std::vector<Fusion> &fusions)
        : uses_(uses), f_(uses.f), members_(members), claimed_(claimed), fusions_(fusions) {
        for (const Chain &chain : chains) find_source(chain);
        for (const Chain &chain : chains)
            if (!as_epilogue(chain)) take_as_prologue(chain);
        for (const Chain &chain : chains)
            if (!claimed_[chain.operations[0]]) take(chain);
    }

  private:
    struct Candidate { // an epilogue
        size_t product;
        Link link;
    };

    const Candidate *as_epilogue(const Chain &chain) const {
        const auto it = std::find_if(epilogues_.begin(), epilogues_.end(),
                                     [&](const Candidate &b) { return b.link.chain == &chain; });
        return it == epilogues_.end() ? nullptr : &*it;
    }

    // Notes the last product whose result a chain without sums reads, perhaps under another shape.
    void find_source(const Chain &chain) {
        if (chain.axis >= 0) return;
        std::map<size_t, Link> found;
        for (const std::vector<size_t> *list : {&chain.operations, &chain.moved})
            for (size_t i : *list)
                uses_.operands(i, [&](int32_t v) {
                    Link link{&chain, {}, {}};
                    int32_t by;
                    for (;; v = f_.operand(f_.operations[static_cast<size_t>(by)], "x")) {
                        link.values.insert(v);
                        by = uses_.made_by(v);
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
        if (!found.empty()) epilogues_.push_back({found.rbegin()->first, found.rbegin()->second});
    }

    // The chain as prologue of the first product that it makes the right operand of, with that one's epilogue if it can
    // be.
    void take_as_prologue(const Chain &chain) {
        std::map<size_t, Link> found;
        for (const std::vector<size_t> *list : {&chain.operations, &chain.moved})
            for (size_t i : *list) look_ahead(f_.operations[i].results[0], {&chain, {}, {}}, &found);
        for (const auto &[product, link] : found) {
            for (const Candidate &b : epilogues_)
                if (b.product == product && b.link.chain != &chain && !claimed_[b.link.chain->operations[0]] &&
                    accept(product_fusion(uses_, product, link, b.link, members_)))
                    return;
            if (accept(product_fusion(uses_, product, link, {}, members_))) return;
        }
    }

    // Products that read `v`, perhaps under another shape, as their right operand.
    void look_ahead(int32_t v, Link link, std::map<size_t, Link> *found) const {
        link.values.insert(v);
        for (size_t r : uses_.readers(v)) {
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

    // As the epilogue of its product, or by itself.
    void take(const Chain &chain) {
        if (const Candidate *b = as_epilogue(chain))
            if (!claimed_[b->product] && accept(product_fusion(uses_, b->product, {}, b->link, members_))) return;
        const bool alone = chain.operations.size() == 1 && members_[chain.operations[0]].kind != Kind::binary;
        if (!alone || !chain.moved.empty()) accept(chain_fusion(uses_, chain, members_));
    }

    // Takes a fusion that is one, if it can be ordered among the others.
    bool accept(Fusion g) {
        if (g.operations.empty()) return false;
        fusions_.push_back(std::move(g));
        if (!can_be_ordered(f_, fusions_)) {
            fusions_.pop_back();
            return false;
        }
        for (size_t i : fusions_.back().operations) claimed_[i] = true;
        return true;
    }

    bool is_reshape(size_t i) const {
        const std::string &type = f_.operations[i].type;
        return type == "reshape" || type == "expand_dims" || type == "squeeze";
    }

    // Of a product of halves; none of anything else.
    Parts parts_of(size_t i) const {
        const mil::Operation &op = f_.operations[i];
        const OpKernel *kernel = table().find(op.type);
        const bool halves = f_.values[op.results[0]].type.dtype == mil::DType::fp16;
        return kernel && kernel->parts && halves ? kernel->parts(f_, op) : Parts{};
    }

    const DefUse &uses_;
    const mil::Function &f_;
    const std::vector<Member> &members_;
    Claimed &claimed_;
    std::vector<Fusion> &fusions_;
    std::vector<Candidate> epilogues_;
};

} // namespace

void link_chains(const DefUse &uses, const std::vector<Chain> &chains, const std::vector<Member> &members,
                 Claimed &claimed, std::vector<Fusion> &fusions) {
    Linker(uses, chains, members, claimed, fusions);
}

} // namespace anefast::host
