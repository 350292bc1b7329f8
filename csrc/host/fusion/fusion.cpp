// Who reads what, the order of fusions and operations, and scratch by thread. The fusions themselves are
// found in the files named after them.
#include "fusion.h"

#include <algorithm>
#include <atomic>
#include <queue>

#include "../../cpu/pool.h"
#include "../../round.h"
#include "chain.h"

namespace anefast::host {

std::vector<Fusion> find_fusions(const mil::Function &f) {
    const DefUse uses(f);
    Claimed claimed(f.operations.size(), false);
    std::vector<Fusion> fusions;
    std::vector<bool> rereads(f.operations.size(), false);
    find_attention_backward(uses, claimed, rereads, fusions);
    find_cached_attention(uses, claimed, fusions);
    find_attention(uses, rereads, claimed, fusions);
    find_chains(uses, claimed, fusions);
    return fusions;
}

std::vector<Task> schedule(const mil::Function &f, const std::vector<Fusion> &fusions) {
    std::vector<Task> tasks;
    const size_t n = f.operations.size();
    std::vector<int32_t> fusion_of(n, -1), made_by(f.values.size(), -1);
    for (size_t g = 0; g < fusions.size(); g++)
        for (size_t i : fusions[g].operations) fusion_of[i] = static_cast<int32_t>(g);
    // A task is known by the place of its first operation.
    auto task_of = [&](size_t i) {
        return fusion_of[i] < 0 ? i : fusions[static_cast<size_t>(fusion_of[i])].operations.front();
    };
    for (size_t i = 0; i < n; i++)
        for (int32_t r : f.operations[i].results) made_by[r] = static_cast<int32_t>(task_of(i));
    std::vector<std::vector<size_t>> next(n);
    std::vector<size_t> waits(n, 0);
    for (size_t i = 0; i < n; i++)
        for (const mil::Argument &a : f.operations[i].arguments)
            for (int32_t v : a.values)
                if (made_by[v] >= 0 && static_cast<size_t>(made_by[v]) != task_of(i)) {
                    next[static_cast<size_t>(made_by[v])].push_back(task_of(i));
                    waits[task_of(i)]++;
                }
    std::priority_queue<size_t, std::vector<size_t>, std::greater<>> ready;
    for (size_t i = 0; i < n; i++)
        if (task_of(i) == i && waits[i] == 0) ready.push(i);
    while (!ready.empty()) {
        const size_t i = ready.top();
        ready.pop();
        tasks.push_back({i, fusion_of[i]});
        for (size_t j : next[i])
            if (--waits[j] == 0) ready.push(j);
    }
    return tasks;
}

bool can_be_ordered(const mil::Function &f, const std::vector<Fusion> &fusions) {
    size_t fused = 0;
    for (const Fusion &g : fusions) fused += g.operations.size() - 1;
    return schedule(f, fusions).size() + fused == f.operations.size(); // what waits for itself never starts
}

Lanes::Lanes(size_t bytes_each)
    : count_(static_cast<size_t>(Pool::shared().threads())), each_(round_up(bytes_each, size_t{64})) {}

void Lanes::run(uint8_t *workspace, int64_t turns, const std::function<void(int64_t, uint8_t *)> &body) const {
    std::atomic<int64_t> next{0};
    const auto lanes = std::min<int64_t>(static_cast<int64_t>(count_), turns);
    Pool::shared().parallel(lanes, [&](int64_t lane) {
        uint8_t *const scratch = workspace + static_cast<size_t>(lane) * each_;
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < turns;) body(i, scratch);
    });
}

} // namespace anefast::host
