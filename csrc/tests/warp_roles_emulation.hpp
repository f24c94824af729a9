// Warps with different tasks on the processor: the names of cuda/warp_roles.cuh.
//
// A barrier in shared memory that was not started or was written over, one that is waited for when
// it is two phases on (the device would wait for ever, or not at all), a numbered one with another
// count of threads, and lanes of a warp that come to different ones fail the launch. In the usual
// order of warps, who arrives goes on when nobody else can: what it does afterwards comes too late
// for those who waited. In the other order it goes on at once and gets as far ahead as it can. Not
// seen: registers that change hands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/cuda_emulation.hpp"

namespace icm_fast::cuda {

// Forgets everything about the block before.
void start_barriers();
// Fails if somebody came to a numbered barrier that was not met at afterwards.
void end_barriers();

struct alignas(8) StageBarrier {
    std::uint64_t state;
};
void start_barrier(StageBarrier& barrier, int n_arrivals);
void arrive_at(StageBarrier& barrier);
void wait_for_phase(StageBarrier& barrier, int phase);

// Copies that the phase of a barrier waits for; see box_copies_emulation.hpp.
struct Box {
    unsigned char* target;
    const unsigned char* source;
    std::size_t n_rows, row_bytes;
};
struct PendingBoxes {
    std::vector<Box> boxes;
    std::size_t n_begun = 0;
    std::size_t n_expected = 0;  // bytes, as those begun
};
PendingBoxes& boxes_at(StageBarrier& barrier);
void bring_boxes(PendingBoxes& pending);

void meet(int barrier, int n_threads);
void meet_if(bool really, int barrier, int n_threads);
void announce_if(bool really, int barrier, int n_threads);

void cp_async_commit();
void cp_async_wait_for(std::size_t n_pending);

template <int kPending>
void cp_async_wait() {
    cp_async_wait_for(kPending);
}

template <int kCount>
void give_up_registers() {}
template <int kCount>
void take_registers() {}

}  // namespace icm_fast::cuda
