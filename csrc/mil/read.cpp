// The grammar of MIL text, by recursive descent, checking types as it goes.
//
//     program   "program" "(" 1.3 ")" [attributes] "{" function... "}"
//     function  "func" name "<" ios18 ">" "(" type name, ... ")" [attributes]
//               "{" statement... "}" "->" "(" name, ... ")" ";"
//     statement type name, ... "=" op "(" argument = value, ... ")" [attributes] ";"
//     value     a name | type "(" payload ")" | "(" value, ... ")"      (the last: a tuple)
//
// Nesting is bounded (a tuple holds no tuple, a list no deeper than its rank), so is the stack.
// Payloads are in values.cpp, what ops want in ops.cpp. Every limit that keeps hostile text from
// costing more than its length is where the text is read. With an Outline to fill (outline.h) the
// same grammar is read tolerantly: what can be passed over is noted, and reading goes on.
#include "read.h"

#include <map>
#include <new>
#include <stdexcept>

#include "lex.h"
#include "ops.h"
#include "skip.h"

namespace anefast::mil {

namespace {

class Parser {
  public:
    Parser(std::string_view text, const BlobTable &blobs, Outline *outline = nullptr)
        : lexer_(text, outline ? &outline->notes : nullptr), blobs_(blobs), outline_(outline) {}

    void program(Program *program) {
        lexer_.expect("program", "to begin the text");
        lexer_.expect("(", "after program");
        const Token version = lexer_.expect(Token::number, "a version such as 1.3");
        if (version.spelling.find_first_not_of("0123456789.") != std::string_view::npos || version.spelling.size() > 16)
            fail(version.where, "a version such as 1.3", described(version));
        program->version = version.spelling;
        lexer_.expect(")", "after the version");
        const size_t attributes = begin();
        skip_attributes(lexer_);
        if (outline_) {
            outline_->version = lexer_.span(version);
            if (lexer_.last_end() > attributes) outline_->attributes = {attributes, lexer_.last_end()};
        }
        lexer_.expect("{", "to open the program");
        while (!lexer_.now().is("}")) {
            const Position where = lexer_.now().where;
            if (outline_) mark_ = &outline_->functions.emplace_back();
            if (outline_) mark_->where = where;
            function(&program->functions.emplace_back());
            for (size_t i = 0; i + 1 < program->functions.size(); i++)
                if (program->functions[i].name == program->functions.back().name)
                    fail(where, "a new function name", quoted(program->functions.back().name) + " again");
            if (program->functions.size() > MAX_FUNCTIONS)
                fail(where, "at most " + std::to_string(MAX_FUNCTIONS) + " functions", "more");
        }
        const Token close = lexer_.take();
        if (program->functions.empty()) fail(close.where, "a function", described(close));
        if (lexer_.now().kind != Token::end)
            fail(lexer_.now().where, "nothing after the program", described(lexer_.now()));
    }

  private:
    size_t begin() const { return lexer_.span(lexer_.now()).begin; }

    static constexpr size_t MAX_FUNCTIONS = 256;

    void function(Function *f) {
        function_ = f;
        ids_.clear();
        constexpr_.clear();
        lost_ = dynamic_ = false;
        lexer_.expect("func", "to begin a function, or \"}\" to end the program");
        f->name = lexer_.expect(Token::name, "a function name").spelling;
        lexer_.expect("<", "and an opset such as <ios18> after the function name");
        const Token opset = lexer_.expect(Token::name, "an opset such as ios18");
        try {
            opset_ = opset_number(opset);
        } catch (const Failure &failure) {
            if (!outline_) throw;
            lexer_.note(failure);
        }
        f->opset = opset.spelling;
        if (mark_) mark_->opset = lexer_.span(opset);
        lexer_.expect(">", "after the opset");

        lexer_.expect("(", "to open the parameters");
        const size_t problems = outline_ ? outline_->notes.problems.size() : 0;
        if (mark_) mark_->parameters = {lexer_.last_end(), begin()};
        if (!lexer_.now().is(")")) {
            do {
                const Token at = lexer_.now();
                const Type type = parse_type(lexer_);
                if (type.dtype == DType::string) fail(at.where, "a tensor of numbers as parameter", described(type));
                const int32_t id = define(lexer_.expect(Token::name, "a parameter name"), type);
                f->inputs.push_back(id);
                if (mark_) mark_->values[static_cast<size_t>(id)].whole = {lexer_.span(at).begin, lexer_.last_end()};
            } while (lexer_.accept(","));
        }
        if (mark_) mark_->parameters.end = begin();
        if (outline_) look_for_dynamic(problems);
        lexer_.expect(")", "or \",\" after a parameter");
        skip_attributes(lexer_);

        lexer_.expect("{", "to open the function");
        while (!lexer_.now().is("}")) {
            if (outline_) tolerated();
            else statement();
        }
        lexer_.take();
        lexer_.expect("->", "and the results after the function");
        lexer_.expect("(", "to open the results");
        if (mark_) mark_->results = {lexer_.last_end(), begin()};
        std::map<int32_t, bool> seen;
        do {
            const Token name = lexer_.expect(Token::name, "the name of a result");
            if (outline_ && ids_.find(name.spelling) == ids_.end()) {
                if (!lost_) lexer_.complain(Fault::undefined, name.where, "a name defined above", described(name));
                continue;
            }
            const int32_t id = resolve(name);
            if (!seen.emplace(id, true).second) {
                lexer_.complain(Fault::duplicate, name.where, "each result once", described(name) + " again");
                continue;
            }
            if (f->values[static_cast<size_t>(id)].type.dtype == DType::string)
                fail(name.where, "a tensor of numbers as result", "a string");
            f->outputs.push_back(id);
            if (mark_) mark_->outputs.emplace_back(name.where, lexer_.span(name));
        } while (lexer_.accept(","));
        if (mark_) mark_->results.end = lexer_.last_end();
        lexer_.expect(")", "or \",\" after a result");
        lexer_.expect(";", "after the results");
    }

    static int opset_number(const Token &token) {
        std::string_view s = token.spelling;
        if (s.substr(0, 3) == "ios" && s.size() == 5 && s[3] >= '1' && s[3] <= '9' && s[4] >= '0' && s[4] <= '9') {
            const int number = (s[3] - '0') * 10 + (s[4] - '0');
            if (number >= 15) return number;
        }
        fail(token.where, "an opset: ios15, ios16, ios17, ios18", described(token), Fault::opset);
    }

    int32_t add(Value value, bool is_constexpr = false) {
        function_->values.push_back(std::move(value));
        constexpr_.push_back(is_constexpr);
        if (mark_) mark_->values.emplace_back();
        return static_cast<int32_t>(function_->values.size()) - 1;
    }

    int32_t define(const Token &name, const Type &type) {
        Value value;
        value.type = type;
        return define(name, std::move(value), false);
    }

    int32_t define(const Token &name, Value value, bool is_constexpr) {
        const auto [entry, fresh] = ids_.emplace(name.spelling, static_cast<int32_t>(function_->values.size()));
        if (!fresh) {
            const Position first = function_->values[static_cast<size_t>(entry->second)].where;
            lexer_.complain(Fault::duplicate, name.where, "a new name",
                            described(name) + ", which line " + std::to_string(first.line) + " has defined");
        }
        value.name = name.spelling;
        value.where = name.where;
        return add(std::move(value), is_constexpr);
    }

    int32_t resolve(const Token &name) const {
        const auto entry = ids_.find(name.spelling);
        if (entry == ids_.end()) fail(name.where, "a name defined above", described(name), Fault::undefined);
        return entry->second;
    }

    struct Declared {
        Type type;
        Token name;
        Position where; // of the type
    };

    void statement() {
        declared_.clear();
        begin_ = begin();
        if (blobs_.seen) blobs_.seen->clear();
        if (outline_ && !starts_type(lexer_.now()) &&
            lexer_.now().kind == Token::name) { // write_state(...): no results
            operation({}, lexer_.take());
        } else {
            do {
                const Position where = lexer_.now().where;
                if (!starts_type(lexer_.now()))
                    fail(where, "a type, to begin a statement, or \"}\"", described(lexer_.now()));
                Type type = parse_type(lexer_);
                declared_.push_back({std::move(type), lexer_.expect(Token::name, "the name of a result"), where});
            } while (lexer_.accept(","));
            lexer_.expect("=", "after the result");
            const Token type = lexer_.expect(Token::name, "an operation");
            if (type.is("const")) constant(declared_, type);
            else operation(declared_, type);
        }
        lexer_.expect(";", "after the statement");
    }

    void look_for_dynamic(size_t from) { // among the problems that were noted since
        for (size_t i = from; i < outline_->notes.problems.size(); i++)
            dynamic_ = dynamic_ || outline_->notes.problems[i].fault == Fault::dynamic;
    }

    // One statement, good or bad; what a bad one declares is believed, so that the next ones make sense.
    void tolerated() {
        Function &f = *function_;
        const size_t values = f.values.size(), operations = f.operations.size(),
                     problems = outline_->notes.problems.size();
        bool ended = false;
        try {
            statement();
            ended = true;
        } catch (const Failure &failure) {
            const bool echo = failure.fault == Fault::undefined && lost_; // of a statement that was lost before
            if (!echo) lexer_.note(failure);
            lost_ = lost_ || declared_.empty() || failure.fault == Fault::undefined;
            for (const Declared &d : declared_)
                if (ids_.find(d.name.spelling) == ids_.end()) define(d.name, d.type);
            lexer_.resync();
        }
        look_for_dynamic(problems);
        const Span whole{begin_, ended ? lexer_.last_end() : begin()};
        if (f.operations.size() > operations) mark_->operations.back().whole = whole;
        else if (ended && f.values.size() > values) mark_->values.back().whole = whole; // a const
    }

    // T name = const()[name = ..., val = T(...)];
    void constant(const std::vector<Declared> &declared, const Token &op) {
        if (declared.size() != 1) fail(op.where, "one result of const", std::to_string(declared.size()));
        lexer_.expect("(", "after const");
        lexer_.expect(")", "(the value of a const goes into its attribute val)");
        lexer_.expect("[", "to open the attributes of const");
        Value value;
        bool found = false;
        do {
            const Token name = lexer_.expect(Token::name, "an attribute name");
            lexer_.expect("=", "after the attribute name");
            if (!name.is("val")) {
                skip_value(lexer_, name.where);
                continue;
            }
            if (found) fail(name.where, "one val", "another");
            found = true;
            const Position where = lexer_.now().where;
            const Type type = parse_type(lexer_);
            if (!(type == declared[0].type))
                lexer_.complain(Fault::type, where, described(declared[0].type) + " as declared", described(type));
            parse_payload(lexer_, type, blobs_, &value);
        } while (lexer_.accept(","));
        const Token close = lexer_.expect("]", "or \",\" after an attribute");
        if (!found) fail(close.where, "val among the attributes of const", described(close));
        const int32_t id = define(declared[0].name, std::move(value), false);
        take_blob(id);
    }

    void take_blob(int32_t id) { // ties the BLOBFILE that was just read to its value
        if (!mark_ || blobs_.seen->empty()) return;
        mark_->values[static_cast<size_t>(id)].blob = static_cast<int32_t>(mark_->blobs.size());
        mark_->blobs.push_back(blobs_.seen->back());
        blobs_.seen->clear();
    }

    void operation(const std::vector<Declared> &declared, const Token &type) {
        const OpRecord *record = find_op(type.spelling);
        if (!record) {
            const std::string near = nearest_op(type.spelling);
            lexer_.complain(Fault::operation, type.where,
                            near.empty() ? "a known operation" : "a known operation (did you mean " + near + "?)",
                            described(type));
        }
        Operation op;
        op.type = type.spelling;
        op.where = type.where;
        OperationMark mark;
        mark.known = record;
        std::vector<Position> positions;
        if (lexer_.accept("<")) { // op<ios17>: the opset it is taken from, as coremlc writes once operations are placed
            opset_number(lexer_.expect(Token::name, "the opset of an operation"));
            lexer_.expect(">", "after the opset of an operation");
        }
        lexer_.expect("(", "after the operation");
        if (!lexer_.now().is(")")) {
            do argument(record, lexer_.expect(Token::name, "an argument name"), &op, &positions, &mark);
            while (lexer_.accept(","));
        }
        mark.close = lexer_.span(lexer_.expect(")", "or \",\" after an argument"));
        if (lexer_.accept("[")) {
            do attribute(record, &op, &positions, &mark);
            while (lexer_.accept(","));
            lexer_.expect("]", "or \",\" after an attribute");
        }

        if (record && !(outline_ && (dynamic_ || lost_))) check(*record, op, positions, declared);
        const bool is_constexpr = type.spelling.substr(0, 10) == "constexpr_";
        for (const Declared &result : declared) {
            Value value;
            value.type = result.type;
            op.results.push_back(define(result.name, std::move(value), is_constexpr));
        }
        function_->operations.push_back(std::move(op));
        if (mark_) mark_->operations.push_back(std::move(mark));
    }

    // The arguments against the op's record, the results against what was declared.
    void check(const OpRecord &record, const Operation &op, const std::vector<Position> &positions,
               const std::vector<Declared> &declared) {
        std::vector<Type> results;
        try {
            results = check_operation(record, {*function_, op, positions, opset_}, constexpr_);
        } catch (const Failure &failure) {
            if (!outline_) throw;
            if (failure.fault == Fault::data) return; // nobody gave the weight file
            lexer_.note({failure.where, failure.message, failure.fault == Fault::syntax ? Fault::type : failure.fault});
            return;
        }
        if (results.size() != declared.size())
            return lexer_.complain(Fault::type, op.where, std::to_string(results.size()) + " results of " + op.type,
                                   std::to_string(declared.size()));
        for (size_t i = 0; i < results.size(); i++)
            if (!(results[i] == declared[i].type))
                lexer_.complain(Fault::type, declared[i].where, described(results[i]) + " (what " + op.type + " gives)",
                                described(declared[i].type) + " declared");
    }

    void argument(const OpRecord *record, const Token &name, Operation *op, std::vector<Position> *positions,
                  OperationMark *mark, bool bracketed = false) {
        const Parameter *parameter = record ? record->find(name.spelling) : nullptr;
        if (record && !parameter)
            lexer_.complain(Fault::argument, name.where,
                            std::string("an argument of ") + record->name + " (" + parameter_names(*record) + ")",
                            described(name));
        if (op->find(name.spelling))
            fail(name.where, "each argument once", described(name) + " again", Fault::argument);
        lexer_.expect("=", "after the argument name");
        const Position where = lexer_.now().where;
        const size_t begin_of_value = begin();
        Argument argument;
        argument.name = name.spelling;
        if (parameter ? parameter->role == Role::tuple : lexer_.now().is("(")) {
            lexer_.expect("(", "to open the tuple of values");
            do argument.values.push_back(value());
            while (lexer_.accept(","));
            lexer_.expect(")", "or \",\" after a value");
        } else {
            argument.values.push_back(value());
        }
        op->arguments.push_back(std::move(argument));
        positions->push_back(where);
        if (mark_) {
            const size_t end = lexer_.last_end();
            mark->arguments.push_back({{lexer_.span(name).begin, end}, {begin_of_value, end}, where, bracketed});
        }
    }

    // In brackets after an operation: its label; for some ops (constexpr_...) its arguments; what is
    // neither is passed over, except where a misspelt argument would go unnoticed.
    void attribute(const OpRecord *record, Operation *op, std::vector<Position> *positions, OperationMark *mark) {
        const Token name = lexer_.expect(Token::name, "an attribute name");
        if (record && record->find(name.spelling)) return argument(record, name, op, positions, mark, true);
        const bool arguments = op->type.compare(0, 10, "constexpr_") == 0;
        if (!record && arguments && !name.is("name")) return argument(record, name, op, positions, mark, true);
        lexer_.expect("=", "after the attribute name");
        if (!name.is("name")) {
            if (record && arguments)
                fail(name.where, "an attribute of " + op->type + " (name, " + parameter_names(*record) + ")",
                     described(name), Fault::argument);
            return skip_value(lexer_, name.where);
        }
        const Position where = lexer_.now().where;
        const Type type = parse_type(lexer_);
        if (!(type == Type{DType::string, {}})) fail(where, "a string as name", described(type));
        Value label;
        parse_payload(lexer_, type, blobs_, &label);
        op->label = label.strings[0];
        mark->labelled = true;
    }

    int32_t value() {
        const Token token = lexer_.now();
        if (starts_type(token)) {
            const Type type = parse_type(lexer_);
            Value value;
            value.where = token.where;
            parse_payload(lexer_, type, blobs_, &value);
            const int32_t id = add(std::move(value));
            if (mark_) mark_->values[static_cast<size_t>(id)].whole = {lexer_.span(token).begin, lexer_.last_end()};
            take_blob(id);
            return id;
        }
        const bool truth = token.is("true") || token.is("false");
        if (token.kind != Token::name || truth) {
            const char *expected = "a name, or a typed value such as int32(1) or bool(true)";
            if (!truth)
                fail(token.where, expected, described(token),
                     token.kind == Token::number ? Fault::bare : Fault::syntax);
            lexer_.complain(Fault::bare, token.where, expected, described(token));
            return bare(token);
        }
        const int32_t id = resolve(token);
        lexer_.take();
        return id;
    }

    int32_t bare(const Token &token) {
        Value value;
        value.where = token.where;
        value.type.dtype = DType::boolean;
        value.is_const = true;
        value.inline_bytes = std::make_shared<std::vector<uint8_t>>(1, token.is("true"));
        value.data = value.inline_bytes->data();
        const int32_t id = add(std::move(value));
        mark_->values[static_cast<size_t>(id)].whole = lexer_.span(lexer_.take());
        return id;
    }

    Lexer lexer_;
    const BlobTable &blobs_;
    Outline *outline_ = nullptr;   // reading tolerantly where there is one
    FunctionMark *mark_ = nullptr; // of the function being read
    Function *function_ = nullptr;
    int opset_ = 18;
    std::vector<Declared> declared_;          // by the statement being read
    size_t begin_ = 0;                        // where it begins
    bool lost_ = false;                       // a statement could not be read, names may be missing
    bool dynamic_ = false;                    // a dimension is not known: types are not checked
    std::map<std::string_view, int32_t> ids_; // a tree: no choice of names makes it slow
    std::vector<bool> constexpr_;             // per value: the result of a constexpr_ op
};

} // namespace

void read(std::string_view text, const BlobTable &blobs, Program *program) { Parser(text, blobs).program(program); }

void read(std::string_view text, const BlobTable &blobs, Outline *outline) {
    Parser(text, blobs, outline).program(&outline->program);
}

Failure reason() {
    const Failure no_memory{{1, 1}, "[mil] expected memory for the program, got none", Fault::size};
    try {
        throw;
    } catch (const Failure &failure) {
        return failure;
    } catch (const std::bad_alloc &) {
        return no_memory;
    } catch (const std::length_error &) {
        return no_memory;
    }
}

} // namespace anefast::mil
