// What one search is about.
#pragma once

#include <cstddef>
#include <utility>

#include "engine/constraints.hpp"
#include "engine/rng.hpp"
#include "engine/settings.hpp"

namespace icm_fast::engine {

// Constraints, settings and random numbers. Immutable, so thread-safe. The annealer owns it; its
// parts borrow it for as long as they live.
struct Problem {
    // Throws std::invalid_argument for settings out of range.
    Problem(ConstraintGraph constraints, SearchSettings search_settings)
        : graph(std::move(constraints)), settings(std::move(search_settings)), rng(settings.seed) {
        settings.check(graph);
        if (settings.max_iterations == kPerExample) settings.max_iterations = graph.n_examples();
    }

    [[nodiscard]] std::size_t n_examples() const { return index(graph.n_examples()); }
    [[nodiscard]] std::size_t n_labels() const { return index(graph.n_labels()); }

    ConstraintGraph graph;
    SearchSettings settings;
    CounterRng rng;
};

}  // namespace icm_fast::engine
