#include "tests/cuda_emulation.hpp"

#include <bit>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/tree_attention.hpp"
#include "tests/fiber.hpp"

namespace icm_fast::cuda {
namespace {

using tests::Fiber;

constexpr std::size_t kWarpLanes = kEmulatedLanes;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

// Threads that come together: who arrives last opens the gate for all.
struct Gate {
    std::size_t arrived = 0;
    std::uint64_t openings = 0;
};

struct Copy {
    void* target;
    const void* source;  // null: zeros
};

struct Thread {
    std::unique_ptr<Fiber> fiber;
    std::vector<Copy> copies;  // begun and not waited for
    const Gate* gate = nullptr;
    std::uint64_t seen_openings = 0;
    bool finished = true;

    [[nodiscard]] bool waits() const { return gate != nullptr && gate->openings == seen_openings; }
};

// One collective operation of a warp: what each lane brings, and what it gets.
struct Collective {
    static constexpr std::size_t kBytes = 64;
    alignas(16) std::array<std::array<std::byte, kBytes>, kWarpLanes> inputs;
    alignas(16) std::array<std::array<std::byte, kBytes>, kWarpLanes> outputs;
    const void* operation = nullptr;
    Gate gate;
};

// The block that runs, on fibers that stay for the next one.
class Block {
  public:
    void run(const EmulatedLaunch& launch);
    void set_order(WarpOrder order) { order_ = order; }
    EmulationCounts& counts() { return counts_; }

    unsigned char* shared() { return reinterpret_cast<unsigned char*>(shared_.data()); }
    void check_shared(const void* pointer, const char* what) const;
    void begin_copy(const Copy& copy);
    void finish_copies(Thread& thread);
    void finish_copies() { finish_copies(current()); }
    void barrier() { arrive(barrier_, n_threads_); }
    template <typename In, typename Out>
    Out together(const In& input, void (*operation)(const std::array<In, kWarpLanes>&,
                                                    std::array<Out, kWarpLanes>&));

  private:
    Thread& current() { return threads_[current_]; }
    void arrive(Gate& gate, std::size_t n);
    void start(const EmulatedLaunch& launch);
    void run_thread(std::size_t index);
    bool run_warp(std::size_t warp);
    bool run_warps();
    [[nodiscard]] bool finished() const;
    void live(std::size_t index);

    WarpOrder order_ = WarpOrder::kFirstToLast;
    EmulationCounts counts_;
    const EmulatedLaunch* launch_ = nullptr;
    Fiber scheduler_;
    std::vector<Thread> threads_;
    std::vector<Collective> warps_;
    std::vector<uint4> shared_;
    Gate barrier_;
    std::size_t n_threads_ = 0;
    std::size_t current_ = 0;
    std::string failure_;
};

// What a thread's fiber does for ever: one kernel after the other.
void Block::live(std::size_t index) {
    while (true) {
        try {
            launch_->thread();
            finish_copies(threads_[index]);
        } catch (const std::exception& error) {
            if (failure_.empty()) failure_ = error.what();
        }
        threads_[index].finished = true;
        threads_[index].fiber->switch_to(scheduler_);
    }
}

void Block::start(const EmulatedLaunch& launch) {
    launch_ = &launch;
    n_threads_ = static_cast<std::size_t>(launch.n_threads);
    // A block that failed left its fibers in the middle of a kernel.
    if (!failure_.empty() || threads_.size() != n_threads_) threads_.clear();
    failure_.clear();
    threads_.resize(n_threads_);
    for (std::size_t k = 0; k < n_threads_; ++k) {
        Thread& thread = threads_[k];
        if (!thread.fiber) thread.fiber = std::make_unique<Fiber>([this, k] { live(k); });
        thread.copies.clear();
        thread.gate = nullptr;
        thread.finished = false;
    }
    warps_.assign(n_threads_ / kWarpLanes, {});
    barrier_ = {};
    shared_.assign(static_cast<std::size_t>(launch.n_shared + 15) / 16, {~0U, ~0U, ~0U, ~0U});
}

void Block::run(const EmulatedLaunch& launch) {
    start(launch);
    ++counts_.blocks;
    while (!finished()) {
        const bool moved = run_warps();
        if (!failure_.empty()) fail(failure_);
        if (!moved) {
            failure_ = "threads wait for others that never come";
            fail(failure_);
        }
    }
}

bool Block::finished() const {
    for (const Thread& thread : threads_) {
        if (!thread.finished) return false;
    }
    return true;
}

bool Block::run_warps() {
    bool moved = false;
    for (std::size_t k = 0; k < warps_.size(); ++k) {
        const bool forward = order_ == WarpOrder::kFirstToLast;
        moved |= run_warp(forward ? k : warps_.size() - 1 - k);
    }
    return moved;
}

// Runs a warp until none of its lanes can go on; says whether one could at all.
bool Block::run_warp(std::size_t warp) {
    bool moved = false;
    bool again = true;
    while (again && failure_.empty()) {
        again = false;
        for (std::size_t k = warp * kWarpLanes; k < (warp + 1) * kWarpLanes; ++k) {
            if (threads_[k].finished || threads_[k].waits()) continue;
            run_thread(k);
            again = true;
        }
        moved |= again;
    }
    return moved;
}

void Block::run_thread(std::size_t index) {
    current_ = index;
    threadIdx.x = static_cast<unsigned>(index);
    scheduler_.switch_to(*threads_[index].fiber);
}

void Block::arrive(Gate& gate, std::size_t n) {
    Thread& thread = current();
    if (++gate.arrived == n) {
        gate.arrived = 0;
        ++gate.openings;
        return;
    }
    thread.gate = &gate;
    thread.seen_openings = gate.openings;
    thread.fiber->switch_to(scheduler_);
    thread.gate = nullptr;
}

template <typename In, typename Out>
Out Block::together(const In& input, void (*operation)(const std::array<In, kWarpLanes>&,
                                                       std::array<Out, kWarpLanes>&)) {
    static_assert(sizeof(In) <= Collective::kBytes && sizeof(Out) <= Collective::kBytes);
    Collective& warp = warps_[current_ / kWarpLanes];
    const std::size_t lane = current_ % kWarpLanes;
    const auto* name = reinterpret_cast<const void*>(operation);
    if (warp.gate.arrived == 0) warp.operation = name;
    if (warp.operation != name) fail("lanes of one warp do different things together");
    std::memcpy(warp.inputs[lane].data(), &input, sizeof(In));
    if (warp.gate.arrived + 1 == kWarpLanes) {
        std::array<In, kWarpLanes> inputs;
        std::array<Out, kWarpLanes> outputs;
        for (std::size_t k = 0; k < kWarpLanes; ++k) {
            std::memcpy(&inputs[k], warp.inputs[k].data(), sizeof(In));
        }
        operation(inputs, outputs);
        for (std::size_t k = 0; k < kWarpLanes; ++k) {
            std::memcpy(warp.outputs[k].data(), &outputs[k], sizeof(Out));
        }
    }
    arrive(warp.gate, kWarpLanes);
    Out output;
    std::memcpy(&output, warp.outputs[lane].data(), sizeof(Out));
    return output;
}

void Block::check_shared(const void* pointer, const char* what) const {
    const auto at = reinterpret_cast<std::uintptr_t>(pointer);
    const auto begin = reinterpret_cast<std::uintptr_t>(shared_.data());
    if (at < begin || at + 16 > begin + shared_.size() * sizeof(uint4)) {
        fail(std::string(what) + " outside shared memory");
    }
    if (at % 16 != 0) fail(std::string(what) + " at an address that is no multiple of 16");
}

void Block::begin_copy(const Copy& copy) {
    check_shared(copy.target, "cp.async");
    if (reinterpret_cast<std::uintptr_t>(copy.source) % 16 != 0) fail("cp.async from odd address");
    std::memset(copy.target, 0xFF, 16);
    current().copies.push_back(copy);
    if (copy.source != nullptr) counts_.copied_bytes += 16;
}

void Block::finish_copies(Thread& thread) {
    for (const Copy& copy : thread.copies) {
        if (copy.source == nullptr) {
            std::memset(copy.target, 0, 16);
        } else {
            std::memcpy(copy.target, copy.source, 16);
        }
    }
    thread.copies.clear();
}

Block& block() {
    static Block running;
    return running;
}

// Eight rows of 16 bytes are read at once if they lie in different banks.
void count_conflicts(const std::array<const std::uint16_t*, kWarpLanes>& rows) {
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
void load_matrices(const std::array<const std::uint16_t*, kWarpLanes>& rows,
                   std::array<MatrixRegisters, kWarpLanes>& registers) {
    count_conflicts(rows);
    for (std::size_t lane = 0; lane < kWarpLanes; ++lane) {
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
void multiply(const std::array<MmaLane, kWarpLanes>& lanes,
              std::array<std::array<float, 4>, kWarpLanes>& results) {
    ++block().counts().matrix_products;
    float a[16][16];
    float b[16][8];
    float sum[16][8];
    for (std::size_t lane = 0; lane < kWarpLanes; ++lane) {
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
    for (std::size_t lane = 0; lane < kWarpLanes; ++lane) {
        for (std::size_t i = 0; i < 4; ++i) {
            results[lane][i] = sum[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        }
    }
}

struct Shuffle {
    float value;
    int lane_mask;
};

void shuffle_xor(const std::array<Shuffle, kWarpLanes>& lanes,
                 std::array<float, kWarpLanes>& results) {
    for (std::size_t lane = 0; lane < kWarpLanes; ++lane) {
        results[lane] = lanes[lane ^ static_cast<std::size_t>(lanes[lane].lane_mask)].value;
    }
}

void nothing(const std::array<char, kWarpLanes>& /*lanes*/,
             std::array<char, kWarpLanes>& /*results*/) {}

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
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
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
    if (mask != 0xFFFFFFFFU) icm_fast::cuda::fail("a shuffle of a part of a warp");
    return icm_fast::cuda::block().together(icm_fast::cuda::Shuffle{value, lane_mask},
                                            icm_fast::cuda::shuffle_xor);
}
