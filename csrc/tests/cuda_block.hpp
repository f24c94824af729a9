// The block of threads that the emulated device runs: fibers, barriers, shared memory and the
// copies to it. For the files of the emulation alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulation.hpp"
#include "tests/fiber.hpp"

namespace icm_fast::cuda {

[[noreturn]] void emulation_fails(const std::string& what);

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
    std::unique_ptr<tests::Fiber> fiber;
    std::vector<Copy> copies;              // begun, and of no group yet
    std::deque<std::vector<Copy>> groups;  // begun and not waited for
    std::vector<const void*> arrived;      // targets of those waited for, and not fenced
    const Gate* gate = nullptr;
    std::uint64_t seen_openings = 0;
    bool paused = false;  // until nobody else can go on
    bool finished = true;

    [[nodiscard]] bool waits() const { return gate != nullptr && gate->openings == seen_openings; }
};

// One collective operation of a warp: what each lane brings, and what it gets.
struct Collective {
    static constexpr std::size_t kBytes = 64;
    alignas(16) std::array<std::array<std::byte, kBytes>, kEmulatedLanes> inputs;
    alignas(16) std::array<std::array<std::byte, kBytes>, kEmulatedLanes> outputs;
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
    static void finish_copies(Thread& thread);
    void finish_copies() { finish_copies(current()); }
    // Makes a group of this thread's copies; waits for all groups but the last `n_pending`.
    void group_copies();
    void finish_groups(std::size_t n_pending) { finish_groups(current(), n_pending); }
    // What this thread's copies have brought may be read by products from now on.
    void fence_copies();
    // Whether no copy to these 16 bytes, since the block began, lacks its fence.
    [[nodiscard]] bool is_fenced(std::size_t offset) const { return unfenced_[offset / 16] == 0; }
    [[nodiscard]] std::size_t thread_index() const { return current_; }
    [[nodiscard]] std::size_t shared_bytes() const { return shared_.size() * sizeof(uint4); }
    // Waits until `n` threads have come to the same gate.
    void arrive(Gate& gate, std::size_t n);
    // Comes to it without waiting; waits for the next opening without coming.
    static bool announce(Gate& gate, std::size_t n);
    void wait_at(const Gate& gate);
    // Lets all others run as far as they can first; not in the order kLastToFirst, where who is
    // ahead stays ahead.
    void pause();
    void barrier() { arrive(barrier_, n_threads_); }
    template <typename In, typename Out>
    Out together(const In& input, void (*operation)(const std::array<In, kEmulatedLanes>&,
                                                    std::array<Out, kEmulatedLanes>&));

  private:
    Thread& current() { return threads_[current_]; }
    std::uint32_t& unfenced(const void* target);
    static void finish_groups(Thread& thread, std::size_t n_pending);
    static void bring(Thread& thread, const std::vector<Copy>& copies);
    void start(const EmulatedLaunch& launch);
    void run_thread(std::size_t index);
    bool run_warp(std::size_t warp);
    bool run_warps();
    bool resume();
    [[nodiscard]] bool finished() const;
    void live(std::size_t index);

    WarpOrder order_ = WarpOrder::kFirstToLast;
    EmulationCounts counts_;
    const EmulatedLaunch* launch_ = nullptr;
    tests::Fiber scheduler_;
    std::vector<Thread> threads_;
    std::vector<Collective> warps_;
    std::vector<uint4> shared_;
    std::vector<std::uint32_t> unfenced_;  // for each 16 bytes: copies that products must not read
    Gate barrier_;
    std::size_t n_threads_ = 0;
    std::size_t current_ = 0;
    std::string failure_;
};

template <typename In, typename Out>
Out Block::together(const In& input, void (*operation)(const std::array<In, kEmulatedLanes>&,
                                                       std::array<Out, kEmulatedLanes>&)) {
    static_assert(sizeof(In) <= Collective::kBytes && sizeof(Out) <= Collective::kBytes);
    Collective& warp = warps_[current_ / kEmulatedLanes];
    const std::size_t lane = current_ % kEmulatedLanes;
    const auto* name = reinterpret_cast<const void*>(operation);
    if (warp.gate.arrived == 0) warp.operation = name;
    if (warp.operation != name) emulation_fails("lanes of one warp do different things together");
    std::memcpy(warp.inputs[lane].data(), static_cast<const void*>(&input), sizeof(In));
    if (warp.gate.arrived + 1 == kEmulatedLanes) {
        std::array<In, kEmulatedLanes> inputs;
        std::array<Out, kEmulatedLanes> outputs;
        for (std::size_t k = 0; k < kEmulatedLanes; ++k) {
            std::memcpy(static_cast<void*>(&inputs[k]), warp.inputs[k].data(), sizeof(In));
        }
        operation(inputs, outputs);
        for (std::size_t k = 0; k < kEmulatedLanes; ++k) {
            std::memcpy(warp.outputs[k].data(), &outputs[k], sizeof(Out));
        }
    }
    arrive(warp.gate, kEmulatedLanes);
    Out output;
    std::memcpy(&output, warp.outputs[lane].data(), sizeof(Out));
    return output;
}

// The one that runs.
Block& block();

}  // namespace icm_fast::cuda
