#include "tests/cuda_emulation.hpp"

#include <bit>
#include <cstring>
#include <string>

#include "cuda/tree_attention.hpp"
#include "tests/cuda_block.hpp"

namespace icm_fast::cuda {
namespace {

// Eight rows of 16 bytes are read at once if they lie in different banks.
void count_conflicts(const std::array<const std::uint16_t*, kEmulatedLanes>& rows) {
    for (std::size_t matrix = 0; matrix < 4; ++matrix) {
        std::array<const std::uint16_t*, 8> in_bank{};
        for (std::size_t k = 0; k < 8; ++k) {
            const std::uint16_t* row = rows[matrix * 8 + k];
            const std::uint16_t*& other = in_bank[reinterpret_cast<std::uintptr_t>(row) / 16 % 8];
            if (other != nullptr && other != row) ++block().counts().bank_conflicts;
            other = row;
        }
    }
}

using MatrixRegisters = std::array<std::uint32_t, 4>;

template <bool kTransposed>
void load_matrices(const std::array<const std::uint16_t*, kEmulatedLanes>& rows,
                   std::array<MatrixRegisters, kEmulatedLanes>& registers) {
    count_conflicts(rows);
    for (std::size_t lane = 0; lane < kEmulatedLanes; ++lane) {
        for (std::size_t matrix = 0; matrix < 4; ++matrix) {
            std::array<std::uint32_t, 2> halves{};
            for (std::size_t i = 0; i < 2; ++i) {
                const std::size_t row = kTransposed ? lane % 4 * 2 + i : lane / 4;
                const std::size_t column = kTransposed ? lane / 4 : lane % 4 * 2 + i;
                halves[i] = rows[matrix * 8 + row][column];
            }
            registers[lane][matrix] = halves[0] | halves[1] << 16U;
        }
    }
}

template <bool kTransposed>
void load(std::uint32_t (&matrices)[4], const std::uint16_t* row) {
    block().check_shared(row, "ldmatrix");
    const MatrixRegisters registers = block().together(row, load_matrices<kTransposed>);
    std::memcpy(matrices, registers.data(), sizeof(registers));
}

template <typename Element>
float half_of(std::uint32_t word, std::size_t half) {
    return Element::widen(static_cast<std::uint16_t>(word >> (16 * half)));
}

// The layouts of mma.m16n8k16 in the PTX manual: group = lane / 4, member = lane % 4.
//   a: register r, half h: row group + 8 (r % 2), column 2 member + h + 8 (r / 2)
//   b: register r, half h: row 2 member + h + 8 r, column group
//   sum: element i: row group + 8 (i / 2), column 2 member + i % 2
template <typename Element>
void multiply(const std::array<MmaLane, kEmulatedLanes>& lanes,
              std::array<std::array<float, 4>, kEmulatedLanes>& results) {
    ++block().counts().matrix_products;
    float a[16][16];
    float b[16][8];
    float sum[16][8];
    for (std::size_t lane = 0; lane < kEmulatedLanes; ++lane) {
        const std::size_t group = lane / 4;
        const std::size_t column = lane % 4 * 2;
        for (std::size_t half = 0; half < 2; ++half) {
            for (std::size_t r = 0; r < 4; ++r) {
                a[group + r % 2 * 8][column + half + r / 2 * 8] =
                    half_of<Element>(lanes[lane].a[r], half);
            }
            for (std::size_t r = 0; r < 2; ++r) {
                b[column + half + r * 8][group] = half_of<Element>(lanes[lane].b[r], half);
            }
        }
        for (std::size_t i = 0; i < 4; ++i) {
            sum[group + i / 2 * 8][column + i % 2] = lanes[lane].sum[i];
        }
    }
    for (std::size_t row = 0; row < 16; ++row) {
        for (std::size_t k = 0; k < 16; ++k) {
            for (std::size_t column = 0; column < 8; ++column) {
                sum[row][column] += a[row][k] * b[k][column];
            }
        }
    }
    for (std::size_t lane = 0; lane < kEmulatedLanes; ++lane) {
        for (std::size_t i = 0; i < 4; ++i) {
            results[lane][i] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
    }
}

struct Shuffle {
    float value;
    int lane_mask;
};

void shuffle_xor(const std::array<Shuffle, kEmulatedLanes>& lanes,
                 std::array<float, kEmulatedLanes>& results) {
    for (std::size_t lane = 0; lane < kEmulatedLanes; ++lane) {
        results[lane] = lanes[lane ^ static_cast<std::size_t>(lanes[lane].lane_mask)].value;
    }
}

void any_of(const std::array<int, kEmulatedLanes>& lanes,
            std::array<int, kEmulatedLanes>& results) {
    int any = 0;
    for (const int predicate : lanes) any |= predicate;
    results.fill(any);
}

void nothing(const std::array<char, kEmulatedLanes>& /*lanes*/,
             std::array<char, kEmulatedLanes>& /*results*/) {}

std::string& last_failure() {
    static std::string text;
    return text;
}

// Drops the lower bits of a number, to the nearest and to even ones from halfway.
std::uint32_t round_off(std::uint32_t bits, unsigned n_dropped) {
    const std::uint32_t half = (1U << (n_dropped - 1)) - 1;
    return (bits + half + (bits >> n_dropped & 1U)) >> n_dropped;
}

constexpr unsigned kFloat16Shift = 13;                 // a float has so many more mantissa bits
constexpr std::uint32_t kFloat16Rebias = 112U << 10U;  // of the exponents, 127 - 15

}  // namespace

float Bfloat16::widen(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

std::uint16_t Bfloat16::round(float value) {
    if (std::isnan(value)) return 0x7FFF;
    return static_cast<std::uint16_t>(round_off(std::bit_cast<std::uint32_t>(value), 16));
}

float Float16::widen(std::uint16_t bits) {
    const float sign = (bits & 0x8000U) != 0 ? -1.0F : 1.0F;
    const std::uint32_t exponent = bits >> 10U & 31U;
    const std::uint32_t mantissa = bits & 0x3FFU;
    if (exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
    return sign * std::ldexp(static_cast<float>(mantissa + 1024), static_cast<int>(exponent) - 25);
}

std::uint16_t Float16::round(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = bits >> 16U & 0x8000U;
    const float size = std::abs(value);
    if (std::isnan(value)) return 0x7FFF;
    if (size >= 65520.0F) return static_cast<std::uint16_t>(sign | 0x7C00U);
    // Below the smallest normal number, multiples of 2^-24.
    if (size < 0x1p-14F) {
        return static_cast<std::uint16_t>(
            sign | static_cast<std::uint32_t>(std::nearbyint(std::ldexp(size, 24))));
    }
    const std::uint32_t rounded = round_off(bits & 0x7FFFFFFFU, kFloat16Shift) - kFloat16Rebias;
    return static_cast<std::uint16_t>(sign | rounded);
}

EmulationCounts& emulation_counts() { return block().counts(); }

void set_warp_order(WarpOrder order) { block().set_order(order); }

unsigned char* shared_memory() { return block().shared(); }

void cp_async_16(void* target, const void* source, bool valid) {
    block().begin_copy({target, valid ? source : nullptr});
}

void cp_async_wait_all() { block().finish_copies(); }

void ldmatrix(std::uint32_t (&matrices)[4], const std::uint16_t* row) {
    load<false>(matrices, row);
}

void ldmatrix_transposed(std::uint32_t (&matrices)[4], const std::uint16_t* row) {
    load<true>(matrices, row);
}

template <typename Element>
std::array<float, 4> mma_lane(const MmaLane& operands) {
    return block().together(operands, multiply<Element>);
}
template std::array<float, 4> mma_lane<Bfloat16>(const MmaLane&);
template std::array<float, 4> mma_lane<Float16>(const MmaLane&);

std::int32_t run_launch(const EmulatedLaunch& launch) {
    try {
        for (std::int32_t y = 0; y < launch.grid.y; ++y) {
            for (std::int32_t x = 0; x < launch.grid.x; ++x) {
                blockIdx = {static_cast<unsigned>(x), static_cast<unsigned>(y)};
                block().run(launch);
            }
        }
    } catch (const std::exception& error) {
        last_failure() = error.what();
        return kEmulationFailed;
    }
    return kOk;
}

const char* device_status_text(std::int32_t /*status*/) { return last_failure().c_str(); }

}  // namespace icm_fast::cuda

void __syncthreads() { icm_fast::cuda::block().barrier(); }

void __syncwarp() { icm_fast::cuda::block().together(char{0}, icm_fast::cuda::nothing); }

float __shfl_xor_sync(std::uint32_t mask, float value, int lane_mask) {
    if (mask != 0xFFFFFFFFU) icm_fast::cuda::emulation_fails("a shuffle of a part of a warp");
    return icm_fast::cuda::block().together(icm_fast::cuda::Shuffle{value, lane_mask},
                                            icm_fast::cuda::shuffle_xor);
}

int __any_sync(std::uint32_t mask, int predicate) {
    if (mask != 0xFFFFFFFFU) icm_fast::cuda::emulation_fails("a vote of a part of a warp");
    return icm_fast::cuda::block().together(predicate != 0 ? 1 : 0, icm_fast::cuda::any_of);
}
