// Text to a program, or to the first reason why not. The grammar is in read.cpp.
#include "parse.h"

#include "read.h"

namespace anefast::mil {

bool parse(std::string_view text, const std::vector<Blob> &blobs, bool weights_optional, Program *program,
           Error *error) {
    *program = Program{};
    try {
        BlobTable table;
        table.optional = weights_optional;
        for (const Blob &blob : blobs) table.by_path.emplace(blob.path, &blob);
        read(text, table, program);
        return true;
    } catch (...) {
        const Failure failure = reason();
        *error = {failure.where, failure.message};
    }
    *program = Program{};
    return false;
}

} // namespace anefast::mil
