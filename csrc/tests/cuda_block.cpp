#include "tests/cuda_block.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "tests/warp_roles_emulation.hpp"
#include "tests/wgmma_emulation.hpp"

namespace icm_fast::cuda {

using tests::Fiber;

void emulation_fails(const std::string& what) { throw std::runtime_error(what); }

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
        thread.groups.clear();
        thread.arrived.clear();
        thread.gate = nullptr;
        thread.paused = false;
        thread.finished = false;
    }
    warps_.assign(n_threads_ / kEmulatedLanes, {});
    barrier_ = {};
    shared_.assign(static_cast<std::size_t>(launch.n_shared + 15) / 16, {~0U, ~0U, ~0U, ~0U});
    unfenced_.assign(shared_.size(), 0);
    start_warpgroups(n_threads_);
    start_barriers();
}

void Block::run(const EmulatedLaunch& launch) {
    start(launch);
    ++counts_.blocks;
    while (!finished()) {
        const bool moved = run_warps();
        if (!failure_.empty()) emulation_fails(failure_);
        if (!moved && !resume()) {
            failure_ = "threads wait for others that never come";
            emulation_fails(failure_);
        }
    }
    end_barriers();
}

bool Block::finished() const {
    return std::ranges::all_of(threads_, [](const Thread& thread) { return thread.finished; });
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
        for (std::size_t k = warp * kEmulatedLanes; k < (warp + 1) * kEmulatedLanes; ++k) {
            if (threads_[k].finished || threads_[k].paused || threads_[k].waits()) continue;
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

bool Block::announce(Gate& gate, std::size_t n) {
    if (++gate.arrived < n) return false;
    gate.arrived = 0;
    ++gate.openings;
    return true;
}

void Block::arrive(Gate& gate, std::size_t n) {
    if (!announce(gate, n)) wait_at(gate);
}

void Block::wait_at(const Gate& gate) {
    Thread& thread = current();
    thread.gate = &gate;
    thread.seen_openings = gate.openings;
    thread.fiber->switch_to(scheduler_);
    thread.gate = nullptr;
}

void Block::pause() {
    if (order_ == WarpOrder::kLastToFirst) return;
    current().paused = true;
    current().fiber->switch_to(scheduler_);
}

bool Block::resume() {
    bool any = false;
    for (Thread& thread : threads_) any |= std::exchange(thread.paused, false);
    return any;
}

void Block::check_shared(const void* pointer, const char* what) const {
    const auto at = reinterpret_cast<std::uintptr_t>(pointer);
    const auto begin = reinterpret_cast<std::uintptr_t>(shared_.data());
    if (at < begin || at + 16 > begin + shared_.size() * sizeof(uint4)) {
        emulation_fails(std::string(what) + " outside shared memory");
    }
    if (at % 16 != 0)
        emulation_fails(std::string(what) + " at an address that is no multiple of 16");
}

void Block::begin_copy(const Copy& copy) {
    check_shared(copy.target, "cp.async");
    if (reinterpret_cast<std::uintptr_t>(copy.source) % 16 != 0)
        emulation_fails("cp.async from odd address");
    std::memset(copy.target, 0xFF, 16);
    ++unfenced(copy.target);
    current().copies.push_back(copy);
    if (copy.source != nullptr) counts_.copied_bytes += 16;
}

void Block::group_copies() { current().groups.push_back(std::exchange(current().copies, {})); }

void Block::bring(Thread& thread, const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
        if (copy.source == nullptr) {
            std::memset(copy.target, 0, 16);
        } else {
            std::memcpy(copy.target, copy.source, 16);
        }
        thread.arrived.push_back(copy.target);
    }
}

void Block::finish_groups(Thread& thread, std::size_t n_pending) {
    while (thread.groups.size() > n_pending) {
        bring(thread, thread.groups.front());
        thread.groups.pop_front();
    }
}

void Block::finish_copies(Thread& thread) {
    finish_groups(thread, 0);
    bring(thread, thread.copies);
    thread.copies.clear();
}

void Block::fence_copies() {
    for (const void* target : current().arrived) --unfenced(target);
    current().arrived.clear();
}

std::uint32_t& Block::unfenced(const void* target) {
    const auto* begin = reinterpret_cast<const unsigned char*>(shared_.data());
    const auto offset = static_cast<const unsigned char*>(target) - begin;
    return unfenced_[static_cast<std::size_t>(offset) / 16];
}

Block& block() {
    static Block running;
    return running;
}

}  // namespace icm_fast::cuda
