// See skip.h.
#include "skip.h"

namespace anefast::mil {

namespace {

constexpr size_t MAX_ATTRIBUTE_DEPTH = 64;

// To the ">" of a "<" that was just taken.
void skip_angles(Lexer &lexer, Position where) {
    for (size_t depth = 1; depth;) {
        const Token token = lexer.take();
        if (token.kind == Token::end)
            fail(token.where, "the end of the type that began at line " + std::to_string(where.line), described(token));
        depth += token.is("<");
        depth -= token.is(">");
    }
}

// Skips to the matching bracket; or, `inside` a list of attributes, to the next "," or "]".
void skip_balanced(Lexer &lexer, Position where, bool inside) {
    std::string open; // the closing brackets we wait for
    for (;;) {
        const Token token = lexer.now();
        const char c = token.kind == Token::mark ? token.spelling[0] : '\0';
        if (token.kind == Token::end)
            fail(token.where, "the end of the attribute that began at line " + std::to_string(where.line),
                 described(token));
        if (inside && open.empty() && (c == ',' || c == ']')) return;
        lexer.take();
        if (c == '(' || c == '[' || c == '{') {
            open += c == '(' ? ')' : c == '[' ? ']' : '}';
            if (open.size() > MAX_ATTRIBUTE_DEPTH)
                fail(token.where, "attributes nested at most " + std::to_string(MAX_ATTRIBUTE_DEPTH) + " deep", "more");
        } else if (c == ')' || c == ']' || c == '}') {
            if (open.empty() || open.back() != c)
                fail(token.where, open.empty() ? "an attribute" : "\"" + open.substr(open.size() - 1) + "\"",
                     described(token));
            open.pop_back();
            if (open.empty() && !inside) return;
        } else if (c == '<' && inside) {
            skip_angles(lexer, token.where); // commas between them belong to a type
        }
    }
}

} // namespace

void skip_attributes(Lexer &lexer) {
    if (!lexer.now().is("[")) return;
    const Position where = lexer.now().where;
    skip_balanced(lexer, where, false);
}

void skip_value(Lexer &lexer, Position where) { skip_balanced(lexer, where, true); }

} // namespace anefast::mil
