// Types and constants: see values.h.
//
// Numbers are rounded once, from the decimal or hex spelling to the dtype. A plain hex word in a
// floating constant (0x3c00, no "p") is its bit pattern, as ANEForge writes inline weights.
#include "values.h"

#include <clocale>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <locale.h>
#if defined(__APPLE__)
#include <xlocale.h>
#endif

#include "../blob.h"
#include "../half.h"

namespace anefast::mil {

namespace {

constexpr size_t MAX_READ_RANK = 16; // of types that only a tolerant reader gets past

constexpr struct {
    std::string_view name;
    DType dtype;
} DTYPES[] = {
    {"fp16", DType::fp16},     {"fp32", DType::fp32},   {"fp64", DType::fp64},     {"int8", DType::int8},
    {"uint8", DType::uint8},   {"int16", DType::int16}, {"uint16", DType::uint16}, {"int32", DType::int32},
    {"uint32", DType::uint32}, {"int64", DType::int64}, {"uint64", DType::uint64}, {"bool", DType::boolean},
    {"string", DType::string},
};

bool find_dtype(std::string_view name, DType *dtype) {
    for (const auto &entry : DTYPES)
        if (entry.name == name) {
            *dtype = entry.dtype;
            return true;
        }
    return false;
}

bool is_floating(DType dtype) { return dtype == DType::fp16 || dtype == DType::fp32 || dtype == DType::fp64; }

std::string found(const Token &token, DType dtype) { return described(token) + " for " + spelling(dtype); }

template <class T> void append(std::vector<uint8_t> &out, T value) {
    const size_t at = out.size();
    out.resize(at + sizeof value);
    std::memcpy(out.data() + at, &value, sizeof value);
}

// Double to half with one rounding: go through a float rounded to odd, whose 24 bits keep enough
// of what was lost for the second rounding to be the right one.
uint16_t half_from_double(double x) {
    float f = static_cast<float>(x);
    if (std::isfinite(x) && std::isfinite(f) && static_cast<double>(f) != x) {
        if (std::fabs(static_cast<double>(f)) > std::fabs(x)) f = std::nextafterf(f, 0.0f);
        uint32_t bits;
        std::memcpy(&bits, &f, sizeof bits);
        bits |= 1;
        std::memcpy(&f, &bits, sizeof f);
    }
    return half_from_float(f);
}

double parse_double(const Token &token, DType dtype) {
    static const locale_t plain = newlocale(LC_ALL_MASK, "C", nullptr); // decimal points are points
    const std::string_view s = token.spelling;
    char buffer[512];
    if (s.size() >= sizeof buffer) fail(token.where, "a number of fewer than 512 characters", found(token, dtype));
    std::memcpy(buffer, s.data(), s.size());
    buffer[s.size()] = 0;
    char *end = nullptr;
    const double value = strtod_l(buffer, &end, plain);
    if (end != buffer + s.size()) fail(token.where, "a number", found(token, dtype));
    return value;
}

// Sign, magnitude. False where it is not an integer literal that fits 64 bits.
bool parse_integer(std::string_view s, bool *negative, uint64_t *magnitude) {
    *negative = !s.empty() && s[0] == '-';
    if (!s.empty() && (s[0] == '-' || s[0] == '+')) s.remove_prefix(1);
    uint64_t base = 10, value = 0;
    if (s.size() > 2 && s[0] == '0' && (s[1] | 0x20) == 'x') {
        base = 16;
        s.remove_prefix(2);
    }
    if (s.empty()) return false;
    for (char c : s) {
        uint64_t digit = c >= '0' && c <= '9'                     ? c - '0'
                         : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                                  : 99;
        if (digit >= base || value > (UINT64_MAX - digit) / base) return false;
        value = value * base + digit;
    }
    *magnitude = value;
    return true;
}

void append_integer(const Token &token, DType dtype, std::vector<uint8_t> &out) {
    bool negative = false;
    uint64_t magnitude = 0;
    if (!parse_integer(token.spelling, &negative, &magnitude)) fail(token.where, "an integer", found(token, dtype));
    const bool is_signed =
        dtype == DType::int8 || dtype == DType::int16 || dtype == DType::int32 || dtype == DType::int64;
    const int bits = static_cast<int>(8 * bytes_of(dtype));
    const uint64_t top = is_signed ? (uint64_t{1} << (bits - 1)) - 1 : UINT64_MAX >> (64 - bits);
    if (magnitude > top + (is_signed && negative) || (negative && !is_signed && magnitude))
        fail(token.where, std::string("a value in the range of ") + spelling(dtype), described(token));
    const uint64_t value = negative ? 0 - magnitude : magnitude; // two's complement, little endian
    const size_t at = out.size();
    out.resize(at + bits / 8);
    for (int i = 0; i < bits / 8; i++) out[at + i] = static_cast<uint8_t>(value >> 8 * i);
}

// False where the dtype has no such value; what is appended then is an infinity.
bool append_floating(const Token &token, DType dtype, std::vector<uint8_t> &out) {
    const std::string_view s = token.spelling;
    const bool hex = s.find_first_of("xX") != std::string_view::npos;
    if (hex && s.find_first_of("pP.") == std::string_view::npos) {
        bool negative = false;
        uint64_t bits = 0;
        if (!parse_integer(s, &negative, &bits) || s[0] != '0' || s.size() > 2 + 2 * bytes_of(dtype))
            fail(token.where, std::string("the bit pattern of a ") + spelling(dtype) + ", or a hex float with a p",
                 described(token));
        const size_t at = out.size();
        out.resize(at + bytes_of(dtype));
        for (size_t i = 0; i < bytes_of(dtype); i++) out[at + i] = static_cast<uint8_t>(bits >> 8 * i);
        return true;
    }
    const double value = parse_double(token, dtype);
    const bool named = s.find_first_of("0123456789") == std::string_view::npos; // inf and nan ask for what they get
    bool fits = std::isfinite(value) || named;
    if (dtype == DType::fp16) {
        const uint16_t h = half_from_double(value);
        fits = fits && ((h & 0x7fff) != 0x7c00 || named);
        append(out, h);
    } else if (dtype == DType::fp32) {
        const float f = static_cast<float>(value);
        fits = fits && (std::isfinite(f) || named);
        append(out, f);
    } else {
        append(out, value);
    }
    return fits;
}

// One element: a bare literal, or a typed one (`fp16(0x1p-1)`) as some generators write inside lists. Those are read,
// and noted, for Apple's parser refuses them.
void parse_element(Lexer &lexer, DType dtype, Value *value) {
    if (starts_type(lexer.now())) {
        const Position where = lexer.now().where;
        const Type type = parse_type(lexer);
        if (type.dtype != dtype || !type.shape.empty())
            fail(where, std::string("an element of ") + spelling(dtype), described(type));
        lexer.expect("(", "after the element's type");
        if (starts_type(lexer.now())) fail(lexer.now().where, "a literal", described(lexer.now()));
        parse_element(lexer, dtype, value);
        lexer.expect(")", "after the element");
        return;
    }
    const Token token = lexer.now();
    if (dtype == DType::string) {
        value->strings.push_back(unescaped(lexer.expect(Token::text, "a string in double quotes")));
        return;
    }
    std::vector<uint8_t> &out = *value->inline_bytes;
    if (dtype == DType::boolean) {
        if (token.is("true") || token.is("false")) out.push_back(token.is("true"));
        else fail(token.where, "true or false", described(token));
    } else if (token.kind == Token::number || token.is("inf") || token.is("nan") || token.is("infinity")) {
        if (!is_floating(dtype)) append_integer(token, dtype, out);
        else if (!append_floating(token, dtype, out))
            lexer.complain(Fault::range, token.where, std::string("a value that ") + spelling(dtype) + " can hold",
                           described(token));
    } else {
        fail(token.where, is_floating(dtype) ? "a number" : "an integer", found(token, dtype));
    }
    lexer.take();
}

// A list for dimension `level` of the type; a flat list of all elements is taken for any rank.
// Recursion ends with the rank.
void parse_list(Lexer &lexer, const Type &type, size_t level, Value *value) {
    const Token open = lexer.expect("[", "to open the list of elements");
    const bool nested = level + 1 < type.shape.size() && lexer.now().is("[");
    const size_t wanted = nested || level + 1 == type.shape.size() ? static_cast<size_t>(type.shape[level])
                          : level == 0                             ? type.elements()
                                                                   : 0;
    if (!wanted) fail(lexer.now().where, "a list inside the list, for " + described(type), described(lexer.now()));
    size_t count = 0;
    if (!lexer.now().is("]")) {
        do {
            if (count == wanted)
                fail(lexer.now().where, std::to_string(wanted) + " elements in this list of " + described(type),
                     "more");
            if (lexer.tolerant() && !count && starts_type(lexer.now()))
                lexer.complain(Fault::typed, lexer.now().where, "plain elements in a list", described(lexer.now()));
            if (nested) parse_list(lexer, type, level + 1, value);
            else parse_element(lexer, type.dtype, value);
            count++;
        } while (lexer.accept(","));
    }
    if (count != wanted)
        fail(open.where, std::to_string(wanted) + " elements in this list of " + described(type),
             std::to_string(count));
    lexer.expect("]", "or \",\" after an element");
}

bool blob_code(DType dtype, blob_dtype *code) {
    switch (dtype) {
    case DType::fp16: *code = BLOB_FP16; return true;
    case DType::fp32: *code = BLOB_FP32; return true;
    case DType::int8: *code = BLOB_INT8; return true;
    case DType::uint8: *code = BLOB_UINT8; return true;
    case DType::int16: *code = BLOB_INT16; return true;
    case DType::uint16: *code = BLOB_UINT16; return true;
    case DType::int32: *code = BLOB_INT32; return true;
    case DType::uint32: *code = BLOB_UINT32; return true;
    default: return false;
    }
}

// A string or integer inside BLOBFILE, typed in either dialect or bare.
Value parse_field(Lexer &lexer, DType dtype) {
    Value value;
    value.type.dtype = dtype;
    value.inline_bytes = std::make_shared<std::vector<uint8_t>>();
    parse_element(lexer, dtype, &value);
    return value;
}

void parse_blobfile(Lexer &lexer, const Type &type, const BlobTable &blobs, Value *value) {
    const Position where = lexer.take().where;
    lexer.expect("(", "after BLOBFILE");
    std::string path;
    uint64_t offset = 0;
    Span literal;
    bool has_path = false, has_offset = false;
    do {
        const Token field = lexer.expect(Token::name, "path or offset in BLOBFILE");
        if (!(field.is("path") && !has_path) && !(field.is("offset") && !has_offset))
            fail(field.where, "path and offset, once each, in BLOBFILE", described(field));
        lexer.expect("=", "after the field of BLOBFILE");
        if (field.is("path")) {
            path = parse_field(lexer, DType::string).strings[0];
            has_path = true;
        } else {
            const size_t before = lexer.span(lexer.now()).begin;
            const Value number = parse_field(lexer, DType::uint64);
            literal = {before, lexer.last_end()};
            std::memcpy(&offset, number.inline_bytes->data(), sizeof offset);
            has_offset = true;
        }
    } while (lexer.accept(","));
    const Token close = lexer.expect(")", "to close BLOBFILE");
    if (!has_path || !has_offset)
        fail(close.where, "both path and offset in BLOBFILE", has_path ? "no offset" : "no path");
    if (blobs.seen) blobs.seen->push_back({path, offset, where, literal});

    blob_dtype code;
    if (!blob_code(type.dtype, &code)) fail(where, "a dtype that blob files hold", spelling(type.dtype));
    const auto entry = blobs.by_path.find(path);
    if (entry == blobs.by_path.end()) {
        if (blobs.optional) return;
        fail(where, "a weight file for every BLOBFILE path (" + std::to_string(blobs.by_path.size()) + " given)",
             quoted(path));
    }
    const Blob &file = *entry->second;
    const uint8_t *data = nullptr;
    size_t bytes = 0;
    const char *problem = blob_find(file.data, file.bytes, offset, code, &data, &bytes);
    if (problem)
        fail(where,
             std::string("a ") + spelling(type.dtype) + " record at offset " + std::to_string(offset) + " of " +
                 quoted(path),
             std::string("a file of ") + std::to_string(file.bytes) + " bytes where " + problem);
    if (bytes != type.bytes())
        fail(where,
             std::to_string(type.bytes()) + " bytes for " + described(type) + " at offset " + std::to_string(offset) +
                 " of " + quoted(path),
             std::to_string(bytes));
    value->data = data;
}

} // namespace

std::string described(const Type &type) {
    if (type.shape.empty()) return spelling(type.dtype);
    std::string out = std::string("tensor<") + spelling(type.dtype) + ", [";
    for (size_t i = 0; i < type.shape.size(); i++) out += (i ? ", " : "") + std::to_string(type.shape[i]);
    return out + "]>";
}

void check_limits(const Type &type, Position where) {
    if (type.shape.size() > MAX_RANK)
        fail(where, "at most " + std::to_string(MAX_RANK) + " dimensions", std::to_string(type.shape.size()),
             Fault::rank);
    check_elements(type, where);
}

void check_elements(const Type &type, Position where) {
    size_t n = 1;
    for (int32_t d : type.shape) {
        if (d <= 0) fail(where, "dimensions of 1 or more", described(type));
        n *= static_cast<size_t>(d); // below 2^31 * 2^31
        if (n >= MAX_ELEMENTS)
            fail(where, "fewer than " + std::to_string(MAX_ELEMENTS) + " elements", described(type), Fault::size);
    }
}

namespace {

// Types that other readers of MIL know and the device's path does not take: read as uint8.
bool is_foreign(std::string_view name) {
    for (const std::string_view other :
         {"int4", "uint1", "uint2", "uint3", "uint4", "uint6", "bf16", "fp8e4m3fn", "fp8e5m2"})
        if (name == other) return true;
    return false;
}

bool element_type(Lexer &lexer, const Token &token, DType *dtype) {
    if (find_dtype(token.spelling, dtype)) return true;
    if (!lexer.tolerant() || !is_foreign(token.spelling)) return false;
    lexer.complain(Fault::dtype, token.where, "an element type: fp16 fp32 fp64 bool string or (u)int8 to (u)int64",
                   described(token));
    *dtype = DType::uint8;
    return true;
}

} // namespace

bool starts_type(const Token &token) {
    DType dtype;
    return token.kind == Token::name &&
           (token.spelling == "tensor" || token.spelling == "state" || token.spelling == "tensor_buffer" ||
            find_dtype(token.spelling, &dtype) || is_foreign(token.spelling));
}

Type parse_type(Lexer &lexer) {
    const char *what = "a type such as tensor<fp16, [1, 4]> or int32";
    Token word = lexer.expect(Token::name, what);
    const bool state = lexer.tolerant() && word.spelling == "state"; // state<tensor<...>>, read as what it holds
    if (state) {
        lexer.expect("<", "after state");
        word = lexer.expect(Token::name, what);
    }
    if (word.spelling == "state")
        fail(word.where,
             "a tensor, for state ports are not supported (pass the state as an input, and return what it becomes)",
             described(word));
    if (word.spelling == "tensor_buffer")
        fail(word.where,
             "a tensor, not the tensor_buffer that coremlc writes for operations already placed on a device (take the "
             "model.mil of before that step)",
             described(word));
    Type type;
    if (word.spelling != "tensor") {
        if (!element_type(lexer, word, &type.dtype)) fail(word.where, what, described(word));
        if (state) lexer.expect(">", "to close the state");
        return type;
    }
    lexer.expect("<", "after tensor");
    const Token element = lexer.expect(Token::name, "an element type such as fp16");
    if (!element_type(lexer, element, &type.dtype))
        fail(element.where, "an element type: fp16 fp32 fp64 bool string or (u)int8 to (u)int64", described(element),
             Fault::dtype);
    lexer.expect(",", "after the element type");
    lexer.expect("[", "to open the shape");
    if (!lexer.now().is("]")) {
        do {
            const Token token = lexer.now();
            const bool open = token.is("?") || token.kind == Token::name;
            if (open) {
                lexer.complain(Fault::dynamic, token.where,
                               "a fixed dimension (shapes are static: compile with fixed shapes)", described(token));
                lexer.take();
            } else {
                lexer.expect(Token::number, "a dimension");
            }
            bool negative = false;
            uint64_t dimension = 1;
            if (!open && (!parse_integer(token.spelling, &negative, &dimension) || negative || !dimension ||
                          dimension > INT32_MAX))
                fail(token.where, "a dimension between 1 and 2147483647", described(token));
            type.shape.push_back(static_cast<int32_t>(dimension));
            if (type.shape.size() == MAX_RANK + 1)
                lexer.complain(Fault::rank, token.where, "at most " + std::to_string(MAX_RANK) + " dimensions", "more");
            if (type.shape.size() > MAX_READ_RANK)
                fail(token.where, "at most " + std::to_string(MAX_READ_RANK) + " dimensions", "more", Fault::rank);
        } while (lexer.accept(","));
    }
    lexer.expect("]", "or \",\" after a dimension");
    lexer.expect(">", "to close the type");
    if (state) lexer.expect(">", "to close the state");
    check_elements(type, word.where);
    return type;
}

void parse_payload(Lexer &lexer, const Type &type, const BlobTable &blobs, Value *value) {
    lexer.expect("(", "after the type of a value");
    value->type = type;
    value->is_const = true;
    if (lexer.now().is("BLOBFILE")) {
        parse_blobfile(lexer, type, blobs, value);
    } else {
        value->inline_bytes = std::make_shared<std::vector<uint8_t>>();
        if (type.shape.empty()) parse_element(lexer, type.dtype, value);
        else parse_list(lexer, type, 0, value);
        value->data = value->inline_bytes->data();
        if (type.dtype == DType::string) value->inline_bytes.reset(), value->data = nullptr;
    }
    lexer.expect(")", "after the value");
}

} // namespace anefast::mil
