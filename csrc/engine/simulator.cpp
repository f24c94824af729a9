#include "engine/simulator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <utility>

namespace icm_fast::engine {

void SyntheticTask::check(const ConstraintGraph& graph) const {
    const auto require = [](bool holds, const char* message) {
        if (!holds) throw std::invalid_argument(message);
    };
    const std::size_t n = index(graph.n_examples());
    require(truth.size() == n, "truth must have one label per example");
    require(evidence.size() == n * index(graph.n_labels()),
            "evidence must be [n_examples, n_labels]");
    require(
        std::ranges::all_of(truth, [&](std::int32_t y) { return y >= 0 && y < graph.n_labels(); }),
        "truth must lie inside the label space");
    require(std::ranges::all_of(evidence, [](float e) { return std::isfinite(e); }),
            "evidence must be finite");
    for (const double value : {prior_strength, prior_count, trust, lean}) {
        require(std::isfinite(value), "the parameters of the task must be finite");
    }
    require(prior_count > 0.0, "prior_count must be greater than 0");
}

std::vector<float> synthetic_scores(const SyntheticTask& task, std::int32_t n_labels,
                                    std::span<const std::int32_t> labels) {
    const std::size_t width = index(n_labels);
    std::vector<double> counts(width, 0.0);
    double balance = 0.0;  // right - wrong
    double n_labelled = 0.0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kUnlabelled) continue;
        counts[index(labels[i])] += 1.0;
        balance += labels[i] == task.truth[i] ? 1.0 : -1.0;
        n_labelled += 1.0;
    }
    std::vector<float> scores(labels.size() * width);
    std::vector<double> logits(width);
    for (std::size_t i = 0; i < labels.size(); ++i) {
        const std::int32_t own = labels[i];
        const double others = n_labelled - (own == kUnlabelled ? 0.0 : 1.0);
        double direction = task.prior_strength * task.prior_count + balance;
        if (own != kUnlabelled) direction -= own == task.truth[i] ? 1.0 : -1.0;
        direction /= task.prior_count + others;
        for (std::size_t y = 0; y < width; ++y) {
            const double count = counts[y] - (own == static_cast<std::int32_t>(y) ? 1.0 : 0.0);
            logits[y] = task.trust * direction * static_cast<double>(task.evidence[i * width + y]) +
                        task.lean * std::log((count + 1.0) / (others + static_cast<double>(width)));
        }
        const double largest = *std::ranges::max_element(logits);
        double total = 0.0;
        for (const double logit : logits) total += std::exp(logit - largest);
        const double norm = largest + std::log(total);
        for (std::size_t y = 0; y < width; ++y) {
            scores[i * width + y] = static_cast<float>(logits[y] - norm);
        }
    }
    return scores;
}

SimulatedSearch simulate(ConstraintGraph graph, const SearchSettings& settings,
                         const SyntheticTask& task) {
    task.check(graph);
    const std::int32_t n_labels = graph.n_labels();
    const std::size_t n_sizes = index(graph.n_examples()) + 1;
    SimulatedSearch result;
    result.evaluations.assign(n_sizes, 0);
    result.asks.assign(n_sizes, 0);
    result.null_draws.assign(n_sizes, 0);
    result.lookups.assign(n_sizes, 0);
    result.extra_rows.assign(n_sizes, 0);
    result.true_utility = utility(settings.objective, settings.alpha, graph, task.truth,
                                  {synthetic_scores(task, n_labels, task.truth), index(n_labels)});
    Annealer annealer(std::move(graph), settings);
    // Every labelling scored so far, with the rows that were: a scorer with a memory.
    std::map<Labels, std::vector<bool>> scored;
    std::int64_t size = 0;
    const auto count_draws = [&] {
        for (const Event& event : annealer.take_events()) {
            // Null draws leave the state alone: they were made at the size before the event.
            result.null_draws[static_cast<std::size_t>(size)] += event.null_draws;
            size = event.n_labelled;
        }
    };
    while (annealer.ask().has_value()) {
        const Ask ask = *annealer.ask();
        const auto at = static_cast<std::size_t>(count_labelled(ask.labels));
        auto [entry, is_new] = scored.try_emplace(ask.labels, ask.labels.size(), false);
        std::int64_t n_new = 0;
        for (std::size_t i = 0; i < ask.rows.size(); ++i) {
            const bool is_missing = ask.rows[i] && !entry->second[i];
            n_new += is_missing && ask.labels[i] == kUnlabelled;
            entry->second[i] = entry->second[i] || ask.rows[i];
        }
        result.asks[at] += !ask.is_lookup;
        result.evaluations[at] += is_new;
        result.lookups[at] += !is_new && n_new > 0;
        result.extra_rows[at] += n_new;
        std::vector<float> scores = synthetic_scores(task, n_labels, ask.labels);
        for (std::size_t k = 0; k < scores.size(); ++k) {
            if (!entry->second[k / index(n_labels)]) {
                scores[k] = std::numeric_limits<float>::quiet_NaN();
            }
        }
        annealer.tell(scores);
        count_draws();
    }
    count_draws();
    result.labels = annealer.result().labels;
    result.utility = annealer.result().utility;
    result.reason = annealer.reason();
    result.n_iterations = annealer.iteration();
    return result;
}

}  // namespace icm_fast::engine
