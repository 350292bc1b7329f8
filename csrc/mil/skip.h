// Attributes that mean nothing here: passed over, but their brackets must balance.
#pragma once

#include "lex.h"

namespace anefast::mil {

void skip_attributes(Lexer &lexer);            // [name = anything, ...], where one begins here
void skip_value(Lexer &lexer, Position where); // of an attribute at `where`: to the next "," or "]" of its list

} // namespace anefast::mil
