// Checks of what callers pass. Thread-safe.
#pragma once

#include <stdexcept>

namespace icm_fast::engine {

// Throws std::invalid_argument with `text`, what is expected, unless it holds.
inline void require(bool holds, const char* text) {
    if (!holds) throw std::invalid_argument(text);
}

}  // namespace icm_fast::engine
