// The thread pool: nothing lost, nothing twice, and barriers that hold.
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/thread_pool.hpp"
#include "tests/check.hpp"
#include "tests/inputs.hpp"

namespace icm_fast::tests {
namespace {

constexpr int kRounds = 100;
constexpr int kPhases = 3;

template <typename Work>
void for_each_size(const Work& work) {
    for (const std::int32_t n_threads : {1, 2, 4}) {
        const Input input("threads " + std::to_string(n_threads));
        cpu::ThreadPool pool(n_threads);
        CHECK_EQUAL(pool.size(), n_threads);
        work(pool);
    }
}

}  // namespace

NATIVE_TEST(threads, every_thread_runs_once) {
    for_each_size([](cpu::ThreadPool& pool) {
        std::vector<int> runs(to_size(pool.size()), 0);
        for (int round = 1; round <= kRounds; ++round) {
            pool.run([&](std::int32_t thread) { ++runs[to_size(thread)]; });
            for (const int n : runs) CHECK_EQUAL(n, round);
        }
    });
}

// Plain memory: without the barriers the sums are wrong, and the thread sanitizer says so.
NATIVE_TEST(threads, barriers_show_what_the_others_wrote) {
    for_each_size([](cpu::ThreadPool& pool) {
        const std::int64_t n = pool.size();
        std::vector<std::int64_t> cells(to_size(n), 0);
        std::vector<std::int64_t> sums(to_size(n), 0);
        for (int round = 0; round < kRounds; ++round) {
            pool.run([&](std::int32_t thread) {
                for (int phase = 0; phase < kPhases; ++phase) {
                    cells[to_size(thread)] = round * kPhases + phase + thread;
                    pool.synchronize();
                    std::int64_t sum = 0;
                    for (const std::int64_t cell : cells) sum += cell;
                    sums[to_size(thread)] += sum;
                    pool.synchronize();
                }
            });
        }
        const std::int64_t steps = std::int64_t{kRounds} * kPhases;
        const std::int64_t wanted = n * (steps * (steps - 1) / 2) + steps * (n * (n - 1) / 2);
        for (const std::int64_t sum : sums) CHECK_EQUAL(sum, wanted);
    });
}

NATIVE_TEST(threads, tickets_are_handed_out_once) {
    for_each_size([](cpu::ThreadPool& pool) {
        constexpr std::int64_t kTickets = 97;
        cpu::Tickets tickets;
        std::vector<int> taken(to_size(kTickets), 0);
        for (int round = 1; round <= kRounds; ++round) {
            tickets.reset();
            pool.run([&](std::int32_t) {
                for (auto t = tickets.take(); t < kTickets; t = tickets.take()) ++taken[to_size(t)];
            });
            for (const int n : taken) CHECK_EQUAL(n, round);
        }
    });
}

NATIVE_TEST(threads, pools_come_and_go) {
    std::atomic<int> runs{0};
    for (int k = 0; k < 50; ++k) {
        cpu::ThreadPool idle(3);
        cpu::ThreadPool busy(2);
        busy.run([&](std::int32_t) { ++runs; });
    }
    CHECK_EQUAL(runs.load(), 100);
}

NATIVE_TEST(threads, numbers_that_no_pool_has_are_refused) {
    for (const std::int32_t n : {-1, 0, 4097}) {
        check_refused("n_threads is " + std::to_string(n) + ", outside 1 .. 4096",
                      [&] { const cpu::ThreadPool pool(n); });
    }
}

}  // namespace icm_fast::tests
