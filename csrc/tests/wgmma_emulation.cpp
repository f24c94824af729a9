#include "tests/wgmma_emulation.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <utility>
#include <vector>

#include "tests/cuda_block.hpp"

namespace icm_fast::cuda {
namespace {

constexpr std::size_t kThreads = 128;
constexpr std::size_t kRows = 64;
constexpr std::size_t kInner = 16;
constexpr std::uint32_t kSystemBytes = 1024;
// No computation makes this one: who sees another number knows that somebody wrote.
constexpr std::uint32_t kBusyBits = 0xFFEDCBA9;

using Halves = std::vector<std::uint16_t>;
using Threads = std::array<WgmmaThread, kThreads>;

struct Product {
    Threads threads;
    std::array<std::array<std::uint32_t, 4>, kThreads> a;
    Halves b;  // [kInner][columns]
};

// Sums that belong to products: the numbers are here, the registers are NaN.
struct BusySums {
    std::array<float*, kThreads> registers;
    std::size_t columns;
    std::vector<float> values;  // [kRows][columns]
    std::size_t n_products = 0;
};

enum class Operation { kBegin, kFence, kCommit, kWait };

struct Warpgroup {
    Gate gate;
    Operation operation = Operation::kBegin;
    Threads threads;
    bool fenced = false;
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
    std::vector<BusySums> busy;
};

std::vector<Warpgroup>& warpgroups() {
    static std::vector<Warpgroup> all;
    return all;
}

// All threads of a warpgroup come, and the last one does the work.
template <typename Work>
void together(Operation operation, const WgmmaThread& thread, const Work& work) {
    const std::size_t index = block().thread_index();
    if (index / kThreads >= warpgroups().size()) emulation_fails("wgmma by less than 128 threads");
    Warpgroup& group = warpgroups()[index / kThreads];
    if (group.gate.arrived == 0) group.operation = operation;
    if (group.operation != operation) {
        emulation_fails("warps of one warpgroup do different things together");
    }
    group.threads[index % kThreads] = thread;
    if (group.gate.arrived + 1 == kThreads) work(group);
    block().arrive(group.gate, kThreads);
}

std::uint32_t field(std::uint64_t descriptor, unsigned first, unsigned bits) {
    return static_cast<std::uint32_t>(descriptor >> first & ((std::uint64_t{1} << bits) - 1));
}

// Swizzle<bits, 4, 3> of the manual's layouts.
std::uint32_t swizzled(std::uint32_t address, unsigned bits) {
    return address ^ (address >> 3U & ((1U << bits) - 1) << 4U);
}

std::uint16_t shared_half(std::uint32_t address) {
    const std::uint32_t offset = address - kSystemBytes;
    if (address < kSystemBytes || offset + 2 > block().shared_bytes()) {
        emulation_fails("wgmma reads outside shared memory");
    }
    if (!block().is_fenced(offset)) emulation_fails("wgmma reads a copy that was not fenced");
    std::uint16_t half = 0;
    std::memcpy(&half, block().shared() + offset, 2);
    return half;
}

Halves read_right(const WgmmaThread& thread) {
    const std::size_t columns = thread.n_blocks * 8;
    Halves halves(kInner * columns);
    for (std::uint32_t k = 0; k < kInner; ++k) {
        for (std::uint32_t n = 0; n < columns; ++n) {
            halves[k * columns + n] =
                shared_half(wgmma_element(thread.b_descriptor, thread.transposed, k, n));
        }
    }
    return halves;
}

// Accumulator D, element i of a thread: in warp w of the warpgroup, lane l.
struct Place {
    std::size_t row, column;
};
Place place_of(std::size_t thread, std::size_t i) {
    const std::size_t lane = thread % 32;
    return {thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2};
}

// Multiplicand A in registers: elements 0 to 7 of a thread, two to a register.
std::vector<float> left_of(const Product& product) {
    std::vector<float> left(kRows * kInner);
    for (std::size_t t = 0; t < kThreads; ++t) {
        const std::size_t lane = t % 32;
        for (std::size_t i = 0; i < 8; ++i) {
            const bool lower = i / 2 % 2 == 1;
            const std::size_t row = t / 32 * 16 + lane / 4 + (lower ? 8 : 0);
            const std::size_t column = lane % 4 * 2 + i % 2 + (i >= 4 ? 8 : 0);
            const std::uint32_t word = product.a[t][i / 2];
            left[row * kInner + column] = product.threads[t].widen(
                static_cast<std::uint16_t>(i % 2 == 0 ? word & 0xFFFFU : word >> 16U));
        }
    }
    return left;
}

void add(const Product& product, BusySums& sums) {
    const std::vector<float> left = left_of(product);
    for (std::size_t k = 0; k < kInner; ++k) {
        for (std::size_t n = 0; n < sums.columns; ++n) {
            const float right = product.threads[0].widen(product.b[k * sums.columns + n]);
            for (std::size_t row = 0; row < kRows; ++row) {
                sums.values[row * sums.columns + n] += left[row * kInner + k] * right;
            }
        }
    }
}

BusySums& busy_sums(Warpgroup& group, const Product& product) {
    for (BusySums& sums : group.busy) {
        if (sums.registers[0] == product.threads[0].sum) return sums;
    }
    emulation_fails("wgmma ends without its sums");
}

// Takes the sums out of the registers, unless products have them already.
BusySums& occupy(Warpgroup& group) {
    const Threads& threads = group.threads;
    for (BusySums& sums : group.busy) {
        if (sums.registers[0] == threads[0].sum) return sums;
    }
    BusySums sums{{}, threads[0].n_blocks * 8, {}};
    sums.values.resize(kRows * sums.columns);
    for (std::size_t t = 0; t < kThreads; ++t) {
        sums.registers[t] = threads[t].sum;
        for (std::size_t i = 0; i < threads[t].n_blocks * 4; ++i) {
            const Place place = place_of(t, i);
            sums.values[place.row * sums.columns + place.column] = threads[t].sum[i];
            threads[t].sum[i] = std::bit_cast<float>(kBusyBits);
        }
    }
    group.busy.push_back(std::move(sums));
    return group.busy.back();
}

void begin(Warpgroup& group) {
    if (!group.fenced) emulation_fails("wgmma without wgmma.fence");
    Product product{group.threads, {}, read_right(group.threads[0])};
    for (std::size_t t = 0; t < kThreads; ++t) {
        WgmmaThread same = group.threads[t];
        same.sum = group.threads[0].sum;
        same.a = group.threads[0].a;
        if (same != group.threads[0]) emulation_fails("threads begin different products");
        std::copy_n(group.threads[t].a, 4, product.a[t].begin());
    }
    BusySums& sums = occupy(group);
    if (sums.columns != group.threads[0].n_blocks * 8) emulation_fails("wgmma of another shape");
    if (!group.threads[0].accumulate) std::ranges::fill(sums.values, 0.0F);
    add(product, sums);
    ++sums.n_products;
    ++block().counts().warpgroup_products;
    group.open.push_back(std::move(product));
}

void give_back(BusySums& sums) {
    for (std::size_t t = 0; t < kThreads; ++t) {
        for (std::size_t i = 0; i < sums.columns / 2; ++i) {
            if (std::bit_cast<std::uint32_t>(sums.registers[t][i]) != kBusyBits) {
                emulation_fails("sums were written while wgmma had them");
            }
            const Place place = place_of(t, i);
            sums.registers[t][i] = sums.values[place.row * sums.columns + place.column];
        }
    }
}

void end(Warpgroup& group, const Product& product) {
    for (std::size_t t = 0; t < kThreads; ++t) {
        if (!std::equal(product.a[t].begin(), product.a[t].end(), product.threads[t].a)) {
            emulation_fails("the left operand was written while wgmma read it");
        }
    }
    if (read_right(product.threads[0]) != product.b) {
        emulation_fails("shared memory was written while wgmma read it");
    }
    BusySums& sums = busy_sums(group, product);
    if (--sums.n_products > 0) return;
    give_back(sums);
    group.busy.erase(group.busy.begin() + (&sums - group.busy.data()));
}

}  // namespace

// The manual's canonical layouts in units of 16-bit numbers, T = 8 of them in 16 bytes and W times
// as many in a row of the swizzling mode:
//   K-major:  ((8, m), (T, 2k)) : ((W T, SBO), (1, T)), without swizzling ((T, SBO), (1, LBO))
//   MN-major: ((T, W, m), (8, k)) : ((1, T, LBO), (W T, SBO)), without ((1, T, SBO), (T, LBO))
std::uint32_t wgmma_element(std::uint64_t descriptor, bool transposed, std::uint32_t k,
                            std::uint32_t n) {
    constexpr std::array<unsigned, 4> kBits = {0, 3, 2, 1};  // modes: none, 128, 64, 32 bytes
    const std::uint32_t start = field(descriptor, 0, 14) << 4U;
    const std::uint32_t leading = field(descriptor, 16, 14) << 4U;
    const std::uint32_t stride = field(descriptor, 32, 14) << 4U;
    const unsigned bits = kBits[field(descriptor, 62, 2)];
    if (field(descriptor, 49, 3) != 0) emulation_fails("base offsets of wgmma are not emulated");
    const std::uint32_t width = 16U << bits;  // bytes of a row
    std::uint32_t offset = 0;
    if (!transposed) {
        offset = n % 8 * width + n / 8 * stride + k % 8 * 2 + k / 8 * (bits == 0 ? leading : 16);
    } else if (bits == 0) {
        offset = n % 8 * 2 + n / 8 * stride + k % 8 * 16 + k / 8 * leading;
    } else {
        const std::uint32_t wide = width / 2;  // numbers of a row
        offset = n % wide * 2 + n / wide * leading + k % 8 * width + k / 8 * stride;
    }
    return swizzled(start + offset, bits);
}

void start_warpgroups(std::size_t n_threads) { warpgroups().assign(n_threads / kThreads, {}); }

std::uint32_t shared_address(const void* pointer) {
    const auto* begin = block().shared();
    return kSystemBytes +
           static_cast<std::uint32_t>(static_cast<const unsigned char*>(pointer) - begin);
}

void fence_proxy_async() { block().fence_copies(); }

void wgmma_fence() {
    together(Operation::kFence, {}, [](Warpgroup& group) { group.fenced = true; });
}

void begin_wgmma(const WgmmaThread& thread) { together(Operation::kBegin, thread, begin); }

void wgmma_commit() {
    together(Operation::kCommit, {},
             [](Warpgroup& group) { group.groups.push_back(std::exchange(group.open, {})); });
}

// Registers are the threads' again afterwards, hence the next product needs a new fence.
void wgmma_wait_for(std::size_t n_pending) {
    together(Operation::kWait, {}, [n_pending](Warpgroup& group) {
        while (group.groups.size() > n_pending) {
            for (const Product& product : group.groups.front()) end(group, product);
            group.groups.pop_front();
        }
        group.fenced = false;
    });
}

}  // namespace icm_fast::cuda
