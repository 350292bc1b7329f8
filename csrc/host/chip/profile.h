// A chip's ways, for the host executor to take on: what it refuses, and where its numbers end.
//
// Data only, spelled as device options; anefast/chips/behaviour.py writes them and says where each comes from.
// Without a profile the executor is `exact` and nothing here runs. What a profile does to numbers is
// numbers.h. It is no model of time, but for delays that may be asked for.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "../../mil/program.h"

namespace anefast::host {

struct Profile {
    std::string name; // "m1-pro"; of the defaults below, none refuses or changes anything

    // 1) what the parser takes: else there is no descriptor
    std::set<std::string> opsets; // empty: any
    std::string inputs = "any";   // several inputs of one function: any, fp16 ones only, or one
    std::string weights = "any";  // of conv: any, an input or const, const
    // 2) what the compiler takes
    std::set<std::string> dtypes;                                    // of ports; empty: any
    std::set<std::string> refuse;                                    // operations
    std::set<std::string> together;                                  // operations that one program must not hold all of
    int64_t axis = 0, channels = 0, terms = 0, kernel = 0, rank = 0; // longest; 0: any
    bool epsilon = false;                                            // rsqrt, log and inverse must say theirs
    bool after_reduce = true;                                        // takes sqrt and rsqrt of what a reduction gave
    bool zero_gain = true;                                           // takes a sum times 0
    // 3) numbers: numbers.h
    bool fixed = false;     // conv and matmul compute in Q15.16 (cpu/gemm/fixed.h), and the next is not asked
    double product_cap = 0; // results of conv and matmul from here on are inf; 0: 65520, as all
    double slice_cap = 0;   // beyond it, slices behind the start of the last axis are inf; 0: none
    double tiny = 0;        // below it, log and rsqrt give inf; 0: no such floor
    bool coerce = false;    // NaN in becomes inf, NaN inside 0
    bool flush = false;     // products read and write denormals as 0
    bool narrow = false;    // the sum behind a mean or a norm is an fp16 number
    bool away = false;      // elementwise results are rounded half away from zero
    bool tables = false;    // sigmoid and its kin are looked up in 33 knots
    bool sampled = false;   // and those of sigmoid and tanh are the halves that were measured
    // 4) budgets and delays
    int64_t compiles = 0, loaded = 0;        // per open device; 0: any number
    int64_t compile_us = 0, dispatch_us = 0; // per operation, per evaluation

    std::map<std::string, std::string> rules;        // key, or refused operation, to a linter's rule id
    std::string cited(const std::string &key) const; // " (rule ANE001)", or nothing
};

// Takes one option, "axis" and "16384" or "16384@ANE001". False where the key is not a profile's;
// `wrong` says what is wrong with the value.
bool set_option(Profile *profile, const std::string &key, const std::string &value, std::string *wrong);

// The parser says no: there is no descriptor, and so no program.
struct NoDescriptor {
    mil::Position where;
    std::string message;
};

// Throws NoDescriptor or Refusal for the first thing in `f` that the chip does not take.
void admit(const mil::Function &f, const Profile &profile);

} // namespace anefast::host
