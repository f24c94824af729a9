#include "engine/labeling.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace icm_fast::engine {
namespace {

constexpr std::int64_t kMaxAssignments = 4096;

// How good a partial assignment is: fewer violations first, then a larger sum.
struct Merit {
    std::int64_t violations;
    double score;

    [[nodiscard]] bool beats(const Merit& other) const {
        return violations != other.violations ? violations < other.violations : score > other.score;
    }
};

constexpr Merit kWorst{std::numeric_limits<std::int64_t>::max(), 0.0};

class JointAssignment {
  public:
    JointAssignment(const ConstraintGraph& graph, Labels labels, std::span<const double> adjusted)
        : graph_(graph), labels_(std::move(labels)), adjusted_(adjusted) {}

    void assign(const Examples& component) {
        if (count_assignments(component.size()) <= kMaxAssignments) {
            enumerate(component);
        } else {
            std::ranges::for_each(component, [&](std::int32_t i) { enumerate({i}); });
        }
    }

    [[nodiscard]] Labels take() { return std::move(labels_); }

  private:
    // n_labels ^ size, or anything above the limit.
    [[nodiscard]] std::int64_t count_assignments(std::size_t size) const {
        std::int64_t count = 1;
        for (std::size_t i = 0; i < size && count <= kMaxAssignments; ++i) {
            count *= graph_.n_labels();
        }
        return count;
    }

    void enumerate(const Examples& members) {
        Merit best = kWorst;
        Examples best_labels;
        Examples assignment(members.size(), 0);
        do {
            for (std::size_t k = 0; k < members.size(); ++k) {
                labels_[index(members[k])] = assignment[k];
            }
            const Merit merit = measure(members);
            if (merit.beats(best)) {
                best = merit;
                best_labels = assignment;
            }
        } while (next_assignment(assignment));
        for (std::size_t k = 0; k < members.size(); ++k) {
            labels_[index(members[k])] = best_labels[k];
        }
    }

    // Lexicographic successor; false after the last.
    [[nodiscard]] bool next_assignment(Examples& assignment) const {
        for (std::size_t k = assignment.size(); k-- > 0;) {
            if (++assignment[k] < graph_.n_labels()) {
                return true;
            }
            assignment[k] = 0;
        }
        return false;
    }

    [[nodiscard]] Merit measure(const Examples& members) const {
        Merit merit{0, 0.0};
        for (const std::int32_t i : members) {
            for (const Edge& edge : graph_.edges(i)) {
                // A pair inside the component is met from both its ends: count it at the first.
                const bool met_before =
                    edge.other < i && std::ranges::binary_search(members, edge.other);
                if (!met_before && graph_.is_violated(edge.pair, labels_)) ++merit.violations;
            }
            merit.score +=
                adjusted_[index(i) * index(graph_.n_labels()) + index(labels_[index(i)])];
        }
        return merit;
    }

    const ConstraintGraph& graph_;
    Labels labels_;
    std::span<const double> adjusted_;
};

// The labels, with balanced ones in random order for the chosen examples.
Labels label_balanced(const Examples& chosen, Labels labels, std::int32_t n_labels,
                      const CounterRng& rng) {
    const auto count = static_cast<std::uint32_t>(chosen.size());
    Labels balanced(count);
    for (std::uint32_t k = 0; k < count; ++k) {
        balanced[k] = static_cast<std::int32_t>(k % static_cast<std::uint32_t>(n_labels));
    }
    for (std::uint32_t k = count; k-- > 1;) {
        std::swap(balanced[k], balanced[rng.bounded(Purpose::kInitLabel, 0, k, k + 1ULL)]);
    }
    for (std::uint32_t k = 0; k < count; ++k) labels[index(chosen[k])] = balanced[k];
    return labels;
}

}  // namespace

std::int64_t count_labelled(std::span<const std::int32_t> labels) {
    return std::ranges::count_if(labels, [](std::int32_t y) { return y != kUnlabelled; });
}

Examples labelled_examples(std::span<const std::int32_t> labels) {
    Examples found;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] != kUnlabelled) found.push_back(static_cast<std::int32_t>(i));
    }
    return found;
}

Examples unlabelled_examples(std::span<const std::int32_t> labels) {
    Examples found;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kUnlabelled) found.push_back(static_cast<std::int32_t>(i));
    }
    return found;
}

std::vector<bool> labelled_rows(std::span<const std::int32_t> labels) {
    std::vector<bool> rows(labels.size());
    for (std::size_t i = 0; i < labels.size(); ++i) rows[i] = labels[i] != kUnlabelled;
    return rows;
}

std::vector<LabelChange> changes_between(std::span<const std::int32_t> before,
                                         std::span<const std::int32_t> after) {
    std::vector<LabelChange> changes;
    for (std::size_t i = 0; i < before.size(); ++i) {
        if (before[i] != after[i]) {
            changes.push_back({static_cast<std::int32_t>(i), before[i], after[i]});
        }
    }
    return changes;
}

Labels initial_labels(Labels labels, std::int32_t n_labels, std::int64_t n_initial,
                      const CounterRng& rng) {
    Examples order = unlabelled_examples(labels);
    const auto count =
        static_cast<std::uint32_t>(std::min<std::int64_t>(n_initial, std::ssize(order)));
    for (std::uint32_t k = 0; k < count; ++k) {
        const std::uint64_t rest = order.size() - k;
        std::swap(order[k], order[k + rng.bounded(Purpose::kInitPick, 0, k, rest)]);
    }
    order.resize(count);
    return label_balanced(order, std::move(labels), n_labels, rng);
}

Labels initial_group_labels(const ConstraintGraph& graph, Labels labels, std::int64_t n_initial,
                            const CounterRng& rng) {
    const Examples open = unlabelled_examples(labels);
    std::vector<Examples> groups = graph.components(open);
    const auto count =
        static_cast<std::size_t>(std::min<std::int64_t>(n_initial, std::ssize(open)));
    Examples chosen;
    for (std::uint32_t k = 0; chosen.size() < count; ++k) {
        const std::uint64_t rest = groups.size() - k;
        std::swap(groups[k], groups[k + rng.bounded(Purpose::kInitGroup, 0, k, rest)]);
        chosen.insert(chosen.end(), groups[k].begin(), groups[k].end());
    }
    chosen.resize(count);
    return label_balanced(chosen, std::move(labels), graph.n_labels(), rng);
}

std::vector<std::uint64_t> draw_weights(const ConstraintGraph& graph,
                                        std::span<const std::int32_t> labels,
                                        std::uint64_t group_weight) {
    std::vector<std::uint64_t> weights(labels.size(), 1);
    for (std::size_t i = 0; i < labels.size(); ++i) {
        if (labels[i] == kUnlabelled &&
            graph.touches_labelled(static_cast<std::int32_t>(i), labels)) {
            weights[i] = group_weight;
        }
    }
    return weights;
}

std::vector<std::uint64_t> keep_unlabelled(std::vector<std::uint64_t> weights,
                                           std::span<const std::int32_t> labels) {
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if (labels[i] != kUnlabelled) weights[i] = 0;
    }
    return weights;
}

std::int32_t draw_weighted(std::span<const std::uint64_t> weights, const CounterRng& rng,
                           Purpose purpose, std::uint64_t iteration, std::uint32_t draw) {
    const std::uint64_t total = std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
    std::uint64_t target = rng.bounded(purpose, iteration, draw, total);
    std::size_t i = 0;
    while (target >= weights[i]) {
        target -= weights[i];
        ++i;
    }
    return static_cast<std::int32_t>(i);
}

Labels assign_jointly(const ConstraintGraph& graph, Labels labels,
                      std::span<const std::int32_t> members, std::span<const double> adjusted) {
    for (const std::int32_t member : members) {
        labels[index(member)] = kUnlabelled;
    }
    JointAssignment assignment(graph, std::move(labels), adjusted);
    for (const Examples& component : graph.components(members)) {
        assignment.assign(component);
    }
    return assignment.take();
}

}  // namespace icm_fast::engine
