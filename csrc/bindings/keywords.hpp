// Keyword arguments of the engine's Python types. For the thread that holds the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "engine/settings.hpp"

namespace icm_fast {

// A copy of keyword arguments, each of which must be taken; it owns what is left.
class Keywords {
  public:
    explicit Keywords(const pybind11::dict& arguments) : rest_(arguments.attr("copy")()) {}

    // Throws TypeError in Python where the argument is missing or of another type.
    template <typename T>
    T take(const char* name) {
        if (!rest_.contains(name)) {
            throw pybind11::type_error(std::string("missing keyword argument '") + name + "'");
        }
        try {
            T value = rest_[name].cast<T>();
            rest_.attr("pop")(name);
            return value;
        } catch (const pybind11::cast_error&) {
            throw pybind11::type_error(std::string("keyword argument '") + name + "' cannot be " +
                                       pybind11::repr(rest_[name]).cast<std::string>());
        }
    }

    // Throws TypeError in Python for the first that is left.
    void check_all_taken() const {
        for (const auto& item : rest_) {
            throw pybind11::type_error("unexpected keyword argument '" +
                                       item.first.cast<std::string>() + "'");
        }
    }

  private:
    pybind11::dict rest_;
};

// One setting: as it is, or by the name that it has in Python.
template <typename T>
void take_setting(Keywords& keywords, const char* name, T& value) {
    value = keywords.take<T>(name);
}
inline void take_setting(Keywords& keywords, const char* name, engine::Objective& value) {
    value = engine::parse_objective(keywords.take<std::string>(name));
}
inline void take_setting(Keywords& keywords, const char* name, engine::CoolingClock& value) {
    value = engine::parse_clock(keywords.take<std::string>(name));
}
inline void take_setting(Keywords& keywords, const char* name, engine::Start& value) {
    value = engine::parse_start(keywords.take<std::string>(name));
}
inline void take_setting(Keywords& keywords, const char* name, engine::FixPairs& value) {
    value = engine::parse_fix_pairs(keywords.take<std::string>(name));
}
inline void take_setting(Keywords& keywords, const char* name, engine::FixOptions& value) {
    value = engine::parse_fix_options(keywords.take<std::string>(name));
}
inline void take_setting(Keywords& keywords, const char* name, engine::MoveKinds& value) {
    value = engine::parse_moves(keywords.take<std::vector<std::string>>(name));
}

// All settings of a search; throws std::invalid_argument for an unknown name.
inline engine::SearchSettings take_settings(Keywords& keywords) {
    engine::SearchSettings settings;
    const auto take = [&](const auto& setting) {
        take_setting(keywords, setting.name, std::invoke(setting.access, settings));
    };
    std::apply([&](const auto&... setting) { (take(setting), ...); }, engine::kSettings);
    return settings;
}

}  // namespace icm_fast
