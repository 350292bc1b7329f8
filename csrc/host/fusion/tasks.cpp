// What a compiled function runs, told in lines: what was fused with what, and how much each task writes.
//
//     conv y_3 [prologue: mul reduce_mean rsqrt mul mul; epilogue: sigmoid mul] 131,072 bytes
#include "fusion.h"

namespace anefast::host {

namespace {

std::string types(const mil::Function &f, const std::vector<size_t> &operations) {
    std::string out;
    for (size_t i : operations) out += (out.empty() ? "" : " ") + f.operations[i].type;
    return out;
}

std::string with_commas(size_t n) {
    std::string out = std::to_string(n);
    for (size_t at = out.size(); at > 3; at -= 3) out.insert(at - 3, ",");
    return out;
}

// What runs fused, in brackets; nothing for an operation by itself.
std::string inside(const mil::Function &f, const Fusion &g) {
    if (g.prologue.empty() && g.epilogue.empty()) return " [" + types(f, g.operations) + "]";
    std::string out;
    if (!g.prologue.empty()) out += "prologue: " + types(f, g.prologue);
    if (!g.epilogue.empty()) out += (out.empty() ? "epilogue: " : "; epilogue: ") + types(f, g.epilogue);
    return " [" + out + "]";
}

} // namespace

std::string tasks_of(const mil::Function &f, const MemoryPlan &plan, const std::vector<Fusion> &fusions) {
    std::string out;
    for (const auto [i, fusion] : plan.tasks) {
        if (fusion < 0 && plan.is_view[i]) continue; // nothing to run
        const mil::Operation &op = f.operations[i];
        const Fusion *g = fusion < 0 ? nullptr : &fusions[static_cast<size_t>(fusion)];
        const std::vector<int32_t> &writes = g ? g->writes : op.results;
        std::string line = g ? g->name : op.type;
        size_t bytes = 0;
        for (int32_t v : writes) {
            line += (v == writes.front() ? " " : ", ") + f.values[static_cast<size_t>(v)].name;
            bytes += f.values[static_cast<size_t>(v)].type.bytes();
        }
        if (g) line += inside(f, *g);
        out += line + " " + with_commas(bytes) + " bytes\n";
    }
    return out;
}

} // namespace anefast::host
