#include "engine/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace icm_fast::engine {
namespace {

std::int64_t count(CoolingClock clock, const Steps& steps) {
    switch (clock) {
        case CoolingClock::kIterations:
            return std::max<std::int64_t>(1, steps.iterations);
        case CoolingClock::kAccepted:
            return 1 + steps.n_accepted;
        case CoolingClock::kAcceptances:
            break;
    }
    return 1 + steps.acceptances;
}

}  // namespace

CoolingClock parse_clock(std::string_view name) {
    if (name == "iterations") return CoolingClock::kIterations;
    if (name == "accepted") return CoolingClock::kAccepted;
    if (name == "acceptances") return CoolingClock::kAcceptances;
    throw std::invalid_argument("unknown cooling_clock '" + std::string(name) + "'");
}

double Schedule::temperature(const Steps& steps) const {
    const auto tick = static_cast<double>(count(clock, steps));
    return std::max(minimum, initial / (1.0 + cooling * std::log(tick)));
}

}  // namespace icm_fast::engine
