#include "tests/warp_roles_emulation.hpp"

#include <array>
#include <map>

#include "tests/cuda_block.hpp"

namespace icm_fast::cuda {
namespace {

struct Counted {
    Gate gate;
    std::size_t n = 0;
    PendingBoxes boxes;
};

constexpr std::size_t kNumbers = 16;

std::map<const StageBarrier*, Counted>& stage_barriers() {
    static std::map<const StageBarrier*, Counted> all;
    return all;
}

std::array<Counted, kNumbers>& numbered() {
    static std::array<Counted, kNumbers> all;
    return all;
}

// What a barrier's memory holds: who writes over it shows.
constexpr std::uint64_t kState = 0x5AFEBA221E25AFEB;

Counted& started(const StageBarrier& barrier) {
    const auto found = stage_barriers().find(&barrier);
    if (found == stage_barriers().end()) emulation_fails("a barrier that was not started");
    if (barrier.state != kState) emulation_fails("a barrier was written over");
    return found->second;
}

// What a lane asks of a numbered barrier: all 32 have to ask for the same.
struct Request {
    int barrier, n_threads, really;

    bool operator==(const Request&) const = default;
};

void same_request(const std::array<Request, kEmulatedLanes>& lanes,
                  std::array<char, kEmulatedLanes>& /*results*/) {
    for (const Request& request : lanes) {
        if (request != lanes[0]) emulation_fails("lanes of one warp come to different barriers");
    }
}

Counted& number(int barrier, int n_threads) {
    // 0 is that of __syncthreads.
    if (barrier < 1 || barrier >= static_cast<int>(kNumbers)) emulation_fails("no such barrier");
    Counted& counted = numbered()[static_cast<std::size_t>(barrier)];
    const auto n = static_cast<std::size_t>(n_threads);
    if (n % kEmulatedLanes != 0) emulation_fails("a barrier of a part of a warp");
    if (counted.gate.arrived > 0 && counted.n != n) {
        emulation_fails("threads count on different numbers at a barrier");
    }
    counted.n = n;
    return counted;
}

}  // namespace

void start_barriers() {
    stage_barriers().clear();
    numbered() = {};
}

void end_barriers() {
    for (const Counted& counted : numbered()) {
        if (counted.gate.arrived > 0) emulation_fails("threads came to a barrier for nothing");
    }
}

void start_barrier(StageBarrier& barrier, int n_arrivals) {
    const auto* begin = block().shared();
    const auto at = reinterpret_cast<const unsigned char*>(&barrier) - begin;
    if (at < 0 || at % 8 != 0 || static_cast<std::size_t>(at) + 8 > block().shared_bytes()) {
        emulation_fails("a barrier outside shared memory");
    }
    if (n_arrivals < 1) emulation_fails("a barrier that nobody arrives at");
    barrier.state = kState;
    stage_barriers()[&barrier] = {{}, static_cast<std::size_t>(n_arrivals), {}};
}

void arrive_at(StageBarrier& barrier) {
    Counted& counted = started(barrier);
    if (counted.gate.arrived + 1 == counted.n) bring_boxes(counted.boxes);
    Block::announce(counted.gate, counted.n);
    block().pause();
}

PendingBoxes& boxes_at(StageBarrier& barrier) { return started(barrier).boxes; }

void wait_for_phase(StageBarrier& barrier, int phase) {
    const Gate& gate = started(barrier).gate;
    const auto wanted = static_cast<std::uint64_t>(phase);
    if (wanted > gate.openings) emulation_fails("waits for a phase that has not begun");
    if (wanted == gate.openings) block().wait_at(gate);
    if (wanted + 1 < gate.openings) emulation_fails("waits for a phase that is long over");
}

void meet(int barrier, int n_threads) { meet_if(true, barrier, n_threads); }

void meet_if(bool really, int barrier, int n_threads) {
    block().together(Request{barrier, n_threads, really ? 1 : 0}, same_request);
    if (!really) return;
    Counted& counted = number(barrier, n_threads);
    block().arrive(counted.gate, counted.n);
}

void announce_if(bool really, int barrier, int n_threads) {
    block().together(Request{barrier, n_threads, really ? 1 : 0}, same_request);
    if (!really) return;
    Counted& counted = number(barrier, n_threads);
    Block::announce(counted.gate, counted.n);
    block().pause();
}

void cp_async_commit() { block().group_copies(); }

void cp_async_wait_for(std::size_t n_pending) { block().finish_groups(n_pending); }

}  // namespace icm_fast::cuda
