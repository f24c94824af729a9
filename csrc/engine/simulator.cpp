#include "engine/simulator.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "engine/require.hpp"

namespace icm_fast::engine {
namespace {

// What the examples that are labelled say about the labels.
struct Context {
    std::vector<double> counts;  // [n_labels]
    double balance = 0.0;        // right - wrong
    double n_labelled = 0.0;
};

Context read_context(const SyntheticTask& task, std::size_t n_labels,
                     std::span<const std::int32_t> labels) {
    Context context{.counts = std::vector<double>(n_labels, 0.0)};
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kUnlabelled) continue;
        context.counts[index(labels[i])] += 1.0;
        context.balance += labels[i] == task.truth[i] ? 1.0 : -1.0;
        context.n_labelled += 1.0;
    }
    return context;
}

// Logits of one example under all others; `own`: its label, which is left out.
void fill_logits(const SyntheticTask& task, const Context& context, std::size_t example,
                 std::int32_t own, std::span<double> logits) {
    const std::size_t width = logits.size();
    const double others = context.n_labelled - (own == kUnlabelled ? 0.0 : 1.0);
    double direction = task.prior_strength * task.prior_count + context.balance;
    if (own != kUnlabelled) direction -= own == task.truth[example] ? 1.0 : -1.0;
    direction /= task.prior_count + others;
    for (std::size_t y = 0; y < width; ++y) {
        const double count = context.counts[y] - (own == static_cast<std::int32_t>(y) ? 1.0 : 0.0);
        logits[y] =
            task.trust * direction * static_cast<double>(task.evidence[example * width + y]) +
            task.lean * std::log((count + 1.0) / (others + static_cast<double>(width)));
    }
}

void write_log_softmax(std::span<const double> logits, std::span<float> row) {
    const double largest = *std::ranges::max_element(logits);
    double total = 0.0;
    for (const double logit : logits) total += std::exp(logit - largest);
    const double norm = largest + std::log(total);
    for (std::size_t y = 0; y < row.size(); ++y) row[y] = static_cast<float>(logits[y] - norm);
}

// One search whose scorer remembers what it has scored; counts by the number of labelled examples.
class Simulation {
  public:
    Simulation(ConstraintGraph graph, const SearchSettings& settings, const SyntheticTask& task)
        : task_(task), n_labels_(graph.n_labels()), annealer_(std::move(graph), settings) {
        const std::size_t n_sizes = task.truth.size() + 1;
        for (auto* counts : {&found_.evaluations, &found_.asks, &found_.null_draws, &found_.lookups,
                             &found_.extra_rows}) {
            counts->assign(n_sizes, 0);
        }
    }

    SimulatedSearch run() && {
        while (annealer_.ask().has_value()) {
            annealer_.tell(answer(*annealer_.ask()));
            count_draws();
        }
        count_draws();
        found_.labels = annealer_.result().labels;
        found_.utility = annealer_.result().utility;
        found_.reason = annealer_.reason();
        found_.n_iterations = annealer_.iteration();
        return std::move(found_);
    }

  private:
    // Scores of the rows that were ever requested under these labels; the others are NaN.
    std::vector<float> answer(const Ask& ask) {
        auto [entry, is_new] = scored_.try_emplace(ask.labels, ask.labels.size(), false);
        std::vector<bool>& rows = entry->second;
        const std::int64_t n_new = add_rows(ask, rows);
        const auto at = static_cast<std::size_t>(count_labelled(ask.labels));
        found_.asks[at] += ask.is_lookup ? 0 : 1;
        found_.evaluations[at] += is_new ? 1 : 0;
        found_.lookups[at] += !is_new && n_new > 0 ? 1 : 0;
        found_.extra_rows[at] += n_new;
        std::vector<float> scores = synthetic_scores(task_, n_labels_, ask.labels);
        for (std::size_t k = 0; k < scores.size(); ++k) {
            if (!rows[k / index(n_labels_)]) scores[k] = std::numeric_limits<float>::quiet_NaN();
        }
        return scores;
    }

    // Marks the rows of an ask, and counts the unlabelled ones that are new.
    static std::int64_t add_rows(const Ask& ask, std::vector<bool>& rows) {
        std::int64_t n_new = 0;
        for (std::size_t i = 0; i < ask.rows.size(); ++i) {
            if (!ask.rows[i] || rows[i]) continue;
            rows[i] = true;
            if (ask.labels[i] == kUnlabelled) ++n_new;
        }
        return n_new;
    }

    // Null draws leave the state alone: they were made at the size before the event.
    void count_draws() {
        for (const Event& event : annealer_.take_events()) {
            found_.null_draws[static_cast<std::size_t>(size_)] += event.null_draws;
            size_ = event.n_labelled;
        }
    }

    const SyntheticTask& task_;
    const std::int32_t n_labels_;
    Annealer annealer_;
    std::map<Labels, std::vector<bool>> scored_;  // rows [n_examples] of each labelling
    std::int64_t size_ = 0;                       // labelled examples after the last event
    SimulatedSearch found_;
};

}  // namespace

void SyntheticTask::check(const ConstraintGraph& graph) const {
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
    const Context context = read_context(task, width, labels);
    std::vector<float> scores(labels.size() * width);
    std::vector<double> logits(width);
    for (std::size_t i = 0; i < labels.size(); ++i) {
        fill_logits(task, context, i, labels[i], logits);
        write_log_softmax(logits, std::span(scores).subspan(i * width, width));
    }
    return scores;
}

SimulatedSearch simulate(ConstraintGraph graph, const SearchSettings& settings,
                         const SyntheticTask& task) {
    task.check(graph);
    settings.check(graph);
    const std::int32_t n_labels = graph.n_labels();
    const double true_utility = utility(
        settings.objective, settings.weights(), graph, task.truth,
        {synthetic_scores(task, n_labels, task.truth), index(n_labels)}, settings.fixed_labels);
    SimulatedSearch found = Simulation(std::move(graph), settings, task).run();
    found.true_utility = true_utility;
    return found;
}

}  // namespace icm_fast::engine
