// Counter-based random numbers: every draw is a pure function of (seed, purpose, iteration, index).
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11). Nothing here
// has state, so all of it may be called from any thread.
#pragma once

#include <array>
#include <cstdint>

namespace icm_fast::engine {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// The ten rounds of Philox4x32-10: four random words of 32 bits.
[[nodiscard]] PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key);

// What a draw is for. The numbers are part of the stored behaviour: never renumber, only append.
enum class Purpose : std::uint32_t {
    kInitPick = 0,   // which examples are labelled at the start (index: position)
    kInitLabel = 1,  // shuffle of their balanced labels (index: position)
    kDraw = 2,       // which example a single move proposes (index: 0; see proposals.cpp)
    kAccept = 3,     // acceptance threshold (index: 0)
    kFixPair = 4,    // which violated pair a round of ConsistencyFix treats (index: round)
    kGrowPick = 5,   // which examples a grow move adds (index: how many were drawn before)
    // Which unlabelled example is drawn (iteration: how many were drawn before in the search, so
    // that the next ones are known before the labelling that they would join is scored).
    kDrawUnlabelled = 6,
    kKickPick = 7,   // which examples a restart relabels (index: position)
    kKickScore = 8,  // how (index: position in the table of scores)
    // 9 screened candidates by surrogate scores in version 0.1.
    kFixOrder = 10,   // order of violated pairs (index: how many were drawn before in the fix)
    kInitGroup = 11,  // which groups are labelled at the start (index: position)
};

// The draws of one search. Counter words: (index, purpose, iteration low, iteration high).
class CounterRng {
  public:
    explicit CounterRng(std::uint64_t seed) : seed_(seed) {}

    // Four random words.
    [[nodiscard]] PhiloxCounter draw(Purpose purpose, std::uint64_t iteration,
                                     std::uint32_t index) const;
    // Uniform in [0, 1) with 53 random bits.
    [[nodiscard]] double uniform(Purpose purpose, std::uint64_t iteration,
                                 std::uint32_t index) const;
    // Uniform in [0, n) for n >= 1; the bias of the multiply-shift is below n / 2^64.
    [[nodiscard]] std::uint64_t bounded(Purpose purpose, std::uint64_t iteration,
                                        std::uint32_t index, std::uint64_t n) const;

  private:
    std::uint64_t seed_;
};

}  // namespace icm_fast::engine
