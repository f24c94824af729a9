// Which tables of operations this processor can run.
#include <array>
#include <cstdlib>
#include <string_view>

#include "cpu/kernels_tables.hpp"
#include "cpu/ops.hpp"

namespace icm_fast::cpu {
namespace {

constexpr std::size_t kMostTables = 4;

struct Available {
    std::array<const Ops*, kMostTables> tables{};
    std::size_t count = 0;
};

// "avx512" forbids "avx512_bf16", and so on: the names are in the order of speed.
Available detect() {
    Available found;
    const char* text = std::getenv("ICM_FAST_ISA");
    const std::string_view most = text == nullptr ? "" : text;
    const auto add = [&](const Ops& ops, bool runs) {
        const bool stopped = found.count > 0 && found.tables[found.count - 1]->name == most;
        if (runs && !stopped) found.tables[found.count++] = &ops;
    };
    add(kPortableOps, true);
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    add(kAvx2Ops, avx2);
    add(kAvx512Ops, avx2 && avx512);
    add(kAvx512Bf16Ops, avx2 && avx512 && __builtin_cpu_supports("avx512bf16"));
#endif
    return found;
}

const Available& available() {
    static const Available found = detect();
    return found;
}

}  // namespace

const Ops* pick_ops(Format format) {
    const Available& found = available();
    for (std::size_t k = found.count; k-- > 0;) {
        if (found.tables[k]->format == format) return found.tables[k];
    }
    return nullptr;
}

const Ops* const* available_ops(std::size_t& count) {
    count = available().count;
    return available().tables.data();
}

}  // namespace icm_fast::cpu
