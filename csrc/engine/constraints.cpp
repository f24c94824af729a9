#include "engine/constraints.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>

namespace icm_fast::engine {
namespace {

constexpr std::size_t kMaxScores = std::numeric_limits<std::int32_t>::max();

}  // namespace

ConstraintGraph::ConstraintGraph(std::int32_t n_examples, std::int32_t n_labels,
                                 std::span<const std::int32_t> pairs,
                                 std::span<const std::uint8_t> tables)
    : n_examples_(n_examples), n_labels_(n_labels), tables_(tables.begin(), tables.end()) {
    check(pairs, tables);
    pairs_.reserve(pairs.size() / 2);
    for (std::size_t i = 0; i < pairs.size(); i += 2) {
        pairs_.push_back({pairs[i], pairs[i + 1]});
    }
    build_edges();
}

void ConstraintGraph::check(std::span<const std::int32_t> pairs,
                            std::span<const std::uint8_t> tables) const {
    if (n_examples_ < 1) {
        throw std::invalid_argument("n_examples = " + std::to_string(n_examples_) +
                                    " must be at least 1");
    }
    if (n_labels_ < 2) {
        throw std::invalid_argument("n_labels = " + std::to_string(n_labels_) +
                                    " must be at least 2");
    }
    // Scores are kept per example and label.
    if (index(n_examples_) * index(n_labels_) > kMaxScores) {
        throw std::invalid_argument("n_examples x n_labels = " + std::to_string(n_examples_) +
                                    " x " + std::to_string(n_labels_) + " must be at most " +
                                    std::to_string(kMaxScores));
    }
    const std::size_t table_size = index(n_labels_) * index(n_labels_);
    if (pairs.size() % 2 != 0 || tables.size() != pairs.size() / 2 * table_size) {
        throw std::invalid_argument("tables must hold n_labels x n_labels entries for every pair");
    }
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        if (pairs[i] < 0 || pairs[i] >= n_examples_) {
            throw std::invalid_argument("constraint " + std::to_string(i / 2) + " names example " +
                                        std::to_string(pairs[i]) + ", outside 0 .. " +
                                        std::to_string(n_examples_ - 1));
        }
        if (i % 2 == 1 && pairs[i] == pairs[i - 1]) {
            throw std::invalid_argument("constraint " + std::to_string(i / 2) + " joins example " +
                                        std::to_string(pairs[i]) + " with itself");
        }
    }
}

void ConstraintGraph::build_edges() {
    edge_offsets_.assign(index(n_examples_) + 1, 0);
    for (const LabelPair& pair : pairs_) {
        ++edge_offsets_[index(pair.first) + 1];
        ++edge_offsets_[index(pair.second) + 1];
    }
    for (std::size_t i = 1; i < edge_offsets_.size(); ++i) {
        edge_offsets_[i] += edge_offsets_[i - 1];
    }
    edges_.resize(2 * pairs_.size());
    std::vector<std::size_t> next(edge_offsets_.begin(), edge_offsets_.end() - 1);
    for (std::int32_t p = 0; p < n_pairs(); ++p) {
        const auto [first, second] = pairs_[index(p)];
        edges_[next[index(first)]++] = {second, p};
        edges_[next[index(second)]++] = {first, p};
    }
}

std::span<const Edge> ConstraintGraph::edges(std::int32_t example) const {
    const std::size_t begin = edge_offsets_[index(example)];
    return std::span(edges_).subspan(begin, edge_offsets_[index(example) + 1] - begin);
}

bool ConstraintGraph::allows(std::int32_t pair, LabelPair labels) const {
    const std::size_t row = index(pair) * index(n_labels_) + index(labels.first);
    return tables_[row * index(n_labels_) + index(labels.second)] != 0;
}

bool ConstraintGraph::is_violated(std::int32_t pair, std::span<const std::int32_t> labels) const {
    const auto [first, second] = pairs_[index(pair)];
    const LabelPair current{labels[index(first)], labels[index(second)]};
    return current.first != kUnlabelled && current.second != kUnlabelled && !allows(pair, current);
}

std::vector<std::int32_t> ConstraintGraph::violated(std::span<const std::int32_t> labels) const {
    std::vector<std::int32_t> found;
    for (std::int32_t p = 0; p < n_pairs(); ++p) {
        if (is_violated(p, labels)) {
            found.push_back(p);
        }
    }
    return found;
}

std::int64_t ConstraintGraph::count_violations(std::span<const std::int32_t> labels) const {
    return static_cast<std::int64_t>(violated(labels).size());
}

std::vector<LabelPair> ConstraintGraph::allowed(std::int32_t pair) const {
    std::vector<LabelPair> found;
    for (std::int32_t a = 0; a < n_labels_; ++a) {
        for (std::int32_t b = 0; b < n_labels_; ++b) {
            if (allows(pair, {a, b})) {
                found.push_back({a, b});
            }
        }
    }
    return found;
}

bool ConstraintGraph::touches_labelled(std::int32_t example,
                                       std::span<const std::int32_t> labels) const {
    return std::ranges::any_of(
        edges(example), [&](const Edge& edge) { return labels[index(edge.other)] != kUnlabelled; });
}

std::vector<std::vector<std::int32_t>> ConstraintGraph::components(
    std::span<const std::int32_t> members) const {
    std::vector<bool> open(index(n_examples_), false);
    for (const std::int32_t member : members) {
        open[index(member)] = true;
    }
    std::vector<std::vector<std::int32_t>> found;
    for (std::int32_t root = 0; root < n_examples_; ++root) {
        if (!open[index(root)]) {
            continue;
        }
        std::vector<std::int32_t> component{root};
        open[index(root)] = false;
        for (std::size_t next = 0; next < component.size(); ++next) {
            for (const Edge& edge : edges(component[next])) {
                if (open[index(edge.other)]) {
                    open[index(edge.other)] = false;
                    component.push_back(edge.other);
                }
            }
        }
        std::ranges::sort(component);
        found.push_back(std::move(component));
    }
    return found;
}

}  // namespace icm_fast::engine
