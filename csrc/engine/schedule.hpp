// The cooling schedule of the annealer. Immutable; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

namespace icm_fast::engine {

// What the logarithm of the schedule counts.
enum class CoolingClock {
    kIterations,  // search steps, null draws included (the paper)
    kAccepted,    // 1 + accepted changes (the authors' code)
};

// The name that SearchConfig uses; throws std::invalid_argument for an unknown one.
[[nodiscard]] CoolingClock parse_clock(std::string_view name);

// T = max(minimum, initial / (1 + cooling * log(count))), in units of the utility.
struct Schedule {
    double initial = 10.0;
    double minimum = 0.01;
    double cooling = 0.99;
    CoolingClock clock = CoolingClock::kIterations;

    // Temperature at iteration 1, 2, ... after `n_accepted` accepted changes; iteration 0 (the
    // initial state) counts as 1.
    [[nodiscard]] double temperature(std::int64_t iteration, std::int64_t n_accepted) const;
};

}  // namespace icm_fast::engine
