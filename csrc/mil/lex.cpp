// Tokens of MIL text: see lex.h. Comments (// and /* */) are tolerated, numbers keep their spelling
// (values.cpp knows what they mean for which dtype).
#include "lex.h"

#include <array>
#include <cstdio>

namespace anefast::mil {

namespace {

constexpr size_t MAX_TEXT_BYTES = size_t{1} << 28; // keeps positions in 32 bits
constexpr size_t MAX_QUOTE_BYTES = 32;
constexpr size_t MAX_PROBLEMS = 200; // that a tolerant reader puts up with

enum : uint8_t { LETTER = 1, DIGIT = 2, IN_NAME = 4, HEX = 8, MARK = 16 };

constexpr auto CLASSES = [] { // of every byte, since each is asked several times
    std::array<uint8_t, 256> of{};
    for (int c = 'a'; c <= 'z'; c++) of[c] = of[c - 'a' + 'A'] = LETTER | IN_NAME;
    for (int c = '0'; c <= '9'; c++) of[c] = DIGIT | IN_NAME | HEX;
    for (int c = 'a'; c <= 'f'; c++) of[c] = of[c - 'a' + 'A'] = LETTER | IN_NAME | HEX;
    of['_'] = LETTER | IN_NAME;
    of['.'] = of['@'] = of['$'] = IN_NAME;
    for (const char c : {'(', ')', '[', ']', '{', '}', '<', '>', ',', '=', ';', ':', '?'})
        of[static_cast<uint8_t>(c)] = MARK;
    return of;
}();

bool is(char c, uint8_t what) { return CLASSES[static_cast<uint8_t>(c)] & what; }
bool is_digit(char c) { return is(c, DIGIT); }
bool is_letter(char c) { return is(c, LETTER); }
bool is_name(char c) { return is(c, IN_NAME); }
bool is_hex(char c) { return is(c, HEX); }

int nibble(char c) { return is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10; }

} // namespace

namespace {

Failure failure_of(Position where, const std::string &expected, const std::string &got, Fault fault) {
    return {where,
            "[mil] line " + std::to_string(where.line) + ", column " + std::to_string(where.column) + ": expected " +
                expected + ", got " + got,
            fault};
}

} // namespace

void fail(Position where, const std::string &expected, const std::string &got, Fault fault) {
    throw failure_of(where, expected, got, fault);
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (char c : text.substr(0, MAX_QUOTE_BYTES)) {
        if (c >= ' ' && c <= '~') {
            out += c;
        } else {
            char hex[8];
            std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
            out += hex;
        }
    }
    return out + (text.size() > MAX_QUOTE_BYTES ? "...\"" : "\"");
}

std::string described(const Token &token) {
    if (token.kind == Token::end) return "the end of the text";
    if (token.kind == Token::text) return "the string " + quoted(token.spelling.substr(1, token.spelling.size() - 2));
    return quoted(token.spelling);
}

std::string unescaped(const Token &token) {
    const std::string_view body = token.spelling.substr(1, token.spelling.size() - 2);
    std::string out;
    out.reserve(body.size());
    for (size_t i = 0; i < body.size(); i++) {
        if (body[i] != '\\') {
            out += body[i];
            continue;
        }
        const char c = body[++i]; // the lexer made sure that a backslash is never last
        switch (c) {
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case '0': out += '\0'; break;
        case '\\':
        case '"':
        case '\'':
        case '/': out += c; break;
        case 'x':
            if (i + 2 < body.size() && is_hex(body[i + 1]) && is_hex(body[i + 2])) {
                out += static_cast<char>(nibble(body[i + 1]) << 4 | nibble(body[i + 2]));
                i += 2;
                break;
            }
            [[fallthrough]];
        default:
            fail({token.where.line, token.where.column + static_cast<int32_t>(i)},
                 "an escape: \\\\ \\\" \\n \\t \\r \\0 or \\x and two hex digits", quoted(body.substr(i - 1, 2)));
        }
    }
    return out;
}

Lexer::Lexer(std::string_view text, Notes *notes) : text_(text), notes_(notes) {
    if (text.size() > MAX_TEXT_BYTES) {
        text_ = {};
        fail({1, 1}, "at most " + std::to_string(MAX_TEXT_BYTES) + " bytes of text", std::to_string(text.size()));
    }
    read();
}

Token Lexer::take() {
    Token token = now_;
    last_end_ = span(token).end;
    read();
    return token;
}

bool Lexer::accept(std::string_view what) {
    if (!now_.is(what)) return false;
    take();
    return true;
}

void Lexer::complain(Fault fault, Position where, const std::string &expected, const std::string &got) {
    if (!notes_) fail(where, expected, got, fault);
    note(failure_of(where, expected, got, fault));
}

void Lexer::note(const Failure &failure) {
    if (notes_->problems.size() >= MAX_PROBLEMS)
        fail(failure.where, "at most " + std::to_string(MAX_PROBLEMS) + " faults", "more");
    notes_->problems.push_back(failure);
}

void Lexer::read_on() {
    for (;;) {
        const size_t before = at_;
        try {
            return read();
        } catch (const Failure &) {
            if (at_ == before && at_ < text_.size()) at_++;
            while (at_ < text_.size() && text_[at_] != '\n') at_++;
        }
    }
}

void Lexer::resync() {
    while (now_.kind != Token::end && !now_.is("}")) {
        const bool last = now_.is(";");
        read_on();
        if (last) return;
    }
}

Token Lexer::expect(std::string_view what, const char *role) {
    if (!now_.is(what)) fail(now_.where, quoted(what) + " " + role, described(now_));
    return take();
}

Token Lexer::expect(Token::Kind kind, const char *what) {
    if (now_.kind != kind) fail(now_.where, what, described(now_));
    return take();
}

Position Lexer::here() const { return {line_, static_cast<int32_t>(at_ - line_start_) + 1}; }

void Lexer::skip_blank() {
    while (at_ < text_.size()) {
        const char c = text_[at_];
        if (c == '\n') {
            line_++;
            line_start_ = ++at_;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
            at_++;
        } else if (c == '/' && byte(1) == '/') {
            const size_t begin = at_;
            while (at_ < text_.size() && text_[at_] != '\n') at_++;
            if (notes_) notes_->comments.push_back({begin, at_});
        } else if (c == '/' && byte(1) == '*') {
            const Position start = here();
            const size_t begin = at_;
            for (at_ += 2; !(byte() == '*' && byte(1) == '/'); at_++) {
                if (at_ >= text_.size()) fail(start, "*/ to close this comment", "the end of the text");
                if (text_[at_] == '\n') {
                    line_++;
                    line_start_ = at_ + 1;
                }
            }
            at_ += 2;
            if (notes_) notes_->comments.push_back({begin, at_});
        } else {
            return;
        }
    }
}

void Lexer::read() {
    skip_blank();
    const Position where = here();
    const size_t start = at_;
    const auto token = [&](Token::Kind kind) { now_ = {kind, text_.substr(start, at_ - start), where}; };
    if (at_ >= text_.size()) return token(Token::end);

    const char c = byte();
    if (is(c, MARK)) {
        at_++;
        return token(Token::mark);
    }
    if (is_letter(c) || c == '@' || c == '$') {
        while (at_ < text_.size() && is_name(byte())) at_++;
        return token(Token::name);
    }
    const char after_sign = c == '+' || c == '-' ? byte(1) : c;
    if (is_digit(after_sign) || after_sign == '.' || ((c == '+' || c == '-') && is_letter(after_sign))) {
        at_++; // the rest is any run that could be a number; values.cpp checks the spelling
        const bool hex = after_sign == '0' && (byte(after_sign != c) | 0x20) == 'x';
        while (at_ < text_.size()) {
            const char d = byte(), before = text_[at_ - 1] | 0x20;
            const bool exponent_sign = (d == '+' || d == '-') && before == (hex ? 'p' : 'e');
            if (!is_digit(d) && !is_letter(d) && d != '.' && !exponent_sign) break;
            at_++;
        }
        return token(Token::number);
    }
    if (c == '"') {
        for (at_++; byte() != '"'; at_++) {
            if (at_ >= text_.size() || byte() == '\n')
                fail(where, "a closing quote on the same line", quoted(text_.substr(start, at_ - start)));
            if (byte() == '\\') {
                at_++;
                if (at_ >= text_.size() || byte() == '\n')
                    fail(where, "a closing quote on the same line", quoted(text_.substr(start, at_ - start)));
            }
        }
        at_++;
        return token(Token::text);
    }
    if (c == '-' && byte(1) == '>') {
        at_ += 2;
        return token(Token::mark);
    }
    fail(where, "MIL text", quoted(text_.substr(start, 1)));
}

} // namespace anefast::mil
