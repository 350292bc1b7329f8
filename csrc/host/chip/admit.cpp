// A function held against a profile. See profile.h.
#include "../memory_plan.h"
#include "profile.h"

namespace anefast::host {

namespace {

bool starts(const std::string &text, const char *prefix) { return text.rfind(prefix, 0) == 0; }

// One function against one profile, operation by operation.
class Gate {
  public:
    Gate(const mil::Function &f, const Profile &p) : f_(f), p_(p) {
        varies_.assign(f.values.size(), false);
        input_.assign(f.values.size(), false);
        reduced_.assign(f.values.size(), false);
        summed_.assign(f.values.size(), false);
    }

    void run() {
        signature();
        std::set<std::string> seen;
        for (const mil::Operation &op : f_.operations) {
            seen.insert(op.type);
            follow(op);
            taken(op);
            if (op.type == "conv" || op.type == "matmul" || op.type == "linear") product(op);
            for (int32_t r : op.results) sizes(f_.values[r], op.where);
        }
        bool all = !p_.together.empty();
        for (const std::string &op : p_.together) all = all && seen.count(op) > 0;
        if (all)
            fail({}, "together", "expected a program without all of split, matmul, softmax and tile together",
                 "cut it in two, or slice instead of split");
    }

  private:
    [[noreturn]] void no_descriptor(mil::Position where, const char *key, const std::string &why,
                                    const char *hint) const {
        throw NoDescriptor{where, "[" + p_.name + ", emulated] line " + std::to_string(where.line) + ", column " +
                                      std::to_string(where.column) + ": the MIL text is refused (nil descriptor): " +
                                      why + p_.cited(key) + ". Hint: " + hint + "."};
    }
    [[noreturn]] void fail(mil::Position where, const std::string &key, const std::string &why,
                           const char *hint) const {
        throw Refusal{where, "[" + p_.name +
                                 ", emulated] com.apple.appleneuralengine.compiler Code=1 "
                                 "\"_ANECompiler : ANECCompile() FAILED\": " +
                                 why + p_.cited(key) + ". Hint: " + hint + "."};
    }

    void signature() {
        if (!p_.opsets.empty() && !p_.opsets.count(f_.opset))
            no_descriptor({}, "opsets", "expected an opset this chip's systems know, got " + f_.opset,
                          "write ios16 or ios18");
        for (int32_t id : f_.inputs) {
            varies_[id] = input_[id] = true;
            const mil::Value &v = f_.values[id];
            const std::string dtype = mil::spelling(v.type.dtype);
            if (f_.inputs.size() > 1 && p_.inputs == "one")
                no_descriptor(v.where, "inputs", "expected one input, got " + std::to_string(f_.inputs.size()),
                              "pack them side by side into one: plan ports=packed");
            if (f_.inputs.size() > 1 && p_.inputs == "fp16" && dtype != "fp16")
                no_descriptor(v.where, "inputs", "expected several inputs to be fp16, got " + dtype + " " + v.name,
                              "make every input fp16, or pack them into one");
        }
        for (const auto *side : {&f_.inputs, &f_.outputs})
            for (int32_t id : *side) {
                const mil::Value &v = f_.values[id];
                const std::string dtype = mil::spelling(v.type.dtype);
                if (!p_.dtypes.empty() && !p_.dtypes.count(dtype))
                    fail(v.where, "dtypes", "expected a port of a dtype this chip takes, got " + dtype + " " + v.name,
                         "use fp16");
                sizes(v, v.where);
            }
    }

    void sizes(const mil::Value &v, mil::Position where) const {
        const auto &shape = v.type.shape;
        const auto said = [&](size_t i, int64_t cap) {
            return "expected axis " + std::to_string(i) + " of " + v.name + " up to " + std::to_string(cap) + ", got " +
                   std::to_string(shape[i]);
        };
        if (p_.rank && static_cast<int64_t>(shape.size()) > p_.rank)
            fail(where, "rank",
                 "expected rank up to " + std::to_string(p_.rank) + ", got " + std::to_string(shape.size()) + " of " +
                     v.name,
                 "reshape");
        for (size_t i = 1; i < shape.size(); i++) {
            const bool is_channels = i == 1 && shape.size() > 2;
            const int64_t cap = is_channels ? p_.channels : p_.axis;
            if (cap && shape[i] > cap) fail(where, is_channels ? "channels" : "axis", said(i, cap), "split it");
        }
    }

    // What each result is made from.
    void follow(const mil::Operation &op) {
        int varying = 0;
        bool reduced = false;
        for (const mil::Argument &a : op.arguments)
            for (int32_t v : a.values) {
                varying += varies_[v];
                reduced = reduced || reduced_[v];
            }
        const bool sum = op.type == "reduce_sum" || op.type == "reduce_mean";
        for (int32_t r : op.results) {
            varies_[r] = varying > 0;
            reduced_[r] = starts(op.type, "reduce_") || (reduced && varying == 1);
            summed_[r] = sum;
        }
    }

    void taken(const mil::Operation &op) const {
        if (p_.refuse.count(op.type))
            fail(op.where, op.type, "expected an operation this chip runs, got " + op.type,
                 "write it with others, or leave it to the CPU");
        const bool root = op.type == "rsqrt" || op.type == "sqrt";
        if (p_.epsilon && (op.type == "rsqrt" || op.type == "log" || op.type == "inverse") && !op.find("epsilon"))
            fail(op.where, "epsilon", "expected epsilon of " + op.type + ", got none", "write epsilon");
        const int32_t x = f_.operand(op, "x"), y = f_.operand(op, "y");
        if (!p_.after_reduce && root && x >= 0 && reduced_[x])
            fail(op.where, "after_reduce", "expected no " + op.type + " behind a reduction",
                 "write pow with -0.5 or 0.5");
        if (!p_.zero_gain && op.type == "mul" && x >= 0 && y >= 0)
            if ((summed_[x] && is_zero(y)) || (summed_[y] && is_zero(x)))
                fail(op.where, "zero_gain", "expected no sum times 0, got one", "leave it out");
    }

    bool is_zero(int32_t id) const {
        const mil::Value &v = f_.values[id];
        if (!v.is_const || !v.data || v.type.elements() != 1) return false;
        uint8_t any = 0; // but for the sign
        for (size_t i = 0; i < v.type.bytes(); i++) any |= i + 1 == v.type.bytes() ? v.data[i] & 0x7f : v.data[i];
        return any == 0;
    }

    void product(const mil::Operation &op) const {
        const int32_t x = f_.operand(op, "x"), w = f_.operand(op, op.type == "matmul" ? "y" : "weight");
        const auto &a = f_.values[x].type.shape, &b = f_.values[w].type.shape;
        if (op.type == "conv" && p_.weights != "any" && varies_[w]) {
            const char *hint = "bake the weights, or write the product as matmul";
            const std::string got = input_[w] ? "the input " : "the computed value ";
            if (!input_[w] || p_.weights == "const")
                no_descriptor(op.where, "weights", "expected a constant weight of conv, got " + got + f_.values[w].name,
                              hint);
            if (f_.integer(op, "groups", 1) != 1 || a[0] != 1)
                fail(op.where, "weights",
                     "expected one dense sequence where conv's weight is an input, got batch " + std::to_string(a[0]) +
                         " and " + std::to_string(f_.integer(op, "groups", 1)) + " groups",
                     hint);
        }
        if (op.type == "conv" && p_.kernel && b.back() > p_.kernel)
            fail(op.where, "kernel",
                 "expected a kernel up to " + std::to_string(p_.kernel) + " wide, got " + std::to_string(b.back()),
                 "split it into narrower ones and add the results");
        int64_t terms = 0;
        if (op.type == "conv") terms = b[1];
        else if (op.type == "linear") terms = b.back();
        else if (!a.empty()) terms = a.size() > 1 && f_.flag(op, "transpose_x", false) ? a[a.size() - 2] : a.back();
        if (p_.terms && terms > p_.terms)
            fail(op.where, "terms",
                 "expected sums of up to " + std::to_string(p_.terms) + " terms, got " + std::to_string(terms),
                 "split the input channels and add the parts");
    }

    const mil::Function &f_;
    const Profile &p_;
    std::vector<bool> varies_, input_;   // depends on an input, is one
    std::vector<bool> reduced_, summed_; // comes out of a reduction and arithmetic, is a sum or mean
};

} // namespace

void admit(const mil::Function &f, const Profile &profile) { Gate(f, profile).run(); }

} // namespace anefast::host
