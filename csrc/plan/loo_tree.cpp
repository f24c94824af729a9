#include "plan/loo_tree.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "plan/huffman_tree.hpp"
#include "plan/random_order.hpp"

namespace icm_fast::plan {
namespace {

constexpr std::int32_t kNone = -1;
// Keeps every sum of tokens, over any tree, far inside 64 bits.
constexpr std::int64_t kMaxTokens = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t kMaxExamples = std::size_t{1} << 24;

// Streams of random words, so that one order does not move when another grows.
constexpr std::uint64_t kLeafOrder = 0;
constexpr std::uint64_t kCommonOrder = 1;
constexpr std::uint64_t kNodeOrder = 2;  // and one more for each node of the tree

[[noreturn]] void reject(const std::string& message) { throw std::invalid_argument(message); }

void check_length(const char* name, std::size_t length, std::size_t expected) {
    if (length == expected) return;
    reject(std::string(name) + " has " + std::to_string(length) + " entries, but labelled has " +
           std::to_string(expected) + "; pass one entry per example");
}

void check_tokens(const char* name, std::size_t row, std::int64_t tokens, std::int64_t extra) {
    const bool extra_fits = extra >= -kMaxTokens && extra <= kMaxTokens;
    const bool fits = tokens >= 1 && tokens <= kMaxTokens;
    if (fits && extra_fits && tokens + extra >= 1 && tokens + extra <= kMaxTokens) return;
    reject(std::string(name) + "[" + std::to_string(row) + "] is " + std::to_string(tokens) +
           " tokens (" + std::to_string(extra) +
           " more where it stands first); both sizes must lie between 1 and " +
           std::to_string(kMaxTokens));
}

void check_tail(std::span<const std::int32_t> tail_parents) {
    for (std::size_t k = 0; k < tail_parents.size(); ++k) {
        const std::int32_t parent = tail_parents[k];
        if (parent >= kNone && parent < static_cast<std::int64_t>(k)) continue;
        reject("tail_parents[" + std::to_string(k) + "] is " + std::to_string(parent) +
               "; a parent must be -1 or stand before its child");
    }
}

void check_shape(const PlanInput& input) {
    const std::size_t n = input.labelled.size();
    check_length("demonstration_tokens", input.demonstration_tokens.size(), n);
    check_length("first_extra", input.first_extra.size(), n);
    check_length("query_tokens", input.query_tokens.size(), n);
    check_length("query_first_extra", input.query_first_extra.size(), n);
    check_length("queried", input.queried.size(), n);
    if (n > kMaxExamples) {
        reject("a plan holds at most " + std::to_string(kMaxExamples) + " examples, got " +
               std::to_string(n) + "; split the data set into batches");
    }
    const std::size_t n_tail = input.tail_parents.size();
    if (n * (n_tail + 2) > static_cast<std::size_t>(kMaxTokens)) {
        reject("tail_parents has " + std::to_string(n_tail) + " entries, too many for " +
               std::to_string(n) + " examples");
    }
}

void check_appended(const PlanInput& input) {
    if (!input.appended) return;
    std::vector<bool> seen(input.labelled.size(), false);
    for (const std::int32_t example : *input.appended) {
        const auto row = static_cast<std::size_t>(example);
        const bool fits = example >= 0 && row < input.labelled.size() && !seen[row] &&
                          input.labelled[row] && input.queried[row];
        if (!fits) {
            reject("appended names example " + std::to_string(example) +
                   "; pass labelled, queried examples, each once");
        }
        seen[row] = true;
    }
}

void check(const PlanInput& input) {
    check_shape(input);
    check_tail(input.tail_parents);
    if (input.root_tokens < 0) {
        reject("root_tokens is " + std::to_string(input.root_tokens) + "; it must be 0 or more");
    }
    if (input.root_tokens > kMaxTokens) {
        reject("root_tokens is " + std::to_string(input.root_tokens) + "; it must be at most " +
               std::to_string(kMaxTokens));
    }
    check_appended(input);
    for (std::size_t i = 0; i < input.labelled.size(); ++i) {
        if (input.labelled[i]) {
            check_tokens("demonstration_tokens", i, input.demonstration_tokens[i],
                         input.first_extra[i]);
        }
        if (input.queried[i]) {
            check_tokens("query_tokens", i, input.query_tokens[i], input.query_first_extra[i]);
        }
    }
}

// The examples by the part they play.
struct Roles {
    std::vector<std::int32_t> leaves;      // labelled and queried: left out of their own context
    std::vector<std::int32_t> common;      // labelled only: stand in every context
    std::vector<std::int32_t> unlabelled;  // queried only: see every demonstration
    std::vector<std::int32_t> appended;    // labelled and queried: end every context but their own
};

Roles assign_roles(const PlanInput& input) {
    Roles roles;
    if (input.appended) roles.appended.assign(input.appended->begin(), input.appended->end());
    for (std::size_t i = 0; i < input.labelled.size(); ++i) {
        const auto example = static_cast<std::int32_t>(i);
        if (std::ranges::find(roles.appended, example) != roles.appended.end()) continue;
        if (input.labelled[i]) {
            (input.queried[i] ? roles.leaves : roles.common).push_back(example);
        } else if (input.queried[i]) {
            roles.unlabelled.push_back(example);
        }
    }
    shuffle(std::span(roles.leaves), RandomStream(input.seed, kLeafOrder));
    shuffle(std::span(roles.common), RandomStream(input.seed, kCommonOrder));
    return roles;
}

// Appends segments and counts their tokens.
class SegmentWriter {
  public:
    explicit SegmentWriter(const PlanInput& input) : input_(input) {
        tree_.query_segment.assign(input.labelled.size(), kNone);
    }

    // BOS and the demonstrations of every context; -1 where there is neither.
    std::int32_t root(std::span<const std::int32_t> demos) {
        if (input_.root_tokens == 0 && demos.empty()) return kNone;
        return append(kNone, demos, kNone, kNone,
                      input_.root_tokens + demonstration_sum(kNone, demos));
    }

    // Demonstrations alone; `parent` itself where there are none.
    std::int32_t context(std::int32_t parent, std::span<const std::int32_t> demos) {
        if (demos.empty()) return parent;
        return append(parent, demos, kNone, kNone, demonstration_sum(parent, demos));
    }

    // Demonstrations (if any), the prompt of `example`, and the tail segments after it.
    void query(std::int32_t parent, std::span<const std::int32_t> demos, std::int32_t example) {
        const auto row = static_cast<std::size_t>(example);
        std::int64_t tokens = demonstration_sum(parent, demos) + input_.query_tokens[row];
        if (demos.empty() && !follows_demonstration(parent))
            tokens += input_.query_first_extra[row];
        const std::int32_t segment = append(parent, demos, example, kNone, tokens);
        tree_.query_segment[row] = segment;
        const auto n_tail = static_cast<std::int32_t>(input_.tail_parents.size());
        for (std::int32_t k = 0; k < n_tail; ++k) {
            // The k-th tail node of this query is segment + 1 + k, and -1 names the query.
            const std::int32_t above = input_.tail_parents[static_cast<std::size_t>(k)];
            append(segment + 1 + above, {}, example, k, 1);
        }
        tree_.naive_tokens += end(segment) + n_tail;
    }

    LooTree take() && { return std::move(tree_); }

  private:
    [[nodiscard]] std::int64_t end(std::int32_t segment) const {
        const auto index = static_cast<std::size_t>(segment);
        return segment == kNone ? 0 : tree_.start[index] + tree_.n_tokens[index];
    }

    [[nodiscard]] bool follows_demonstration(std::int32_t parent) const {
        return parent != kNone && holds_demonstration_[static_cast<std::size_t>(parent)];
    }

    [[nodiscard]] std::int64_t demonstration_sum(std::int32_t parent,
                                                 std::span<const std::int32_t> demos) const {
        if (demos.empty()) return 0;
        const auto first = static_cast<std::size_t>(demos.front());
        std::int64_t sum = follows_demonstration(parent) ? 0 : input_.first_extra[first];
        for (const std::int32_t demo : demos) {
            sum += input_.demonstration_tokens[static_cast<std::size_t>(demo)];
        }
        return sum;
    }

    std::int32_t append(std::int32_t parent, std::span<const std::int32_t> demos,
                        std::int32_t query, std::int32_t tail, std::int64_t tokens) {
        const auto segment = static_cast<std::int32_t>(tree_.parent.size());
        const std::int64_t start = end(parent);
        tree_.parent.push_back(parent);
        tree_.demos.insert(tree_.demos.end(), demos.begin(), demos.end());
        tree_.demo_offsets.push_back(static_cast<std::int64_t>(tree_.demos.size()));
        tree_.query.push_back(query);
        tree_.tail.push_back(tail);
        tree_.n_tokens.push_back(tokens);
        tree_.start.push_back(start);
        // With its own tokens the root is the only segment without a parent.
        tree_.has_root_token.push_back(parent == kNone && input_.root_tokens > 0 ? 1 : 0);
        holds_demonstration_.push_back(!demos.empty() || follows_demonstration(parent));
        tree_.total_tokens += tokens;
        tree_.longest_context = std::max(tree_.longest_context, start + tokens);
        return segment;
    }

    const PlanInput& input_;
    LooTree tree_;
    std::vector<bool> holds_demonstration_;  // per segment: in it or above it
};

// A node of the Huffman tree to serve under the context that ends with segment `parent`.
struct Visit {
    std::int32_t node;
    std::int32_t sibling;  // whose demonstrations the node takes into its context; -1 at the root
    std::int32_t parent;
};

class TreeBuilder {
  public:
    TreeBuilder(const PlanInput& input, const Roles& roles)
        : input_(input), roles_(roles), huffman_(leaf_weights(input, roles)), writer_(input) {}

    LooTree build() && {
        std::vector<Visit> pending = {{huffman_.root(), kNone, writer_.root(roles_.common)}};
        while (!pending.empty()) {
            const Visit visit = pending.back();
            pending.pop_back();
            const std::vector<std::int32_t> demos = sibling_demos(visit);
            if (huffman_.is_leaf(visit.node)) {
                write_leaf(visit, demos);
                continue;
            }
            const std::int32_t context = writer_.context(visit.parent, demos);
            const std::int32_t left = huffman_.left(visit.node);
            const std::int32_t right = huffman_.right(visit.node);
            pending.push_back({right, left, context});
            pending.push_back({left, right, context});
        }
        return std::move(writer_).take();
    }

  private:
    // One weight per leaf and, for the queries that see every leaf, one of 0 at the end.
    static std::vector<std::int64_t> leaf_weights(const PlanInput& input, const Roles& roles) {
        std::vector<std::int64_t> weights;
        weights.reserve(roles.leaves.size() + 1);
        for (const std::int32_t example : roles.leaves) {
            weights.push_back(input.demonstration_tokens[static_cast<std::size_t>(example)]);
        }
        // Where examples may still be appended, the tree must not change when the first one is.
        if (input.appended || !roles.unlabelled.empty()) weights.push_back(0);
        return weights;
    }

    [[nodiscard]] bool is_virtual(std::int32_t leaf) const {
        return static_cast<std::size_t>(leaf) == roles_.leaves.size();
    }

    [[nodiscard]] std::vector<std::int32_t> sibling_demos(const Visit& visit) const {
        std::vector<std::int32_t> demos;
        if (visit.sibling == kNone) return demos;
        for (const std::int32_t leaf : huffman_.leaves_under(visit.sibling)) {
            if (!is_virtual(leaf)) demos.push_back(roles_.leaves[static_cast<std::size_t>(leaf)]);
        }
        const auto node = static_cast<std::uint64_t>(visit.node);
        shuffle(std::span(demos), RandomStream(input_.seed, kNodeOrder + node));
        return demos;
    }

    void write_leaf(const Visit& visit, std::span<const std::int32_t> demos) {
        if (is_virtual(visit.node)) {
            write_virtual_leaf(visit.parent, demos);
            return;
        }
        const std::int32_t example = roles_.leaves[static_cast<std::size_t>(visit.node)];
        if (input_.appended) {
            write_appended(writer_.context(visit.parent, demos), 0, example);
            return;
        }
        writer_.query(visit.parent, demos, example);
    }

    // The appended examples from the `first` one on, then the query.
    void write_appended(std::int32_t parent, std::size_t first, std::int32_t example) {
        for (std::size_t k = first; k < roles_.appended.size(); ++k) {
            parent = writer_.context(parent, std::span(&roles_.appended[k], 1));
        }
        writer_.query(parent, {}, example);
    }

    void write_appended_virtual_leaf(std::int32_t parent) {
        for (std::size_t k = 0; k < roles_.appended.size(); ++k) {
            write_appended(parent, k + 1, roles_.appended[k]);
            if (k + 1 == roles_.appended.size() && roles_.unlabelled.empty()) return;
            parent = writer_.context(parent, std::span(&roles_.appended[k], 1));
        }
        for (const std::int32_t example : roles_.unlabelled) writer_.query(parent, {}, example);
    }

    // The queries that see every leaf: those of appended examples, and all unlabelled ones.
    void write_virtual_leaf(std::int32_t parent, std::span<const std::int32_t> demos) {
        if (input_.appended) {
            if (roles_.appended.empty() && roles_.unlabelled.empty()) return;
            write_appended_virtual_leaf(writer_.context(parent, demos));
            return;
        }
        if (roles_.unlabelled.size() == 1) {
            writer_.query(parent, demos, roles_.unlabelled.front());
        } else if (!roles_.unlabelled.empty()) {
            const std::int32_t context = writer_.context(parent, demos);
            for (const std::int32_t example : roles_.unlabelled) {
                writer_.query(context, {}, example);
            }
        }
    }

    const PlanInput& input_;
    const Roles& roles_;
    HuffmanTree huffman_;
    SegmentWriter writer_;
};

}  // namespace

std::span<const std::int32_t> LooTree::demos_of(std::int64_t segment) const {
    const auto index = static_cast<std::size_t>(segment);
    const auto first = static_cast<std::size_t>(demo_offsets[index]);
    return std::span(demos).subspan(first,
                                    static_cast<std::size_t>(demo_offsets[index + 1]) - first);
}

std::int32_t LooTree::query_segment_of(std::int64_t example) const {
    const auto n = static_cast<std::int64_t>(query_segment.size());
    if (example < 0 || example >= n) {
        reject("example " + std::to_string(example) + " is outside the plan's " +
               std::to_string(n) + " examples");
    }
    const std::int32_t segment = query_segment[static_cast<std::size_t>(example)];
    if (segment == kNone) {
        reject("example " + std::to_string(example) + " is not queried; set queried for it");
    }
    return segment;
}

std::vector<std::int32_t> LooTree::context(std::int64_t example) const {
    std::vector<std::int32_t> path;
    for (std::int32_t at = query_segment_of(example); at != kNone;
         at = parent[static_cast<std::size_t>(at)]) {
        path.push_back(at);
    }
    std::vector<std::int32_t> order;
    std::ranges::reverse(path);
    for (const std::int32_t segment : path) {
        const auto part = demos_of(segment);
        order.insert(order.end(), part.begin(), part.end());
    }
    return order;
}

LooTree select(const LooTree& tree, const std::vector<bool>& kept) {
    LooTree part;
    part.query_segment.assign(tree.query_segment.size(), kNone);
    std::vector<std::int32_t> moved(kept.size(), kNone);
    for (std::size_t s = 0; s < kept.size(); ++s) {
        if (!kept[s]) continue;
        moved[s] = static_cast<std::int32_t>(part.parent.size());
        const std::int32_t above = tree.parent[s];
        part.parent.push_back(above == kNone ? kNone : moved[static_cast<std::size_t>(above)]);
        const auto demos = tree.demos_of(static_cast<std::int64_t>(s));
        part.demos.insert(part.demos.end(), demos.begin(), demos.end());
        part.demo_offsets.push_back(static_cast<std::int64_t>(part.demos.size()));
        part.query.push_back(tree.query[s]);
        part.tail.push_back(tree.tail[s]);
        part.n_tokens.push_back(tree.n_tokens[s]);
        part.start.push_back(tree.start[s]);
        part.has_root_token.push_back(tree.has_root_token[s]);
        part.total_tokens += tree.n_tokens[s];
        const std::int64_t end = tree.start[s] + tree.n_tokens[s];
        part.longest_context = std::max(part.longest_context, end);
        if (tree.query[s] == kNone) continue;
        if (tree.tail[s] == kNone) {
            part.query_segment[static_cast<std::size_t>(tree.query[s])] = moved[s];
            part.naive_tokens += end;
        } else {
            part.naive_tokens += 1;
        }
    }
    return part;
}

LooTree prune(const LooTree& tree, std::span<const bool> rows) {
    check_length("rows", rows.size(), tree.query_segment.size());
    std::vector<bool> kept(tree.parent.size(), false);
    for (std::size_t s = kept.size(); s-- > 0;) {
        const std::int32_t query = tree.query[s];
        const std::int32_t above = tree.parent[s];
        kept[s] = kept[s] || (query != kNone && rows[static_cast<std::size_t>(query)]);
        if (kept[s] && above != kNone) kept[static_cast<std::size_t>(above)] = true;
    }
    return select(tree, kept);
}

LooTree build_loo_tree(const PlanInput& input) {
    check(input);
    const Roles roles = assign_roles(input);
    if (roles.leaves.empty() && roles.unlabelled.empty() && roles.appended.empty()) {
        LooTree nothing;
        nothing.query_segment.assign(input.labelled.size(), kNone);
        return nothing;
    }
    return TreeBuilder(input, roles).build();
}

}  // namespace icm_fast::plan
