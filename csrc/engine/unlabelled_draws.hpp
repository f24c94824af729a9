// Which unlabelled examples the paper's draw meets next, and so which rows an ask should hold.
//
// Pure functions, thread-safe. The draws are numbered by how many unlabelled examples were drawn
// before them in the search, so the next ones are known before the labelling is scored.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/problem.hpp"

namespace icm_fast::engine {

// The unlabelled example that is drawn after `n_drawn` others; -1 if all are labelled.
// weights: [n_examples], 0 where labelled.
[[nodiscard]] std::int32_t next_unlabelled(const Problem& problem,
                                           std::span<const std::uint64_t> weights,
                                           std::int64_t n_drawn);

// Rows [n_examples] to score for a labelling: all, or where the search is lazy the labelled ones
// and those that may be drawn next.
[[nodiscard]] std::vector<bool> rows_to_score(const Problem& problem, const Labels& labels,
                                              std::int64_t n_drawn);

}  // namespace icm_fast::engine
