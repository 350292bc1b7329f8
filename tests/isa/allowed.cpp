// Stands in for csrc/cpu/gemm_amx_permit.cpp where the tiles are those of tiles.h: they are always allowed.
#include "cpu/gemm_amx.h"

namespace anefast {
bool amx_tiles_allowed(AmxKind) { return true; }
} // namespace anefast
