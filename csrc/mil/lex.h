// Tokens of MIL text. Bytes in, tokens with positions out, one at a time; no grammar here.
// Read read.cpp next.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "program.h"

namespace anefast::mil {

// What kind of thing is wrong, for readers that sort faults (outline.h).
enum class Fault : uint8_t {
    syntax,
    type,
    undefined,
    duplicate,
    operation,
    opset,
    argument,
    bare,
    typed,
    dtype,
    dynamic,
    rank,
    size,
    range,
    data
};

// Thrown anywhere inside the parser, caught by parse(): it never leaves the library.
struct Failure {
    Position where;
    std::string message;
    Fault fault = Fault::syntax;
};

// Throws a Failure that reads "[mil] line 3, column 7: expected ..., got ...".
[[noreturn]] void fail(Position where, const std::string &expected, const std::string &got,
                       Fault fault = Fault::syntax);

struct Span { // bytes of the text, end excluded
    size_t begin = 0, end = 0;
};

// What a tolerant reader gathers instead of stopping.
struct Notes {
    std::vector<Failure> problems;
    std::vector<Span> comments;
};

// The offending text, short and printable, in double quotes.
std::string quoted(std::string_view text);

struct Token {
    enum Kind : uint8_t { end, name, number, text, mark };
    Kind kind = end;
    std::string_view spelling; // points into the MIL text; a text token keeps its quotes
    Position where;

    bool is(std::string_view what) const { // most calls ask for a mark of one byte: no memcmp for those
        return (kind == mark || kind == name) && spelling.size() == what.size() && spelling[0] == what[0] &&
               (what.size() == 1 || spelling == what);
    }
};

// "end of text", or the quoted spelling.
std::string described(const Token &token);

// The bytes a text token stands for, escapes resolved.
std::string unescaped(const Token &token);

class Lexer {
  public:
    // With `notes`, faults that leave the text readable are noted there and not thrown.
    explicit Lexer(std::string_view text, Notes *notes = nullptr);

    const Token &now() const { return now_; }
    Token take(); // returns now() and reads the next token
    bool accept(std::string_view what);
    Token expect(std::string_view what, const char *role); // role: "after the arguments", ...
    Token expect(Token::Kind kind, const char *what);      // what: "a name", ...

    bool tolerant() const { return notes_; }
    void complain(Fault fault, Position where, const std::string &expected, const std::string &got);
    void note(const Failure &failure);
    void resync(); // past the next ";", or to the next "}" or the end, whatever lies between
    Span span(const Token &token) const {
        const size_t begin =
            token.spelling.empty() ? text_.size() : static_cast<size_t>(token.spelling.data() - text_.data());
        return {begin, begin + token.spelling.size()};
    }
    size_t last_end() const { return last_end_; } // of the token that was taken last

  private:
    void read_on();
    void read();
    void skip_blank();
    char byte(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
    Position here() const;

    std::string_view text_;
    Notes *notes_ = nullptr;
    size_t at_ = 0, line_start_ = 0, last_end_ = 0;
    int32_t line_ = 1;
    Token now_;
};

} // namespace anefast::mil
