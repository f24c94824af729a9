// The tables that exist in this build; which of them the processor can run is for dispatch.cpp.
#pragma once

#include "cpu/ops.hpp"

namespace icm_fast::cpu {

extern const Ops kPortableOps;
#if defined(__x86_64__)
extern const Ops kAvx2Ops;
extern const Ops kAvx512Ops;
extern const Ops kAvx512Bf16Ops;
#endif

}  // namespace icm_fast::cpu
