#include "engine/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace icm_fast::engine {

CoolingClock parse_clock(std::string_view name) {
    if (name == "iterations") return CoolingClock::kIterations;
    if (name == "accepted") return CoolingClock::kAccepted;
    throw std::invalid_argument("unknown cooling_clock '" + std::string(name) + "'");
}

double Schedule::temperature(std::int64_t iteration, std::int64_t n_accepted) const {
    const std::int64_t count =
        clock == CoolingClock::kIterations ? std::max<std::int64_t>(1, iteration) : 1 + n_accepted;
    return std::max(minimum, initial / (1.0 + cooling * std::log(static_cast<double>(count))));
}

}  // namespace icm_fast::engine
