#include "engine/consistency_fix.hpp"

#include <algorithm>
#include <utility>

namespace icm_fast::engine {
namespace {

bool is_both_false(LabelPair labels) { return labels.first == 0 && labels.second == 0; }

}  // namespace

void ConsistencyFix::begin(Labels candidate, std::uint64_t step, FixStart start) {
    candidate_ = std::move(candidate);
    step_ = step;
    round_ = 0;
    n_drawn_ = 0;
    open_.clear();
    is_forced_ = problem_.settings.fix_forced && start == FixStart::kNewLabel;
}

std::optional<Labels> ConsistencyFix::advance(const Evaluations& known) {
    while (round_ < problem_.settings.fix_rounds) {
        if (open_.empty()) {
            Pairs violated = problem_.graph.violated(candidate_);
            if (violated.empty()) break;
            open_ = draw_pairs(std::move(violated));
            has_helped_ = false;
        }
        std::optional<Labels> missing = treat(open_.back(), known);
        if (missing) return missing;
        open_.pop_back();
        if (has_helped_) open_.clear();
        if (!open_.empty()) continue;
        // All pairs were looked at in vain: another round would do the same.
        if (!has_helped_ && problem_.settings.fix_pairs == FixPairs::kAll) break;
        ++round_;
    }
    return std::nullopt;
}

ConsistencyFix::Pairs ConsistencyFix::draw_pairs(Pairs violated) {
    const CounterRng& rng = problem_.rng;
    if (problem_.settings.fix_pairs == FixPairs::kOne) {
        return {violated[rng.bounded(Purpose::kFixPair, step_, round_, violated.size())]};
    }
    for (std::size_t rest = violated.size(); rest > 1; --rest) {
        const std::uint64_t place = rng.bounded(Purpose::kFixOrder, step_, n_drawn_++, rest);
        std::swap(violated[rest - 1], violated[place]);
    }
    return violated;
}

// An option that stays below the candidate does not help, and one below a better option is not
// taken. Only utilities that are known exactly raise the threshold, though bounds may stand in
// for others: a bound is below a utility that was known before it.
std::optional<Labels> ConsistencyFix::treat(std::int32_t pair, const Evaluations& known) {
    threshold_ = kExact;
    const auto current = known.find(candidate_);
    if (!is_forced_) {
        if (current == known.end()) return candidate_;
        threshold_ = current->second.utility;
    }
    auto best = known.end();
    for (Labels& option : options(pair)) {
        const auto found = known.find(option);
        if (found == known.end()) return std::move(option);
        const bool is_better = best == known.end() || found->second.utility > best->second.utility;
        if (is_better) best = found;
        threshold_ = std::max(threshold_, best->second.utility);
    }
    if (best == known.end()) return std::nullopt;
    if (is_forced_ || helps(best->second.utility, current->second.utility)) {
        candidate_ = best->first;
        is_forced_ = false;
        has_helped_ = true;
    }
    return std::nullopt;
}

bool ConsistencyFix::helps(double utility, double current) const {
    return utility > current || (problem_.settings.fix_accepts_ties && utility == current);
}

bool ConsistencyFix::may_have(LabelPair ends, LabelPair labels) const {
    return problem_.may_have(ends.first, labels.first) &&
           problem_.may_have(ends.second, labels.second);
}

std::vector<Labels> ConsistencyFix::options(std::int32_t pair) const {
    if (problem_.settings.fix_options == FixOptions::kOneLabel) {
        std::vector<Labels> found = one_label_options(pair);
        if (!found.empty()) return found;
    }
    const LabelPair ends = problem_.graph.ends(pair);
    std::vector<LabelPair> allowed = problem_.graph.allowed(pair);
    std::erase_if(allowed, [&](LabelPair labels) { return !may_have(ends, labels); });
    if (!problem_.settings.fix_both_false && allowed.size() > 1) {
        std::erase_if(allowed, is_both_false);
    }
    std::vector<Labels> options;
    options.reserve(allowed.size());
    for (const LabelPair labels : allowed) {
        options.push_back(candidate_);
        options.back()[index(ends.first)] = labels.first;
        options.back()[index(ends.second)] = labels.second;
    }
    return options;
}

std::vector<Labels> ConsistencyFix::one_label_options(std::int32_t pair) const {
    const LabelPair ends = problem_.graph.ends(pair);
    const auto [small, large] = std::minmax(ends.first, ends.second);
    std::vector<Labels> found;
    for (std::int32_t a = 0; a < problem_.graph.n_labels(); ++a) {
        for (std::int32_t b = 0; b < problem_.graph.n_labels(); ++b) {
            const bool is_kept = a == candidate_[index(small)];
            const bool is_turned = small != ends.first;
            const LabelPair labels = is_turned ? LabelPair{b, a} : LabelPair{a, b};
            if (is_kept == (b == candidate_[index(large)])) continue;
            if (!problem_.graph.allows(pair, labels) || !may_have(ends, labels)) continue;
            found.push_back(candidate_);
            found.back()[index(small)] = a;
            found.back()[index(large)] = b;
        }
    }
    return found;
}

}  // namespace icm_fast::engine
