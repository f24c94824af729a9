// ConsistencyFix, Algorithm 2 of the paper: violated pairs of a candidate get their best labels.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "engine/problem.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// What a candidate was made of.
enum class FixStart {
    kKnown,     // a labelling that stands for itself: a start, or the state
    kNewLabel,  // the state with one new label; its first fix may be forced (fix_forced)
};

// Treats one candidate at a time, in rounds, and waits where it needs a utility. Its choices are a
// pure function of problem, candidate, step and evaluations. Borrows the problem, owns the
// candidate. Not thread-safe.
class ConsistencyFix {
  public:
    explicit ConsistencyFix(const Problem& problem) : problem_(problem) {}

    // Starts on a candidate [n_examples] of the search step with this number.
    void begin(Labels candidate, std::uint64_t step, FixStart start = FixStart::kKnown);
    // Continues as far as the evaluations reach, and returns the labelling whose evaluation it
    // needs next; nothing once it is done. Call it again with that one, too.
    [[nodiscard]] std::optional<Labels> advance(const Evaluations& known);
    // Of the labelling that `advance` returned: a utility below this one leaves it without effect,
    // so an upper bound will do in its place; kExact where the utility itself is needed.
    [[nodiscard]] double threshold() const { return threshold_; }
    // Gives up the candidate, as far as it is fixed.
    [[nodiscard]] Labels take() { return std::move(candidate_); }

  private:
    using Pairs = std::vector<std::int32_t>;  // constraint indices

    // The pairs that a round looks at, in their order.
    [[nodiscard]] Pairs draw_pairs(Pairs violated);
    // Whether two examples may carry these labels, as far as they are known.
    [[nodiscard]] bool may_have(LabelPair ends, LabelPair labels) const;
    // The candidate with each pair of labels that may be tried for a constraint; none where known
    // labels leave no choice.
    [[nodiscard]] std::vector<Labels> options(std::int32_t pair) const;
    // Those of them that change one label of the pair; in the order of the smaller example's label,
    // then of the larger one's.
    [[nodiscard]] std::vector<Labels> one_label_options(std::int32_t pair) const;
    // Takes the best option for a pair if it helps, or returns the first labelling that is not
    // known and leaves all as it was.
    [[nodiscard]] std::optional<Labels> treat(std::int32_t pair, const Evaluations& known);
    [[nodiscard]] bool helps(double utility, double current) const;

    const Problem& problem_;
    Labels candidate_;
    std::uint64_t step_ = 0;
    std::uint32_t round_ = 0;
    std::uint32_t n_drawn_ = 0;  // places drawn for orders of pairs
    Pairs open_;                 // of this round, the next one last
    bool is_forced_ = false;     // whether the next best option is taken whatever it costs
    bool has_helped_ = false;    // in this round
    double threshold_ = kExact;
};

}  // namespace icm_fast::engine
