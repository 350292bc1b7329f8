// MIL text -> everything about it that can be said, for tools: the typed program, where each part of
// it stands, and a list of faults instead of the first one. For running programs: parse.h.
//
// Every value has a type in MIL text, so a statement with an unknown operation, or with one whose
// operands make no sense, is noted and its declared results are believed: reading goes on.
#pragma once

#include "lex.h"
#include "values.h"

namespace anefast::mil {

struct ArgumentMark {
    Span whole, value; // name = value, and the value alone
    Position where;    // of the value
    bool bracketed;    // among the attributes, as constexpr_ ops have it
};

struct OperationMark {                   // index-parallel to Function::operations
    Span whole;                          // of the statement, its ";" included
    Span close;                          // the ")" behind the arguments
    std::vector<ArgumentMark> arguments; // index-parallel to Operation::arguments
    bool labelled = false;
    bool known = true; // has a record in ops.cpp
};

struct ValueMark {     // index-parallel to Function::values
    Span whole;        // the parameter, the const statement or the literal; empty for results
    int32_t blob = -1; // index into FunctionMark::blobs
};

struct FunctionMark {
    Position where;
    Span opset, parameters, results; // the last two: between the parentheses
    std::vector<ValueMark> values;
    std::vector<OperationMark> operations;
    std::vector<BlobMark> blobs;
    std::vector<std::pair<Position, Span>> outputs; // index-parallel to Function::outputs
};

struct Outline {
    Program program;
    std::vector<FunctionMark> functions;
    Notes notes;
    Span version, attributes; // of the program; empty where there are none
    bool complete = false;    // read to the end of the text
};

// Never throws, whatever the bytes; without `complete` the last problem says where reading ended.
Outline outline(std::string_view text);

const char *spelling(Fault fault); // "syntax", "type", ...

} // namespace anefast::mil
