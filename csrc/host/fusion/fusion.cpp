// Who reads what, the order of groups and operations, and scratch by thread. The groups themselves are
// found in the files named after them.
#include "fusion.h"

#include <algorithm>
#include <atomic>
#include <queue>

#include "../../cpu/pool.h"
#include "../../round.h"
#include "../ops/convert.h"
#include "chain.h"

namespace anefast::host {

Flow::Flow(const mil::Function &function)
    : f(function), made_by_(f.values.size(), -1), readers_(f.values.size()), is_output_(f.values.size(), false) {
    for (size_t i = 0; i < f.operations.size(); i++) {
        for (int32_t r : f.operations[i].results) made_by_[r] = static_cast<int32_t>(i);
        operands(i, [&](int32_t v) {
            if (readers_[v].empty() || readers_[v].back() != i) readers_[v].push_back(i);
        });
    }
    for (int32_t v : f.outputs) is_output_[v] = true;
}

const mil::Operation *Flow::maker(int32_t value, const char *type) const {
    if (value < 0 || made_by_[value] < 0) return nullptr;
    const mil::Operation &op = f.operations[static_cast<size_t>(made_by_[value])];
    return op.type == type ? &op : nullptr;
}

bool Flow::is_made_by(const std::vector<size_t> &operations, int32_t value) const {
    return made_by_[value] >= 0 &&
           std::find(operations.begin(), operations.end(), static_cast<size_t>(made_by_[value])) != operations.end();
}

bool Flow::wanted_outside(int32_t value, const std::vector<size_t> &inside) const {
    if (is_output_[value]) return true;
    return std::any_of(readers_[value].begin(), readers_[value].end(),
                       [&](size_t r) { return std::find(inside.begin(), inside.end(), r) == inside.end(); });
}

bool Flow::scalar(int32_t value, double *number) const {
    const mil::Value &v = f.values[value];
    if (!v.is_const || !v.data || v.type.elements() != 1 || v.type.dtype != mil::DType::fp16) return false;
    loader<double>(v.type.dtype)(v.data, number, 1);
    return true;
}

std::vector<Group> find_groups(const mil::Function &f) {
    const Flow flow(f);
    Claimed claimed(f.operations.size(), false);
    std::vector<Group> groups;
    std::vector<bool> rereads(f.operations.size(), false);
    find_attention_backward(flow, claimed, rereads, groups);
    find_cached_attention(flow, claimed, groups);
    find_attention(flow, rereads, claimed, groups);
    find_chains(flow, claimed, groups);
    return groups;
}

std::vector<Task> schedule(const mil::Function &f, const std::vector<Group> &groups) {
    std::vector<Task> tasks;
    const size_t n = f.operations.size();
    std::vector<int32_t> group_of(n, -1), made_by(f.values.size(), -1);
    for (size_t g = 0; g < groups.size(); g++)
        for (size_t i : groups[g].operations) group_of[i] = static_cast<int32_t>(g);
    // A task is known by the place of its first operation.
    auto task_of = [&](size_t i) {
        return group_of[i] < 0 ? i : groups[static_cast<size_t>(group_of[i])].operations.front();
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
        tasks.push_back({i, group_of[i]});
        for (size_t j : next[i])
            if (--waits[j] == 0) ready.push(j);
    }
    return tasks;
}

bool can_be_ordered(const mil::Function &f, const std::vector<Group> &groups) {
    size_t grouped = 0;
    for (const Group &g : groups) grouped += g.operations.size() - 1;
    return schedule(f, groups).size() + grouped == f.operations.size(); // what waits for itself never starts
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
