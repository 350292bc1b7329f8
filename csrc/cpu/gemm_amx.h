// May this process use AMX tiles? They need the processor's word, the kernel's (their registers must be
// saved) and a permission that is asked for once per process.
#pragma once

namespace anefast {

enum class AmxKind { bf16, fp16 };

bool amx_tiles_allowed(AmxKind kind);

} // namespace anefast
