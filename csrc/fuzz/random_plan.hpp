// A plan's input from bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "fuzz/bytes.hpp"
#include "plan/loo_tree.hpp"
#include "plan/schedule.hpp"

namespace icm_fast::fuzz {

// Owns the arrays of a PlanInput of up to 20 examples.
class RandomPlan {
  public:
    explicit RandomPlan(Bytes& bytes)
        : n_(static_cast<std::size_t>(bytes.between(0, 20))),
          labelled_(std::make_unique<bool[]>(n_)),
          queried_(std::make_unique<bool[]>(n_)),
          seed_(bytes.raw<std::uint8_t>()) {
        root_tokens_ = bytes.number(0, 9);
        for (std::size_t i = 0; i < n_; ++i) {
            const auto roles = bytes.raw<std::uint8_t>();
            labelled_[i] = roles % 4 != 0;
            queried_[i] = roles / 4 % 4 != 0;
            if (roles / 16 % 4 == 0) appended_.push_back(static_cast<std::int32_t>(i));
            demonstration_.push_back(bytes.number(1, 30));
            first_extra_.push_back(bytes.number(-1, 1));
            query_.push_back(bytes.number(1, 20));
            query_first_extra_.push_back(bytes.number(-1, 1));
        }
        has_appended_ = bytes.flag();
        const std::int64_t n_tail = bytes.between(0, 4);
        for (std::int32_t k = 0; k < n_tail; ++k) {
            tail_parents_.push_back(bytes.number32(-1, k - 1));
        }
        if (bytes.rarely() && n_ > 0) demonstration_.pop_back();
    }

    [[nodiscard]] plan::PlanInput input() const {
        plan::PlanInput input{.demonstration_tokens = demonstration_,
                              .first_extra = first_extra_,
                              .query_tokens = query_,
                              .query_first_extra = query_first_extra_,
                              .labelled = labelled(),
                              .queried = {queried_.get(), n_},
                              .root_tokens = root_tokens_,
                              .tail_parents = tail_parents_,
                              .seed = seed_};
        if (has_appended_) input.appended = appended_;
        return input;
    }
    [[nodiscard]] std::size_t n_examples() const { return n_; }
    [[nodiscard]] std::span<const bool> labelled() const { return {labelled_.get(), n_}; }

  private:
    std::size_t n_;
    std::unique_ptr<bool[]> labelled_, queried_;  // std::vector<bool> has no spans
    std::vector<std::int64_t> demonstration_, first_extra_, query_, query_first_extra_;
    std::vector<std::int32_t> appended_, tail_parents_;
    std::int64_t root_tokens_ = 0;
    std::uint64_t seed_;
    bool has_appended_ = false;
};

inline plan::ScheduleLimits random_limits(Bytes& bytes) {
    return {.kv_budget_tokens = bytes.number(1, 400),
            .batch_tokens = bytes.number(1, 200),
            .stage_tokens = bytes.number(0, 100)};
}

}  // namespace icm_fast::fuzz
