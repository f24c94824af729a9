// The little that the native tests need: named cases, and checks that say where and what failed.
#pragma once

#include <cmath>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace icm_fast::tests {

struct Case {
    std::string name;
    void (*run)();
};

// In the order of registration; static initialisation fills it.
inline std::vector<Case>& cases() {
    static std::vector<Case> all;
    return all;
}

struct Register {
    Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

// The inputs at hand, outermost first; a failed check names them.
inline std::vector<std::string>& inputs() {
    static std::vector<std::string> stack;
    return stack;
}

struct Input {
    explicit Input(std::string text) { inputs().push_back(std::move(text)); }
    ~Input() { inputs().pop_back(); }
    Input(const Input&) = delete;
    Input& operator=(const Input&) = delete;
    Input(Input&&) = delete;
    Input& operator=(Input&&) = delete;
};

// Ends the case: its first failure is the one that tells most.
template <typename... Parts>
[[noreturn]] void fail(const char* file, int line, const Parts&... parts) {
    std::ostringstream text;
    text.precision(9);
    text << file << ":" << line << ": ";
    (text << ... << parts);
    for (const std::string& input : inputs()) text << " [" << input << "]";
    throw std::runtime_error(text.str());
}

}  // namespace icm_fast::tests

// NOLINTBEGIN(cppcoreguidelines-macro-usage): only a macro knows its line and its argument's text.
#define NATIVE_TEST(group, name)                                                       \
    static void group##_##name();                                                      \
    static const icm_fast::tests::Register register_##group##_##name(#group "." #name, \
                                                                     group##_##name);  \
    static void group##_##name()
#define FAIL(...) icm_fast::tests::fail(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(holds) (static_cast<bool>(holds) ? void() : FAIL(#holds))
#define CHECK_EQUAL(got, wanted) \
    ((got) == (wanted) ? void() : FAIL(#got, " is ", got, ", expected ", wanted))
// Fails for NaN, too.
#define CHECK_NEAR(got, wanted, most)     \
    (std::abs((got) - (wanted)) <= (most) \
         ? void()                         \
         : FAIL(#got, " is ", got, ", expected ", wanted, " within ", most))
// NOLINTEND(cppcoreguidelines-macro-usage)

namespace icm_fast::tests {

// The action throws std::invalid_argument, and its message holds `message`.
inline void check_refused(const std::string& message, const std::function<void()>& action) {
    const Input input("expecting: " + message);
    try {
        action();
    } catch (const std::invalid_argument& error) {
        const std::string said = error.what();
        if (said.find(message) == std::string::npos) FAIL("refused with: ", said);
        return;
    }
    FAIL("not refused");
}

}  // namespace icm_fast::tests
