// Words that records of operations are written in: sets of dtypes, arguments, and the common kinds of operation.
//
//     declare::unary("softsign")                                one floating tensor, the result as large
//     {"gelu", 15, FLOAT, FLOAT, {in("x"), may("mode", Role::text)}, rules::gelu}
#pragma once

#include "rules.h"

namespace anefast::mil::declare {

namespace rules = mil::rules;
using mil::Role;

constexpr DTypes FLOAT = only(DType::fp16) | only(DType::fp32);
constexpr DTypes NUMBER = FLOAT | only(DType::int32);
constexpr DTypes BOOL = only(DType::boolean);
constexpr DTypes SMALL = only(DType::int8) | only(DType::uint8) | only(DType::int16) | only(DType::uint16);
constexpr DTypes PLAIN = NUMBER | BOOL;
constexpr DTypes ANY =
    PLAIN | SMALL | only(DType::uint32) | only(DType::int64) | only(DType::uint64) | only(DType::fp64);

constexpr Parameter in(const char *name) { return {name, Role::tensor}; }
constexpr Parameter weight(const char *name) { return {name, Role::tensor, false, true}; }
constexpr Parameter scalar(const char *name) { return {name, Role::scalar}; }
constexpr Parameter needs(const char *name, Role role) { return {name, role}; }
constexpr Parameter may(const char *name, Role role) { return {name, role, true}; }
constexpr Parameter may_weight(const char *name) { return {name, Role::tensor, true, true}; }

// clang-format off
inline OpRecord unary(const char *name, DTypes dtypes = FLOAT) { return {name, 15, dtypes, dtypes, {in("x")}, rules::same}; }
inline OpRecord unary_epsilon(const char *name) { return {name, 15, FLOAT, FLOAT, {in("x"), may("epsilon", Role::scalar)}, rules::same}; }
inline OpRecord unary_alpha(const char *name, DTypes dtypes = FLOAT) { return {name, 15, dtypes, dtypes, {in("x"), scalar("alpha")}, rules::same}; }
inline OpRecord unary_alpha_beta(const char *name) { return {name, 15, FLOAT, FLOAT, {in("x"), scalar("alpha"), scalar("beta")}, rules::same}; }
inline OpRecord binary(const char *name) { return {name, 15, NUMBER, NUMBER, {in("x"), in("y")}, rules::binary}; }
inline OpRecord compare(const char *name) { return {name, 15, NUMBER, NUMBER, {in("x"), in("y")}, rules::compare}; }
inline OpRecord logical(const char *name) { return {name, 15, BOOL, BOOL, {in("x"), in("y")}, rules::compare}; }
inline OpRecord reduce(const char *name) {
    return {name, 15, NUMBER, NUMBER, {in("x"), may("axes", Role::ints), may("keep_dims", Role::flag)}, rules::reduce};
}
inline OpRecord argument_of(const char *name) {
    return {name, 15, NUMBER, NUMBER, {in("x"), may("axis", Role::integer), may("keep_dims", Role::flag)}, rules::argument};
}
// clang-format on

} // namespace anefast::mil::declare
