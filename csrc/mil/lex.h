// Tokens of MIL text. Bytes in, tokens with positions out, one at a time; no grammar here.
// Read parse.cpp next.
#pragma once

#include <string>
#include <string_view>

#include "program.h"

namespace anefast::mil {

// Thrown anywhere inside the parser, caught by parse(): it never leaves the library.
struct Failure {
    Position where;
    std::string message;
};

// Throws a Failure that reads "[mil] line 3, column 7: expected ..., got ...".
[[noreturn]] void fail(Position where, const std::string &expected, const std::string &got);

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
    explicit Lexer(std::string_view text);

    const Token &now() const { return now_; }
    Token take(); // returns now() and reads the next token
    bool accept(std::string_view what);
    Token expect(std::string_view what, const char *role); // role: "after the arguments", ...
    Token expect(Token::Kind kind, const char *what);      // what: "a name", ...

private:
    void read();
    void skip_blank();
    char byte(size_t ahead = 0) const { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
    Position here() const;

    std::string_view text_;
    size_t at_ = 0, line_start_ = 0;
    int32_t line_ = 1;
    Token now_;
};

} // namespace anefast::mil
