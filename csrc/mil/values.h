// Types and constants of MIL text: `tensor<fp16, [1, 4]>(...)`, `string("valid")`, BLOBFILE(...).
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "lex.h"
#include "program.h"

namespace anefast::mil {

constexpr size_t MAX_RANK = 5;                   // the ANE's, and ANEFAST_MAX_RANK
constexpr size_t MAX_ELEMENTS = size_t{1} << 31; // one less fits int32 indices

// What a BLOBFILE names.
struct BlobMark {
    std::string path;
    uint64_t offset = 0;
    Position where;
    Span offset_literal;
};

// The weight files BLOBFILE constants may name.
struct BlobTable {
    std::map<std::string, const Blob *, std::less<>> by_path;
    bool optional = false;                 // a path that is not there leaves the constant without data
    std::vector<BlobMark> *seen = nullptr; // gathers what was named
};

std::string described(const Type &type); // "tensor<fp16, [1, 4]>", "int32"

// Throws a Failure where the type breaks the limits above: every tensor obeys them.
void check_limits(const Type &type, Position where);
void check_elements(const Type &type, Position where); // all but the rank

bool starts_type(const Token &token); // is this a type's first word?
Type parse_type(Lexer &lexer);

// What follows a type: "(" payload ")". Fills value->type, data, strings, is_const.
void parse_payload(Lexer &lexer, const Type &type, const BlobTable &blobs, Value *value);

} // namespace anefast::mil
