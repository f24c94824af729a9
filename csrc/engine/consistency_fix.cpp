#include "engine/consistency_fix.hpp"

#include <utility>

namespace icm_fast::engine {

void ConsistencyFix::begin(Labels candidate, std::uint64_t step) {
    candidate_ = std::move(candidate);
    step_ = step;
    round_ = 0;
}

std::optional<Labels> ConsistencyFix::advance(const Evaluations& known) {
    while (round_ < problem_.settings.fix_rounds) {
        const std::vector<std::int32_t> violated = problem_.graph.violated(candidate_);
        if (violated.empty()) break;
        std::optional<Labels> missing = treat(draw_pair(violated), known);
        if (missing) return missing;
        ++round_;
    }
    return std::nullopt;
}

std::optional<Labels> ConsistencyFix::treat(std::int32_t pair, const Evaluations& known) {
    const auto current = known.find(candidate_);
    if (current == known.end()) return candidate_;
    auto best = known.end();
    for (Labels& option : options(pair)) {
        const auto found = known.find(option);
        if (found == known.end()) return std::move(option);
        const bool is_better = best == known.end() || found->second.utility > best->second.utility;
        if (is_better) best = found;
    }
    if (best != known.end() && helps(best->second.utility, current->second.utility)) {
        candidate_ = best->first;
    }
    return std::nullopt;
}

bool ConsistencyFix::helps(double utility, double current) const {
    return utility > current || (problem_.settings.fix_accepts_ties && utility == current);
}

std::int32_t ConsistencyFix::draw_pair(const std::vector<std::int32_t>& violated) const {
    return violated[problem_.rng.bounded(Purpose::kFixPair, step_, round_, violated.size())];
}

std::vector<Labels> ConsistencyFix::options(std::int32_t pair) const {
    const LabelPair ends = problem_.graph.ends(pair);
    std::vector<LabelPair> allowed = problem_.graph.allowed(pair);
    std::erase_if(allowed, [&](LabelPair p) {
        return !problem_.may_have(ends.first, p.first) || !problem_.may_have(ends.second, p.second);
    });
    if (!problem_.settings.fix_both_false && allowed.size() > 1) {
        std::erase_if(allowed, [](LabelPair p) { return p.first == 0 && p.second == 0; });
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

}  // namespace icm_fast::engine
