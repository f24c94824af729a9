// Processes that fork: the child has the decoder, but none of its threads.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "tests/check.hpp"
#include "tests/inputs.hpp"
#include "tests/tiny_decoder.hpp"

namespace icm_fast::tests {
namespace {

const std::vector<std::vector<std::int64_t>> kByLevel = {{6, 0}, {2, 1, 7}, {5, 4, 3}, {8}};

// The exit code of a forked child that runs `work`: 0 for true.
int exit_code_of_child(const std::function<bool()>& work) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // a child that hangs dies
        _exit(work() ? 0 : 1);
    }
    int status = 0;
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

NATIVE_TEST(forks, a_forked_child_starts_threads_of_its_own) {
    const TinyTree tree;
    const cpu::Ops& ops = *cpu::pick_ops(cpu::Format::kFloat32);
    auto decoder = make_decoder(ops, kAwkward, Parts::kAll, 3);
    const Floats wanted = run_tree(*decoder, tree, kByLevel);
    CHECK_EQUAL(exit_code_of_child([&] {
                    const bool equal = run_tree(*decoder, tree, kByLevel) == wanted;
                    decoder.reset();
                    return equal;
                }),
                0);
    CHECK_EQUAL(exit_code_of_child([&] {
                    decoder.reset();
                    return true;
                }),
                0);
    CHECK(run_tree(*decoder, tree, kByLevel) == wanted);
}

// A fork at any point of a call: what it left half done does not matter to the child.
NATIVE_TEST(forks, a_child_forked_while_another_thread_is_inside_goes_on) {
    const TinyTree tree;
    const cpu::Ops& ops = *cpu::pick_ops(cpu::Format::kFloat32);
    auto decoder = make_decoder(ops, kAwkward, Parts::kAll, 2);
    const Floats wanted = run_tree(*decoder, tree, kByLevel);
    std::atomic<bool> stopping = false;
    std::thread caller([&] {
        while (!stopping) run_tree(*decoder, tree, kByLevel);
    });
    std::vector<int> codes;
    for (int k = 0; k < 10; ++k) {
        codes.push_back(exit_code_of_child([&] {
            const bool equal = run_tree(*decoder, tree, kByLevel) == wanted;
            decoder.reset();
            return equal;
        }));
    }
    stopping = true;
    caller.join();
    for (const int code : codes) CHECK_EQUAL(code, 0);
}

}  // namespace icm_fast::tests
