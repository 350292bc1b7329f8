// Options into a profile. See profile.h.
#include "profile.h"

#include <algorithm>
#include <cstdlib>
#include <functional>

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

} // namespace anefast::host
