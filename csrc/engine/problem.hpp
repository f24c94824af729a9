// What one search is about.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "engine/constraints.hpp"
#include "engine/labeling.hpp"
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
        fixed = settings.fixed_labels;
        if (fixed.empty()) fixed.assign(n_examples(), kUnlabelled);
        if (settings.max_iterations == kPerExample) settings.max_iterations = graph.n_examples();
    }

    [[nodiscard]] std::size_t n_examples() const { return index(graph.n_examples()); }
    [[nodiscard]] std::size_t n_labels() const { return index(graph.n_labels()); }

    // Whether the search may choose the example's label.
    [[nodiscard]] bool is_free(std::int32_t example) const {
        return fixed[index(example)] == kUnlabelled;
    }
    // Whether the example may carry the label.
    [[nodiscard]] bool may_have(std::int32_t example, std::int32_t label) const {
        return is_free(example) || fixed[index(example)] == label;
    }
    // The labelled examples whose label may change, ascending.
    [[nodiscard]] Examples changeable(const Labels& labels) const {
        Examples found = labelled_examples(labels);
        std::erase_if(found, [&](std::int32_t i) { return !is_free(i); });
        return found;
    }

    ConstraintGraph graph;
    SearchSettings settings;
    CounterRng rng;
    Labels fixed;  // [n_examples]: the labels that are known, -1 where the search is free
};

}  // namespace icm_fast::engine
