// Runs the native tests whose names begin with the argument, all of them without one.
#include <cstdio>
#include <exception>
#include <string>

#include "tests/check.hpp"

namespace {

bool passes(const icm_fast::tests::Case& test) {
    try {
        test.run();
        return true;
    } catch (const std::exception& error) {
        std::printf("FAILED %s\n  %s\n", test.name.c_str(), error.what());
        return false;
    }
}

}  // namespace

int main(int argc, char** argv) {
    const std::string prefix = argc > 1 ? argv[1] : "";
    int n_passed = 0;
    int n_failed = 0;
    for (const icm_fast::tests::Case& test : icm_fast::tests::cases()) {
        if (!test.name.starts_with(prefix)) continue;
        ++(passes(test) ? n_passed : n_failed);
    }
    std::printf("%d passed, %d failed\n", n_passed, n_failed);
    // A prefix without tests is a mistake, not a success.
    return n_failed == 0 && n_passed > 0 ? 0 : 1;
}
