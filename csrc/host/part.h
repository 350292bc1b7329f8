// The same function of less: inputs of which only a beginning counts, and all that follows from them.
//
// An evaluation that says how many columns anybody will read gets the same operations with shorter axes. The caller
// promises that what is left out changes nothing that is read: its columns do not meet, but where a mask hides them.
// What a concat joins lies side by side, too, where it is shorter: a mask over keys must be joined of the same pieces.
#pragma once

#include <cstdint>

#include "../mil/program.h"

namespace anefast::host {

// extents: of each input in the order of `whole.inputs`, of each of its axes, how much counts, from the beginning.
// False where some operation mixes what is left out with what is not in another way than a product's or a softmax's
// sums do; then the whole has to be computed.
bool take_part(const mil::Function &whole, const int64_t *extents, mil::Function *part);

} // namespace anefast::host
