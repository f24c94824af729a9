// Which tables of operations this processor can run.
#include <array>
#include <cstdlib>
#include <string_view>

#include "cpu/int8_ops.hpp"
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
#ifdef __x86_64__
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

struct AvailableInt8 {
    std::array<const Int8Ops*, 2> tables{&kPortableInt8Ops};
    std::size_t count = 1;
};

AvailableInt8 detect_int8() {
    AvailableInt8 found;
#ifdef __x86_64__
    // Where AVX-512 is forbidden, so are its dot products.
    bool avx512 = false;
    for (std::size_t k = 0; k < available().count; ++k) {
        avx512 |= available().tables[k] == &kAvx512Ops;
    }
    if (avx512 && __builtin_cpu_supports("avx512vnni")) {
        found.tables[found.count++] = &kAvx512VnniOps;
    }
#endif
    return found;
}

const AvailableInt8& available_int8() {
    static const AvailableInt8 found = detect_int8();
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

const Int8Ops* pick_int8_ops() {
    const AvailableInt8& found = available_int8();
    return found.count > 1 ? found.tables[found.count - 1] : nullptr;
}

const Int8Ops* const* available_int8_ops(std::size_t& count) {
    count = available_int8().count;
    return available_int8().tables.data();
}

}  // namespace icm_fast::cpu
