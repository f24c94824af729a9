// The constraint graph: pairs of examples with tables of allowed label pairs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace icm_fast::engine {

inline constexpr std::int32_t kUnlabelled = -1;

// An example, label or constraint number as a subscript.
[[nodiscard]] constexpr std::size_t index(std::int32_t i) { return static_cast<std::size_t>(i); }

// One end of a constraint, seen from the other.
struct Edge {
    std::int32_t other;  // the example at the far end
    std::int32_t pair;   // index of the constraint
};

struct LabelPair {
    std::int32_t first;
    std::int32_t second;
};

// Owns copies of its arrays, immutable after construction, thread-safe. Labels are int32 with -1
// for "unlabelled"; a pair is violated only when both its ends are labelled.
class ConstraintGraph {
  public:
    // pairs: [m, 2] example indices, row-major; tables: [m, n_labels, n_labels] of 0 and 1,
    // rows for the first example of the pair. Throws std::invalid_argument on bad sizes or values.
    ConstraintGraph(std::int32_t n_examples, std::int32_t n_labels,
                    std::span<const std::int32_t> pairs, std::span<const std::uint8_t> tables);

    [[nodiscard]] std::int32_t n_examples() const { return n_examples_; }
    [[nodiscard]] std::int32_t n_labels() const { return n_labels_; }
    [[nodiscard]] std::int32_t n_pairs() const { return static_cast<std::int32_t>(pairs_.size()); }
    // The two examples of a constraint.
    [[nodiscard]] LabelPair ends(std::int32_t pair) const { return pairs_[index(pair)]; }
    // Constraints of an example in order of their index; valid as long as the graph.
    [[nodiscard]] std::span<const Edge> edges(std::int32_t example) const;

    [[nodiscard]] bool allows(std::int32_t pair, LabelPair labels) const;
    [[nodiscard]] bool is_violated(std::int32_t pair, std::span<const std::int32_t> labels) const;
    // Indices of the violated constraints, ascending.
    [[nodiscard]] std::vector<std::int32_t> violated(std::span<const std::int32_t> labels) const;
    [[nodiscard]] std::int64_t count_violations(std::span<const std::int32_t> labels) const;
    // Label pairs that a constraint allows, in lexicographic order.
    [[nodiscard]] std::vector<LabelPair> allowed(std::int32_t pair) const;
    // Whether the example shares a constraint with an example that has a label.
    [[nodiscard]] bool touches_labelled(std::int32_t example,
                                        std::span<const std::int32_t> labels) const;
    // Connected components of the graph restricted to `members`; each ascending, ordered by their
    // smallest example.
    [[nodiscard]] std::vector<std::vector<std::int32_t>> components(
        std::span<const std::int32_t> members) const;

  private:
    void check(std::span<const std::int32_t> pairs, std::span<const std::uint8_t> tables) const;
    void build_edges();

    std::int32_t n_examples_;
    std::int32_t n_labels_;
    std::vector<LabelPair> pairs_;
    std::vector<std::uint8_t> tables_;       // [m, n_labels, n_labels]
    std::vector<std::size_t> edge_offsets_;  // [n_examples + 1], CSR
    std::vector<Edge> edges_;
};

}  // namespace icm_fast::engine
