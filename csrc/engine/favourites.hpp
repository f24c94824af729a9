// Which label each example prefers in the current state of a search.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/problem.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// The adjusted scores of a state (engine/objective.hpp), plus `prior_weight` times those under no
// demonstrations. Borrows the problem and the current state; owns the scores. Not thread-safe while
// it is written.
class Favourites {
  public:
    explicit Favourites(const Problem& problem) : problem_(problem) {}

    // Adjusted scores under no demonstrations, [n_examples * n_labels], for the states to come.
    void lean_on(std::vector<double> prior);
    // Moves on to a state, which must stay where it is until the next call.
    void enter(const State& state);
    // A score of the current state that was missing; `entry` is its place in the table. Only for
    // searches whose adjusted scores are the scores (SearchSettings::is_lazy).
    void learn(std::size_t entry, float score);

    // [n_examples * n_labels]
    [[nodiscard]] std::span<const double> adjusted() const { return adjusted_; }
    [[nodiscard]] std::int32_t of(std::int32_t example) const;
    // Labelled examples that prefer another label than they have, known ones aside, ascending.
    [[nodiscard]] Examples disagreeing() const;
    // By how much a labelled example's favourite beats the label that it has, in adjusted scores.
    [[nodiscard]] double gain(std::int32_t example) const;
    // The same for other labels of labelled examples, summed over those that differ.
    [[nodiscard]] double gain(std::span<const std::int32_t> labels) const;
    // The current labels, but for the favourite of one example.
    [[nodiscard]] Labels with_favourite(std::int32_t example) const;

  private:
    [[nodiscard]] double score(std::size_t example, std::int32_t label) const {
        return adjusted_[example * problem_.n_labels() + index(label)];
    }

    const Problem& problem_;
    const State* state_ = nullptr;
    std::vector<double> prior_;  // empty where not needed
    std::vector<double> adjusted_;
};

}  // namespace icm_fast::engine
