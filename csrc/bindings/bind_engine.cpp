// Python types of the annealing engine: `Engine`, `Ask` and the objective functions.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/engine_arrays.hpp"
#include "bindings/guarded.hpp"
#include "bindings/keywords.hpp"
#include "engine/annealer.hpp"

namespace py = pybind11;

namespace icm_fast {
namespace {

using engine::Annealer;
using engine::ConstraintGraph;

// JSON has no infinity, and -inf only says "no threshold".
py::object to_object(double threshold) {
    return std::isfinite(threshold) ? py::object(py::float_(threshold)) : py::object(py::none());
}

py::dict to_dict(const engine::Event& event) {
    py::list changes;
    for (const engine::LabelChange& change : event.changes) {
        changes.append(py::make_tuple(change.example, change.before, change.after));
    }
    py::dict content;
    content["iteration"] = event.iteration;
    content["move"] = engine::move_name(event.move);
    content["temperature"] = event.temperature;
    content["changes"] = changes;
    content["utility_before"] = event.utility_before;
    content["utility_candidate"] = event.utility_candidate;
    content["utility_after"] = event.utility_after;
    content["threshold"] = to_object(event.threshold);
    content["accepted"] = event.accepted;
    content["forced"] = event.forced;
    content["n_labelled"] = event.n_labelled;
    content["n_violations"] = event.n_violations;
    content["n_asks"] = event.n_asks;
    content["null_draws"] = event.null_draws;
    if (event.abandoned) {
        content["abandoned"] = true;
    }
    if (event.move == engine::Move::kDone) {
        content["reason"] = event.reason;
    }
    return content;
}

// What Python calls an Engine: its calls take turns.
using Engine = Guarded<Annealer>;

std::unique_ptr<Engine> make_engine(std::int32_t n_examples, std::int32_t n_labels,
                                    const IntArray& pairs, const TableArray& tables,
                                    const py::kwargs& arguments) {
    Keywords keywords(arguments);
    engine::SearchSettings settings = take_settings(keywords);
    keywords.check_all_taken();
    return std::make_unique<Engine>(std::in_place, make_graph(n_examples, n_labels, pairs, tables),
                                    std::move(settings));
}

// Names of the keyword arguments of `make_engine`.
py::tuple engine_setting_names() {
    return std::apply([](const auto&... setting) { return py::make_tuple(setting.name...); },
                      engine::kSettings);
}

void check_shape(const ScoreArray& scores, std::int64_t n_examples, std::int64_t n_labels) {
    if (scores.ndim() != 2 || scores.shape(0) != n_examples || scores.shape(1) != n_labels) {
        throw std::invalid_argument("scores must be a float32 array [" +
                                    std::to_string(n_examples) + ", " + std::to_string(n_labels) +
                                    "]");
    }
}

void check_scores(const ScoreArray& scores, std::int64_t n_examples, std::int64_t n_labels) {
    check_shape(scores, n_examples, n_labels);
    for (py::ssize_t k = 0; k < scores.size(); ++k) {
        if (!std::isfinite(scores.data()[k])) {
            throw std::invalid_argument("the score of example " + std::to_string(k / n_labels) +
                                        ", label " + std::to_string(k % n_labels) + " is " +
                                        std::to_string(scores.data()[k]) +
                                        "; every example needs finite scores");
        }
    }
}

void check_shape(const ScoreArray& scores, const ConstraintGraph& graph) {
    check_shape(scores, graph.n_examples(), graph.n_labels());
}

void tell(Engine& engine, const ScoreArray& scores) {
    // The graph never changes.
    engine.call([&](const Annealer& annealer) { check_shape(scores, annealer.graph()); });
    const std::span<const float> values = view(scores);
    const py::gil_scoped_release unlocked;
    engine.call_unlocked([&](Annealer& annealer) { annealer.tell(values); });
}

bool rejects(Engine& engine, const ScoreArray& scores) {
    return engine.call([&](const Annealer& annealer) {
        check_shape(scores, annealer.graph());
        return annealer.rejects(view(scores));
    });
}

py::array_t<bool> to_mask(const std::vector<bool>& rows) {
    py::array_t<bool> array(static_cast<py::ssize_t>(rows.size()));
    std::ranges::copy(rows, array.mutable_data());
    return array;
}

void check_fixed_labels(const IntArray& fixed, const IntArray& labels, std::int64_t n_labels) {
    check_labels(fixed, n_labels);
    if (fixed.size() != labels.size()) {
        throw std::invalid_argument("fixed_labels has " + std::to_string(fixed.size()) +
                                    " entries, labels has " + std::to_string(labels.size()));
    }
}

double compute_utility(const IntArray& labels, const ScoreArray& scores, const IntArray& pairs,
                       const TableArray& tables, const std::string& objective, double alpha,
                       double violation_weight, const std::optional<IntArray>& fixed_labels) {
    const std::int64_t n_labels = scores.ndim() == 2 ? scores.shape(1) : 0;
    check_labels(labels, n_labels);
    if (fixed_labels) check_fixed_labels(*fixed_labels, labels, n_labels);
    check_scores(scores, labels.size(), n_labels);
    const ConstraintGraph graph = make_graph(static_cast<std::int32_t>(labels.size()),
                                             static_cast<std::int32_t>(n_labels), pairs, tables);
    return engine::utility(engine::parse_objective(objective), {alpha, violation_weight}, graph,
                           view(labels), {view(scores), static_cast<std::size_t>(n_labels)},
                           fixed_labels ? view(*fixed_labels) : engine::FixedLabels{});
}

std::int64_t count_violations(const IntArray& labels, const IntArray& pairs,
                              const TableArray& tables) {
    const std::int64_t n_labels = tables.ndim() == 3 ? tables.shape(1) : 0;
    check_labels(labels, n_labels);
    return make_graph(static_cast<std::int32_t>(labels.size()), static_cast<std::int32_t>(n_labels),
                      pairs, tables)
        .count_violations(view(labels));
}

void bind_ask(py::module_& module) {
    py::class_<engine::Ask>(module, "Ask")
        .def_property_readonly("labels", [](const engine::Ask& a) { return to_array(a.labels); })
        .def_property_readonly("rows", [](const engine::Ask& a) { return to_mask(a.rows); })
        .def_readonly("is_lookup", &engine::Ask::is_lookup)
        .def_readonly("threshold", &engine::Ask::threshold);
}

// A property that is read in its turn.
template <typename Read>
void bind_property(py::class_<Engine>& type, const char* name, const Read& read) {
    type.def_property_readonly(name, [read](Engine& engine) { return engine.call(read); });
}

void bind_state(py::class_<Engine>& type) {
    const auto scores = [](const Annealer& a, const engine::State& state) {
        return to_table(state.scores, a.graph().n_labels());
    };
    bind_property(type, "labels", [](const Annealer& a) { return to_array(a.state().labels); });
    bind_property(type, "scores", [=](const Annealer& a) { return scores(a, a.state()); });
    bind_property(type, "utility", [](const Annealer& a) { return a.state().utility; });
    bind_property(type, "n_labelled", [](const Annealer& a) { return a.state().n_labelled; });
    bind_property(type, "result_labels",
                  [](const Annealer& a) { return to_array(a.result().labels); });
    bind_property(type, "result_scores", [=](const Annealer& a) { return scores(a, a.result()); });
    bind_property(type, "result_utility", [](const Annealer& a) { return a.result().utility; });
}

void bind_progress(py::class_<Engine>& type) {
    bind_property(type, "temperature", [](const Annealer& a) { return a.temperature(); });
    bind_property(type, "iteration", [](const Annealer& a) { return a.iteration(); });
    bind_property(type, "n_asks", [](const Annealer& a) { return a.n_asks(); });
    bind_property(type, "n_accepted", [](const Annealer& a) { return a.n_accepted(); });
    bind_property(type, "done", [](const Annealer& a) { return a.done(); });
    bind_property(type, "reason", [](const Annealer& a) { return std::string(a.reason()); });
    bind_property(type, "may_reject", [](const Annealer& a) { return a.may_reject(); });
}

py::list take_events(Engine& engine) {
    const auto taken = engine.call([](Annealer& annealer) { return annealer.take_events(); });
    py::list events;
    for (const engine::Event& event : taken) {
        events.append(to_dict(event));
    }
    return events;
}

}  // namespace

void bind_engine(py::module_& module) {
    bind_ask(module);
    py::class_<Engine> type(module, "Engine");
    type.def(py::init(&make_engine), py::arg("n_examples"), py::arg("n_labels"), py::arg("pairs"),
             py::arg("tables"));
    type.def("ask", [](Engine& e) { return e.call([](const Annealer& a) { return a.ask(); }); });
    type.def("tell", &tell, py::arg("scores"));
    type.def("rejects", &rejects, py::arg("scores"));
    type.def(
        "stop",
        [](Engine& e, const std::string& reason) { e.call([&](Annealer& a) { a.stop(reason); }); },
        py::arg("reason"));
    type.def("take_events", &take_events);
    bind_state(type);
    bind_progress(type);
    module.def("utility", &compute_utility, py::arg("labels"), py::arg("scores"), py::arg("pairs"),
               py::arg("tables"), py::arg("objective"), py::arg("alpha"),
               py::arg("violation_weight") = 1.0, py::arg("fixed_labels") = py::none());
    module.def("count_violations", &count_violations, py::arg("labels"), py::arg("pairs"),
               py::arg("tables"));
    module.def("engine_setting_names", &engine_setting_names);
    module.def("philox4x32", &engine::philox4x32, py::arg("counter"), py::arg("key"));
}

}  // namespace icm_fast
