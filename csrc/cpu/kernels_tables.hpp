// The tables that exist in this build; which of them the processor can run is for dispatch.cpp.
#pragma once

#include "cpu/int8_ops.hpp"
#include "cpu/ops.hpp"

namespace icm_fast::cpu {

extern const Ops kPortableOps;
extern const Int8Ops kPortableInt8Ops;
#ifdef __x86_64__
extern const Ops kAvx2Ops;
extern const Ops kAvx512Ops;
extern const Ops kAvx512Bf16Ops;
extern const Int8Ops kAvx512VnniOps;
#endif

}  // namespace icm_fast::cpu
