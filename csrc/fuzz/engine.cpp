// Searches with any settings, constraints and scores: refused, or they end with what they say.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "engine/annealer.hpp"
#include "engine/objective.hpp"
#include "engine/simulator.hpp"
#include "fuzz/bytes.hpp"

namespace icm_fast::fuzz {
namespace {

using engine::Annealer;

engine::ConstraintGraph random_graph(Bytes& bytes) {
    const std::int32_t n = bytes.number32(0, 9);
    const std::int32_t n_labels = bytes.number32(1, 4);
    const std::int64_t n_pairs = bytes.between(0, 12);
    std::vector<std::int32_t> pairs;
    std::vector<std::uint8_t> tables;
    // No allocation by a number that is out of all proportion: sizes are the caller's arrays'.
    if (n > 100 || n_labels > 100) throw std::invalid_argument("too large");
    const std::int64_t width = std::max<std::int64_t>(n_labels, 0);
    for (std::int64_t k = 0; k < n_pairs; ++k) {
        pairs.push_back(bytes.number32(0, std::max(n, 1) - 1));
        pairs.push_back(bytes.number32(0, std::max(n, 1) - 1));
        for (std::int64_t cell = 0; cell < width * width; ++cell) {
            tables.push_back(bytes.rarely() ? 2 : static_cast<std::uint8_t>(bytes.flag()));
        }
    }
    return {n, n_labels, pairs, tables};
}

engine::SearchSettings random_settings(Bytes& bytes, const engine::ConstraintGraph& graph) {
    engine::SearchSettings s;
    s.objective = static_cast<engine::Objective>(bytes.between(0, 3));
    s.alpha = bytes.real(-1.0, 50.0);
    s.schedule = {.initial = bytes.real(0.0, 10.0),
                  .minimum = bytes.real(0.0, 1.0),
                  .cooling = bytes.real(0.0, 2.0),
                  .clock = static_cast<engine::CoolingClock>(bytes.between(0, 1))};
    s.start = static_cast<engine::Start>(bytes.between(0, 2));
    s.n_initial = bytes.number(1, 8);
    if (bytes.flag()) {
        for (std::int32_t i = 0; i < graph.n_examples(); ++i) {
            s.initial_labels.push_back(bytes.number32(-1, graph.n_labels() - 1));
        }
    }
    if (bytes.flag()) {
        for (std::int32_t y = 0; y < graph.n_labels(); ++y) {
            s.label_shares.push_back(bytes.real(0.01, 1.0));
        }
    }
    s.prior_weight = bytes.flag() ? bytes.real(0.0, 2.0) : 0.0;
    s.fix_rounds = bytes.number(0, 10);
    s.fix_both_false = bytes.flag();
    s.fix_pairs = bytes.flag() ? engine::FixPairs::kAll : engine::FixPairs::kOne;
    s.fix_options = bytes.flag() ? engine::FixOptions::kOneLabel : engine::FixOptions::kAllowed;
    s.fix_forced = bytes.flag();
    s.quiet_null_draws = bytes.flag();
    s.initial_groups = bytes.flag();
    s.violation_weight = bytes.real(0.0, 2.0);
    s.fix_accepts_ties = bytes.flag();
    s.group_weight = static_cast<std::uint64_t>(bytes.number(1, 100));
    const auto kinds = bytes.raw<std::uint8_t>();
    s.moves = {.single = (kinds & 1U) != 0,
               .group = (kinds & 2U) != 0,
               .sweep = (kinds & 4U) != 0,
               .grow = (kinds & 8U) != 0};
    s.growth = bytes.real(0.0, 3.0);
    s.single_tries = bytes.number(1, 4);
    s.restarts = bytes.between(0, 3);
    s.kick = bytes.real(0.01, 1.0);
    s.lazy_queries = bytes.flag();
    s.max_iterations = bytes.number(0, 60);
    s.max_evaluations = bytes.number(0, 40);
    s.return_best = bytes.flag();
    s.seed = bytes.raw<std::uint8_t>();
    if (bytes.flag()) {
        const auto n = bytes.rarely() ? bytes.between(0, 20) : std::int64_t{graph.n_examples()};
        for (std::int64_t i = 0; i < n; ++i) {
            s.fixed_labels.push_back(bytes.number32(-1, graph.n_labels() - 1));
        }
    }
    return s;
}

// Log-probabilities of the rows that are asked for; rarely something else.
std::vector<float> random_scores(Bytes& bytes, const engine::Ask& ask, std::int32_t n_labels) {
    std::vector<float> scores;
    for (const bool row : ask.rows) {
        for (std::int32_t y = 0; y < n_labels; ++y) {
            const auto value = static_cast<float>(bytes.between(0, 255)) * -0.05F;
            scores.push_back(row ? value : std::numeric_limits<float>::quiet_NaN());
        }
    }
    if (bytes.rarely() && !scores.empty()) {
        scores[static_cast<std::size_t>(bytes.raw<std::uint8_t>()) % scores.size()] =
            bytes.raw<float>();
    }
    if (bytes.rarely() && !scores.empty()) scores.pop_back();
    return scores;
}

void check_state(const Annealer& search, const engine::State& state) {
    std::int64_t n_labelled = 0;
    for (const std::int32_t label : state.labels) {
        expect(label >= -1 && label < search.graph().n_labels(), "a label does not exist");
        n_labelled += label >= 0 ? 1 : 0;
    }
    expect(n_labelled == state.n_labelled, "labelled examples are not counted");
}

// At the end every example is scored, and the utility is that of the labels.
void check_end(const Annealer& search, const engine::SearchSettings& settings) {
    expect(!search.reason().empty(), "a search ended without a reason");
    const engine::State& found = search.result();
    check_state(search, found);
    for (const float score : found.scores) expect(!std::isnan(score), "a score is missing");
    if (search.n_asks() == 0 || found.n_labelled == 0) return;
    const double again = engine::utility(
        settings.objective, settings.weights(), search.graph(), found.labels,
        {found.scores, static_cast<std::size_t>(search.graph().n_labels())}, settings.fixed_labels);
    expect(again == found.utility || (std::isnan(again) && std::isnan(found.utility)),
           "the utility is not that of the labels");
}

void run_search(Bytes& bytes, Annealer& search, const engine::SearchSettings& settings) {
    for (int step = 0; step < 400 && search.ask(); ++step) {
        const engine::Ask ask = *search.ask();
        expect(ask.labels.size() == ask.rows.size(), "an ask is of another size");
        if (bytes.rarely()) search.stop("stopped");
        if (!search.ask()) break;
        const std::vector<float> scores =
            random_scores(bytes, *search.ask(), search.graph().n_labels());
        is_refused([&] { static_cast<void>(search.rejects(scores)); });
        const engine::Labels before = search.state().labels;
        if (is_refused([&] { search.tell(scores); })) {
            expect(search.ask() && search.state().labels == before,
                   "refused scores changed the search");
            if (bytes.is_empty()) return;
        }
        check_state(search, search.state());
        static_cast<void>(search.take_events());
    }
    if (search.ask()) search.stop("stopped");
    if (search.done()) check_end(search, settings);
}

void fuzz_search(Bytes& bytes) {
    is_refused([&] {
        engine::ConstraintGraph graph = random_graph(bytes);
        const engine::SearchSettings settings = random_settings(bytes, graph);
        Annealer search(std::move(graph), settings);
        run_search(bytes, search, settings);
    });
}

void fuzz_simulation(Bytes& bytes) {
    is_refused([&] {
        engine::ConstraintGraph graph = random_graph(bytes);
        engine::SearchSettings settings = random_settings(bytes, graph);
        // Warm searches need not converge.
        settings.max_iterations = std::min<std::int64_t>(settings.max_iterations, 500);
        engine::SyntheticTask task;
        for (std::int32_t i = 0; i < graph.n_examples(); ++i) {
            task.truth.push_back(bytes.number32(0, graph.n_labels() - 1));
            for (std::int32_t y = 0; y < graph.n_labels(); ++y) {
                task.evidence.push_back(static_cast<float>(bytes.real(-3.0, 3.0)));
            }
        }
        task.prior_strength = bytes.real(-1.0, 1.0);
        task.prior_count = bytes.real(0.1, 8.0);
        task.trust = bytes.real(-1.0, 8.0);
        task.lean = bytes.real(-1.0, 2.0);
        const engine::SimulatedSearch found = engine::simulate(std::move(graph), settings, task);
        expect(!found.reason.empty(), "a simulated search ended without a reason");
    });
}

}  // namespace
}  // namespace icm_fast::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    icm_fast::fuzz::Bytes bytes(data, size);
    if (bytes.flag()) {
        icm_fast::fuzz::fuzz_simulation(bytes);
    } else {
        icm_fast::fuzz::fuzz_search(bytes);
    }
    return 0;
}
