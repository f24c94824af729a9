// The leave-one-out tree: which segments to encode so that every query sees all other
// demonstrations, at the least number of tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace icm_fast::plan {

// Sizes of the examples, all in tokens; borrowed, so the arrays must outlive the call. The first
// six spans have one entry per example; entries that do not apply are ignored.
struct PlanInput {
    // Prompt + label + separator of a labelled example, >= 1.
    std::span<const std::int64_t> demonstration_tokens;
    // Tokens to add (may be negative) where the demonstration is the first of its context.
    std::span<const std::int64_t> first_extra;
    // Prompt of a queried example, >= 1.
    std::span<const std::int64_t> query_tokens;
    // Tokens to add (may be negative) where no demonstration stands before the prompt.
    std::span<const std::int64_t> query_first_extra;
    std::span<const bool> labelled;
    std::span<const bool> queried;
    // Tokens that stand before everything: BOS, or a preamble; forwarded once.
    std::int64_t root_tokens = 0;
    // Internal nodes of the label token tree; -1 is the query, a parent precedes its children.
    // One token per node follows every query.
    std::span<const std::int32_t> tail_parents;
    std::uint64_t seed = 0;
    // Labelled, queried examples that end the context of all others, in this order. Each is a
    // separate segment, and so is every query, so that what stands before it serves again when
    // another one is appended. The list may be empty.
    std::optional<std::span<const std::int32_t>> appended = std::nullopt;
};

// Segments in creation order (a parent precedes its children), one entry per segment and column.
// A segment is encoded in one piece after the segments on its way to the root. Its tokens are, in
// order: the BOS token, demonstrations, the prompt of a query, or else one tail token.
struct LooTree {
    std::vector<std::int32_t> parent;              // -1 where the segment stands first
    std::vector<std::int64_t> demo_offsets = {0};  // n_segments + 1 offsets into `demos`
    std::vector<std::int32_t> demos;               // example indices
    std::vector<std::int32_t> query;               // example whose prompt or tail this is, or -1
    std::vector<std::int32_t> tail;                // index into tail_parents, or -1
    std::vector<std::int64_t> n_tokens;            // >= 1
    std::vector<std::int64_t> start;               // tokens before the segment in its context
    std::vector<std::uint8_t> has_root_token;      // 1 where the segment begins with the root's
    std::vector<std::int32_t> query_segment;       // per example: where its prompt stands, or -1

    std::int64_t total_tokens = 0;     // forwarded in all
    std::int64_t naive_tokens = 0;     // the same contexts, each forwarded from its first token
    std::int64_t longest_context = 0;  // tokens, the prompt and its tail included

    [[nodiscard]] std::int64_t n_segments() const {
        return static_cast<std::int64_t>(parent.size());
    }
    [[nodiscard]] std::int64_t n_demonstration_encodings() const {
        return static_cast<std::int64_t>(demos.size());
    }
    [[nodiscard]] std::span<const std::int32_t> demos_of(std::int64_t segment) const;
    // Demonstrations before the query of `example`, in the order the model sees them.
    // Throws std::invalid_argument unless the example exists and is queried.
    [[nodiscard]] std::vector<std::int32_t> context(std::int64_t example) const;
    // The segment that ends with the prompt of `example`; throws as `context` does.
    [[nodiscard]] std::int32_t query_segment_of(std::int64_t example) const;
};

// Builds the tree: Huffman over the demonstrations of labelled, queried examples, with all
// unlabelled queries and those of appended examples on one more leaf of weight 0. Labelled examples
// that are not queried stand in every context, at the root. A pure function of its input, on every
// platform. Throws std::invalid_argument, with the entry at fault, where sizes or tail_parents are
// wrong.
LooTree build_loo_tree(const PlanInput& input);

// The segments of a tree that are `kept` (one entry per segment), in their order. One whose parent
// is not kept has none; its start stays, and so does the text before it.
LooTree select(const LooTree& tree, const std::vector<bool>& kept);

// The part of a tree that the queries of `rows` (one entry per example) need, contexts unchanged.
LooTree prune(const LooTree& tree, std::span<const bool> rows);

}  // namespace icm_fast::plan
