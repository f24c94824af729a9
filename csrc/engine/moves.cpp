#include "engine/moves.hpp"

namespace icm_fast::engine {

const char* move_name(Move move) {
    switch (move) {
        case Move::kInit:
            return "init";
        case Move::kSingle:
            return "single";
        case Move::kGroup:
            return "group";
        case Move::kSweep:
            return "sweep";
        case Move::kGrow:
            return "grow";
        case Move::kFix:
            return "fix";
        case Move::kRestart:
            return "restart";
        case Move::kDone:
            break;
    }
    return "done";
}

}  // namespace icm_fast::engine
