// Which move a search tries next.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "engine/favourites.hpp"
#include "engine/moves.hpp"
#include "engine/problem.hpp"
#include "engine/state.hpp"

namespace icm_fast::engine {

// The paper's next draw that proposes a change, and how many that propose none come before it.
struct Draw {
    std::int32_t example;
    std::int64_t null_draws;
};

// Proposals from the current state: a function of the problem, the states so far, and what was
// tried in vain since the last one. `step` arguments number the search step of the move to come,
// from 1. Borrows the problem and the current state. Not thread-safe.
class Proposals {
  public:
    explicit Proposals(const Problem& problem) : problem_(problem), favourites_(problem) {}

    // As of Favourites; the state is not returned to by large moves.
    void lean_on(std::vector<double> prior) { favourites_.lean_on(std::move(prior)); }
    void enter(const State& state);
    void learn(std::size_t entry, float score) { favourites_.learn(entry, score); }
    // Notes a rejected move, or one that changed nothing.
    void reject(const Proposal& proposal);

    // Whether no proposal would change anything.
    [[nodiscard]] bool has_converged() const;
    // I(D) of the current state.
    [[nodiscard]] std::int64_t n_violations() const { return n_violations_; }

    // The next of sweep, group, single, grow and fix, as far as the settings name them; nothing if
    // none is left.
    [[nodiscard]] std::optional<Proposal> next(std::uint64_t step);
    // Algorithm 1 of the paper; `n_unlabelled_draws`: how many unlabelled examples were drawn so
    // far.
    [[nodiscard]] Draw draw(std::uint64_t step, std::int64_t n_unlabelled_draws) const;
    // An example with the label that it prefers.
    [[nodiscard]] Proposal single(std::int32_t example) const;
    // A labelling with some of its constraint components relabelled at random.
    [[nodiscard]] Proposal restart(const Labels& from, std::uint64_t step) const;

  private:
    // What was tried in vain since the state last changed.
    struct Tried {
        bool sweep = false;
        bool fix = false;
        std::vector<bool> examples;  // [n_examples], by single and group moves
        std::int64_t n_small = 0;    // single and group moves
    };

    [[nodiscard]] std::optional<Proposal> sweep();
    [[nodiscard]] std::optional<Proposal> group() const;
    [[nodiscard]] std::optional<Proposal> disagreeing_single() const;
    [[nodiscard]] std::optional<Proposal> grow(std::uint64_t step) const;
    [[nodiscard]] std::optional<Proposal> unlabelled_single(std::uint64_t step) const;
    [[nodiscard]] std::optional<Proposal> fix() const;

    [[nodiscard]] std::vector<Examples> components() const;
    [[nodiscard]] Labels best_labels(const Examples& members) const;
    [[nodiscard]] bool may_try_small() const;
    [[nodiscard]] std::vector<std::uint64_t> weights(const Labels& labels) const;
    [[nodiscard]] Examples changing() const;
    [[nodiscard]] std::int64_t count_null_draws(std::uint64_t real, std::uint64_t total,
                                                std::uint64_t step) const;
    [[nodiscard]] std::int64_t growth_size() const;
    [[nodiscard]] Examples pick_growth(std::int64_t size, std::uint64_t step) const;
    [[nodiscard]] Examples pick_kicked(const Labels& from, std::uint64_t step) const;

    const Problem& problem_;
    Favourites favourites_;
    const State* state_ = nullptr;
    std::set<Labels> visited_;  // states so far
    std::int64_t n_violations_ = 0;
    Tried tried_;
};

}  // namespace icm_fast::engine
