// libFuzzer target: the parser, the tolerant reader and the blob reader, held to each other.
//
// Input: MIL text, or statements alone where it does not begin with "p" (short inputs are fast ones);
// behind a byte 0xff, where there is one, a weight file for the paths of PATHS. Every input must end in a program or in
// an error with a position inside the text, in bounded time, and the two readers must agree on which. Built and run by
// test_fuzz.py; seeds.py makes the corpus.
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "mil/outline.h"
#include "mil/parse.h"

using namespace anefast::mil;

namespace {

constexpr std::string_view HEAD = "program(1.3){func main<ios18>(tensor<fp16,[1,8,1,32]> x,tensor<fp16,[2,3]> i0){\n",
                           TAIL = "\n}->(y);}";
constexpr const char *PATHS[] = {"@model_path/weights/w.bin", "w"};

[[noreturn]] void broken(const char *law, const std::string &detail) {
    std::fprintf(stderr, "broken: %s: %s\n", law, detail.c_str());
    std::abort();
}

void check_error(std::string_view text, int64_t lines, Position where, const std::string &message) {
    if (where.line < 1 || where.line > lines || where.column < 1)
        broken("an error has a position in the text", message);
    if (static_cast<size_t>(where.column) > text.size() + 1) broken("a column is in the text", message);
    if (message.compare(0, 5, "[mil]") || message.size() > 2000) broken("an error is one sentence", message);
}

void check_span(std::string_view text, Span span, const char *what) {
    if (span.begin > span.end || span.end > text.size()) broken("a span is in the text", what);
}

// Reads what constants point at: a pointer past its file is the sanitizer's to find.
void touch(const Program &program) {
    volatile uint8_t sum = 0;
    for (const Function &f : program.functions)
        for (const Value &v : f.values)
            if (v.data && v.type.bytes()) sum = sum + v.data[0] + v.data[v.type.bytes() - 1];
}

void check_marks(std::string_view text, const Outline &o) {
    if (o.functions.size() != o.program.functions.size()) broken("marks are parallel", "functions");
    for (const Span &comment : o.notes.comments) check_span(text, comment, "comment");
    for (size_t i = 0; i < o.functions.size(); i++) {
        const Function &f = o.program.functions[i];
        const FunctionMark &m = o.functions[i];
        if (m.values.size() != f.values.size() || m.operations.size() != f.operations.size() ||
            m.outputs.size() != f.outputs.size())
            broken("marks are parallel", f.name);
        for (const ValueMark &v : m.values) {
            check_span(text, v.whole, "value");
            if (v.blob >= static_cast<int32_t>(m.blobs.size())) broken("a blob is known", f.name);
        }
        for (size_t j = 0; j < m.operations.size(); j++) {
            const OperationMark &op = m.operations[j];
            check_span(text, op.whole, "operation");
            check_span(text, op.close, "close");
            if (op.arguments.size() != f.operations[j].arguments.size())
                broken("marks are parallel", f.operations[j].type);
            for (const ArgumentMark &a : op.arguments)
                check_span(text, a.whole, "argument"), check_span(text, a.value, "argument");
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const std::string_view input(reinterpret_cast<const char *>(data), size);
    const size_t cut = std::min(input.find('\xff'), size);
    std::string whole(input.substr(0, cut));
    if (whole.compare(0, 1, "p")) whole.insert(0, HEAD), whole += TAIL;
    const std::string_view text = whole;
    const int64_t lines = 1 + std::count(text.begin(), text.end(), '\n');

    Program program;
    Error error;
    const bool fine = parse(text, {}, true, &program, &error);
    if (!fine) check_error(text, lines, error.where, error.message);
    if (fine && program.functions.empty()) broken("a program has a function", "");

    touch(program);
    const Outline o = outline(text);
    touch(o.program);
    for (const Failure &problem : o.notes.problems) check_error(text, lines, problem.where, problem.message);
    check_marks(text, o);
    const bool clean = o.complete && o.notes.problems.empty();
    if (!o.complete && o.notes.problems.empty()) broken("what stops reading is noted", "");
    if (fine && !clean) broken("what parses reads cleanly", o.notes.problems[0].message);
    if (!fine && clean && error.message.find("BLOBFILE that was not given") == std::string::npos)
        broken("what reads cleanly parses", error.message);

    if (cut < size) {
        std::vector<Blob> blobs;
        for (const char *path : PATHS) blobs.push_back({path, data + cut + 1, size - cut - 1});
        if (!parse(text, blobs, false, &program, &error)) check_error(text, lines, error.where, error.message);
        touch(program);
    }
    return 0;
}
