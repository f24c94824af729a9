// Labellings and the ways to propose one: initial labels, weighted draws, joint assignments.
//
// Pure functions over values, thread-safe. A labelling has one int32 per example, -1 for
// "unlabelled".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/constraints.hpp"
#include "engine/rng.hpp"

namespace icm_fast::engine {

using Labels = std::vector<std::int32_t>;
using Examples = std::vector<std::int32_t>;  // example indices

struct LabelChange {
    std::int32_t example;
    std::int32_t before;
    std::int32_t after;
};

[[nodiscard]] std::int64_t count_labelled(std::span<const std::int32_t> labels);

// The examples that have a label, ascending.
[[nodiscard]] Examples labelled_examples(std::span<const std::int32_t> labels);

// Those that have none, ascending.
[[nodiscard]] Examples unlabelled_examples(std::span<const std::int32_t> labels);

// Whether each example has a label.
[[nodiscard]] std::vector<bool> labelled_rows(std::span<const std::int32_t> labels);

// Where two labellings of the same examples differ, ascending.
[[nodiscard]] std::vector<LabelChange> changes_between(std::span<const std::int32_t> before,
                                                       std::span<const std::int32_t> after);

// The labels [n_examples], and `n_initial` random examples (all, if there are fewer) of those that
// had none with balanced labels in random order.
[[nodiscard]] Labels initial_labels(Labels labels, std::int32_t n_labels, std::int64_t n_initial,
                                    const CounterRng& rng);

// The same for whole constraint components in random order; the last one is cut after `n_initial`.
[[nodiscard]] Labels initial_group_labels(const ConstraintGraph& graph, Labels labels,
                                          std::int64_t n_initial, const CounterRng& rng);

// One integer weight per example: `group_weight` if it is unlabelled and shares a constraint with a
// labelled one, else 1.
[[nodiscard]] std::vector<std::uint64_t> draw_weights(const ConstraintGraph& graph,
                                                      std::span<const std::int32_t> labels,
                                                      std::uint64_t group_weight);

// The same weights with 0 for every labelled example.
[[nodiscard]] std::vector<std::uint64_t> keep_unlabelled(std::vector<std::uint64_t> weights,
                                                         std::span<const std::int32_t> labels);

// A random example with probability proportional to its weight, not all of which may be 0.
[[nodiscard]] std::int32_t draw_weighted(std::span<const std::uint64_t> weights,
                                         const CounterRng& rng, Purpose purpose,
                                         std::uint64_t iteration, std::uint32_t draw);

// Labels `members` (ascending), all else fixed: for each component of the constraint graph among
// them the assignment with the fewest violations (inside and with fixed labelled neighbours), then
// with the largest sum of scores, then the first in lexicographic order. Components with more than
// 4096 assignments are labelled greedily, example by example.
// `adjusted`: [n_examples * n_labels].
[[nodiscard]] Labels assign_jointly(const ConstraintGraph& graph, Labels labels,
                                    std::span<const std::int32_t> members,
                                    std::span<const double> adjusted);

}  // namespace icm_fast::engine
