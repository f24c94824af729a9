// The cooling schedule of the annealer. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

namespace icm_fast::engine {

// What the logarithm of the schedule counts.
enum class CoolingClock {
    kIterations,  // search steps, null draws included (the paper)
    kAccepted,    // 1 + accepted changes
    // 1 + accepted proposals, those that ConsistencyFix led back to where they started included
    // (the authors' code)
    kAcceptances,
};

// How far a search is.
struct Steps {
    std::int64_t iterations = 0;   // null draws included; the initial state counts as 1
    std::int64_t n_accepted = 0;   // accepted changes
    std::int64_t acceptances = 0;  // accepted proposals
};

// The name that SearchConfig uses; throws std::invalid_argument for an unknown one.
[[nodiscard]] CoolingClock parse_clock(std::string_view name);

// T = max(minimum, initial / (1 + cooling * log(count))), in units of the utility.
struct Schedule {
    double initial = 10.0;
    double minimum = 0.01;
    double cooling = 0.99;
    CoolingClock clock = CoolingClock::kIterations;

    // Temperature after this many steps; the initial state comes before the first.
    [[nodiscard]] double temperature(const Steps& steps) const;
};

}  // namespace icm_fast::engine
