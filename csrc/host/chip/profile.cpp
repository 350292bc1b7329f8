// Options into a profile, and a function held against it. See profile.h.
#include "profile.h"

#include <cstdlib>
#include <functional>

#include "../memory_plan.h"

namespace anefast::host {

namespace {

std::set<std::string> words(const std::string &list) {
    std::set<std::string> found;
    for (size_t at = 0; at <= list.size();) {
        const size_t end = std::min(list.find_first_of(",+", at), list.size());
        if (end > at) found.insert(list.substr(at, end - at));
        at = end + 1;
    }
    return found;
}

// Sets one member from its spelling; false where it is not one of its values.
using Setter = std::function<bool(Profile *, const std::string &)>;

Setter choice(std::string Profile::*member, const char *values) {
    return [=](Profile *p, const std::string &said) {
        p->*member = said;
        return words(values).count(said) > 0;
    };
}

Setter flag(bool Profile::*member, const char *yes, const char *no) {
    return [=](Profile *p, const std::string &said) {
        p->*member = said == yes;
        return said == yes || said == no;
    };
}

template <class T> Setter number(T Profile::*member) {
    return [=](Profile *p, const std::string &said) {
        char *rest;
        const double n = std::strtod(said.c_str(), &rest);
        p->*member = static_cast<T>(n);
        return !said.empty() && !*rest && n >= 0 && n <= 1e9;
    };
}

Setter list(std::set<std::string> Profile::*member) {
    return [=](Profile *p, const std::string &said) {
        p->*member = words(said);
        return true;
    };
}

// Operations, each perhaps with the rule that says why: "gather@ANE014+cumsum".
bool set_refused(Profile *p, const std::string &said) {
    for (const std::string &word : words(said)) {
        const size_t at = word.find('@');
        p->refuse.insert(word.substr(0, at));
        if (at != std::string::npos) p->rules[word.substr(0, at)] = word.substr(at + 1);
    }
    return true;
}

bool set_tables(Profile *p, const std::string &said) {
    p->sampled = said == "sampled";
    p->tables = p->sampled || said == "on";
    return p->tables || said == "off";
}

struct Option {
    Setter set;
    const char *values; // for messages
};

const std::map<std::string, Option> &options() {
    static const char *const any = "a list", *const size = "a number";
    static const std::map<std::string, Option> all = {
        {"opsets", {list(&Profile::opsets), any}},
        {"inputs", {choice(&Profile::inputs, "any,fp16,one"), "any, fp16 or one"}},
        {"weights", {choice(&Profile::weights, "any,input,const"), "any, input or const"}},
        {"dtypes", {list(&Profile::dtypes), any}},
        {"refuse", {set_refused, any}},
        {"together", {list(&Profile::together), any}},
        {"axis", {number(&Profile::axis), size}},
        {"channels", {number(&Profile::channels), size}},
        {"terms", {number(&Profile::terms), size}},
        {"kernel", {number(&Profile::kernel), size}},
        {"rank", {number(&Profile::rank), size}},
        {"epsilon", {flag(&Profile::epsilon, "required", "optional"), "required or optional"}},
        {"after_reduce", {flag(&Profile::after_reduce, "take", "refuse"), "take or refuse"}},
        {"zero_gain", {flag(&Profile::zero_gain, "take", "refuse"), "take or refuse"}},
        {"products", {flag(&Profile::fixed, "q15.16", "fp32"), "q15.16 or fp32"}},
        {"product_cap", {number(&Profile::product_cap), size}},
        {"slice_cap", {number(&Profile::slice_cap), size}},
        {"tiny", {number(&Profile::tiny), size}},
        {"nan", {flag(&Profile::coerce, "coerce", "keep"), "coerce or keep"}},
        {"denormals", {flag(&Profile::flush, "flush", "keep"), "flush or keep"}},
        {"sums", {flag(&Profile::narrow, "narrow", "wide"), "narrow or wide"}},
        {"rounding", {flag(&Profile::away, "away", "even"), "away or even"}},
        {"tables", {set_tables, "on, sampled or off"}},
        {"compiles", {number(&Profile::compiles), size}},
        {"loaded", {number(&Profile::loaded), size}},
        {"compile_us", {number(&Profile::compile_us), size}},
        {"dispatch_us", {number(&Profile::dispatch_us), size}},
    };
    return all;
}

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

std::string Profile::cited(const std::string &key) const {
    const auto found = rules.find(key);
    return found == rules.end() ? "" : " (rule " + found->second + ")";
}

bool set_option(Profile *profile, const std::string &key, const std::string &value, std::string *wrong) {
    const auto found = options().find(key);
    if (found == options().end()) return false;
    const size_t at = key == "refuse" ? std::string::npos : value.find('@');
    if (at != std::string::npos) profile->rules[key] = value.substr(at + 1);
    if (!found->second.set(profile, value.substr(0, at)))
        *wrong = "[host] expected " + key + " to be " + found->second.values + ", got \"" + value.substr(0, at) + "\".";
    return true;
}

void admit(const mil::Function &f, const Profile &profile) { Gate(f, profile).run(); }

} // namespace anefast::host
