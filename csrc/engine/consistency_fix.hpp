// ConsistencyFix, Algorithm 2 of the paper: violated pairs of a candidate get their best labels.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/problem.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// Treats one candidate at a time, in rounds, and waits where it needs a utility. Its choices are a
// pure function of problem, candidate, step and evaluations. Borrows the problem, owns the
// candidate. Not thread-safe.
class ConsistencyFix {
  public:
    explicit ConsistencyFix(const Problem& problem) : problem_(problem) {}

    // Starts on a candidate [n_examples] of the search step with this number.
    void begin(Labels candidate, std::uint64_t step);
    // Continues as far as the evaluations reach, and returns the labelling whose evaluation it
    // needs next; nothing once it is done. Call it again with that one, too.
    [[nodiscard]] std::optional<Labels> advance(const Evaluations& known);
    // Gives up the candidate, as far as it is fixed.
    [[nodiscard]] Labels take() { return std::move(candidate_); }

  private:
    [[nodiscard]] std::int32_t draw_pair(const std::vector<std::int32_t>& violated) const;
    // The candidate with each pair of labels that may be tried for a constraint; none where known
    // labels leave no choice.
    [[nodiscard]] std::vector<Labels> options(std::int32_t pair) const;
    // One round: takes the best option for a pair if it helps, or returns the first labelling that
    // is not known and leaves all as it was.
    [[nodiscard]] std::optional<Labels> treat(std::int32_t pair, const Evaluations& known);
    [[nodiscard]] bool helps(double utility, double current) const;

    const Problem& problem_;
    Labels candidate_;
    std::uint64_t step_ = 0;
    std::uint32_t round_ = 0;
};

}  // namespace icm_fast::engine
