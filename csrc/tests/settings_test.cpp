// The table of settings, and what the settings check.
#include "engine/settings.hpp"

#include <functional>
#include <set>
#include <string>
#include <tuple>

#include "tests/check.hpp"
#include "tests/small_search.hpp"

namespace icm_fast::tests {

using engine::SearchSettings;

NATIVE_TEST(settings, the_table_names_each_value_once) {
    std::set<std::string> names;
    std::set<const void*> places;
    SearchSettings settings;
    const auto look = [&](const auto& setting) {
        names.insert(setting.name);
        places.insert(&std::invoke(setting.access, settings));
    };
    std::apply([&](const auto&... setting) { (look(setting), ...); }, engine::kSettings);
    constexpr std::size_t kRows = std::tuple_size_v<decltype(engine::kSettings)>;
    CHECK_EQUAL(names.size(), kRows);
    CHECK_EQUAL(places.size(), kRows);
}

NATIVE_TEST(settings, moves_are_read_by_their_names) {
    const std::vector<std::string> names = {"grow", "single"};
    const engine::MoveKinds moves = engine::parse_moves(names);
    CHECK(moves.single && moves.grow && !moves.group && !moves.sweep && moves.has_large());
    CHECK(!engine::parse_moves({}).has_any());
    const std::vector<std::string> wrong = {"jump"};
    check_invalid("unknown move 'jump'", [&] { (void)engine::parse_moves(wrong); });
    check_invalid("unknown start 'cold'", [] { (void)engine::parse_start("cold"); });
}

NATIVE_TEST(settings, values_out_of_range_are_refused) {
    const auto refuse = [](const std::string& text, const SearchSettings& settings) {
        check_invalid(text, [&] { settings.check(neighbours(4, 1)); });
    };
    SearchSettings().check(neighbours(4, 1));
    refuse("n_initial", {.n_initial = 0});
    refuse("moves is empty", {.moves = {}});
    refuse("kick", {.kick = 0.0});
    refuse("one number per label", {.label_shares = {0.2, 0.3, 0.5}});
    refuse("label_shares must lie", {.label_shares = {0.0, 1.0}});
    refuse("must be [n_examples]", {.initial_labels = {0}});
    refuse("-1 .. n_labels - 1", {.initial_labels = {0, 1, 2, 0}});
    refuse("label no example", {.initial_labels = {-1, -1, -1, -1}});
    refuse("not zero-shot", {.start = engine::Start::kZeroShot, .initial_labels = {0, 0, 0, 0}});
    refuse("fixed_labels must be [n_examples]", {.fixed_labels = {0}});
    refuse("fixed_labels must lie in -1", {.fixed_labels = {0, -2, 0, 0}});
    refuse("examples 0 and 1 contradict constraint 0", {.fixed_labels = {1, 1, -1, -1}});
    SearchSettings{.fixed_labels = {1, 0, -1, -1}}.check(neighbours(4, 1));
}

}  // namespace icm_fast::tests
