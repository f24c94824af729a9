// The steps of a search and what they propose. Values that own their vectors.
#pragma once

#include "engine/labeling.hpp"

namespace icm_fast::engine {

enum class Move { kInit, kSingle, kGroup, kSweep, kGrow, kFix, kRestart, kDone };

// The name in the log of decisions.
[[nodiscard]] const char* move_name(Move move);

// Whether a move is taken whatever its utility.
[[nodiscard]] constexpr bool is_forced(Move move) {
    return move == Move::kGrow || move == Move::kRestart;
}

// Whether ConsistencyFix treats what a move proposes.
[[nodiscard]] constexpr bool is_fixed(Move move) {
    return move == Move::kInit || move == Move::kSingle || move == Move::kFix;
}

struct Proposal {
    Move move = Move::kInit;
    Labels labels = {};      // [n_examples]
    Examples examples = {};  // of a single or group move
};

}  // namespace icm_fast::engine
