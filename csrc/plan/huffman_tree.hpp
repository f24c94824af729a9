// The binary tree of least weighted depth over a set of leaves (Huffman, 1952).
#pragma once

#include <cstdint>
#include <functional>
#include <queue>
#include <span>
#include <utility>
#include <vector>

namespace icm_fast::plan {

// A binary tree over the leaves that minimises sum(weight * depth). Nodes [0, n_leaves) are the
// leaves in the given order, later ones internal; the last node is the root.
class HuffmanTree {
  public:
    explicit HuffmanTree(std::span<const std::int64_t> weights)
        : n_leaves_(static_cast<std::int32_t>(weights.size())) {
        merge(weights);
        order_leaves();
    }

    [[nodiscard]] std::int32_t root() const {
        return n_leaves_ + static_cast<std::int32_t>(left_.size()) - 1;
    }
    [[nodiscard]] bool is_leaf(std::int32_t node) const { return node < n_leaves_; }
    [[nodiscard]] std::int32_t left(std::int32_t node) const { return left_[at(node)]; }
    [[nodiscard]] std::int32_t right(std::int32_t node) const { return right_[at(node)]; }
    // The leaves under a node, from left to right.
    [[nodiscard]] std::span<const std::int32_t> leaves_under(std::int32_t node) const {
        const auto index = static_cast<std::size_t>(node);
        return std::span(leaf_order_).subspan(first_leaf_[index], leaf_count_[index]);
    }

  private:
    [[nodiscard]] std::size_t at(std::int32_t node) const {
        return static_cast<std::size_t>(node - n_leaves_);
    }

    void merge(std::span<const std::int64_t> weights) {
        // Equal weights leave the queue in the order they entered it: least depth among optima.
        using Entry = std::pair<std::int64_t, std::int32_t>;  // weight, node
        std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
        for (std::int32_t node = 0; node < n_leaves_; ++node) {
            queue.emplace(weights[static_cast<std::size_t>(node)], node);
        }
        leaf_count_.assign(weights.size(), 1);
        while (queue.size() > 1) {
            const Entry a = queue.top();
            queue.pop();
            const Entry b = queue.top();
            queue.pop();
            left_.push_back(a.second);
            right_.push_back(b.second);
            leaf_count_.push_back(leaf_count_[static_cast<std::size_t>(a.second)] +
                                  leaf_count_[static_cast<std::size_t>(b.second)]);
            queue.emplace(a.first + b.first, root());
        }
    }

    void order_leaves() {
        first_leaf_.assign(leaf_count_.size(), 0);
        leaf_order_.assign(static_cast<std::size_t>(n_leaves_), 0);
        // Children have smaller numbers, so one sweep from the root downwards reaches all.
        for (std::int32_t node = root(); node >= n_leaves_; --node) {
            const std::size_t first = first_leaf_[static_cast<std::size_t>(node)];
            const auto left_index = static_cast<std::size_t>(left(node));
            first_leaf_[left_index] = first;
            first_leaf_[static_cast<std::size_t>(right(node))] = first + leaf_count_[left_index];
        }
        for (std::int32_t leaf = 0; leaf < n_leaves_; ++leaf) {
            leaf_order_[first_leaf_[static_cast<std::size_t>(leaf)]] = leaf;
        }
    }

    std::int32_t n_leaves_;
    std::vector<std::int32_t> left_;
    std::vector<std::int32_t> right_;
    std::vector<std::size_t> leaf_count_;
    std::vector<std::size_t> first_leaf_;
    std::vector<std::int32_t> leaf_order_;
};

}  // namespace icm_fast::plan
