// Python types of the annealing engine: `Engine`, `Ask` and the objective functions.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "bindings/bindings.hpp"
#include "engine/annealer.hpp"
#include "engine/simulator.hpp"

namespace py = pybind11;

namespace icm_fast {
namespace {

using engine::Annealer;
using engine::ConstraintGraph;
using IntArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;
using TableArray = py::array_t<std::uint8_t, py::array::c_style | py::array::forcecast>;
using ScoreArray = py::array_t<float, py::array::c_style | py::array::forcecast>;

template <typename Array>
std::span<const typename Array::value_type> view(const Array& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

py::array_t<std::int32_t> to_array(const engine::Labels& labels) {
    return py::array_t<std::int32_t>(static_cast<py::ssize_t>(labels.size()), labels.data());
}

py::array_t<float> to_array(const std::vector<float>& scores, std::int32_t n_labels) {
    const auto columns = static_cast<py::ssize_t>(n_labels);
    const auto rows = static_cast<py::ssize_t>(scores.size()) / columns;
    return py::array_t<float>({rows, columns}, scores.data());
}

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

ConstraintGraph make_graph(std::int32_t n_examples, std::int32_t n_labels, const IntArray& pairs,
                           const TableArray& tables) {
    if (pairs.ndim() != 2 || pairs.shape(1) != 2) {
        throw std::invalid_argument("pairs must be an int32 array [m, 2]");
    }
    if (tables.ndim() != 3 || tables.shape(0) != pairs.shape(0) || tables.shape(1) != n_labels ||
        tables.shape(2) != n_labels) {
        throw std::invalid_argument(
            "tables must be a uint8 array [m, n_labels, n_labels] with m = " +
            std::to_string(pairs.shape(0)) + " pairs");
    }
    return {n_examples, n_labels, view(pairs), view(tables)};
}

engine::CoolingClock parse_clock(const std::string& name) {
    if (name == "iterations") return engine::CoolingClock::kIterations;
    if (name == "accepted") return engine::CoolingClock::kAccepted;
    throw std::invalid_argument("unknown cooling_clock '" + name + "'");
}

// Whether the search starts from labels under no demonstrations.
bool parse_start(const std::string& name) {
    if (name == "zero-shot") return true;
    if (name == "random" || name == "given") return false;
    throw std::invalid_argument("unknown start '" + name + "'");
}

void add_move(engine::SearchSettings& settings, const std::string& name) {
    if (name == "single") {
        settings.single = true;
    } else if (name == "group") {
        settings.group = true;
    } else if (name == "sweep") {
        settings.sweep = true;
    } else if (name == "grow") {
        settings.grow = true;
    } else {
        throw std::invalid_argument("unknown move '" + name + "'");
    }
}

// Keyword arguments, each of which must be taken.
class Keywords {
  public:
    explicit Keywords(const py::dict& arguments) : rest_(arguments.attr("copy")()) {}

    template <typename T>
    T take(const char* name) {
        if (!rest_.contains(name)) {
            throw py::type_error(std::string("missing keyword argument '") + name + "'");
        }
        try {
            T value = rest_[name].cast<T>();
            rest_.attr("pop")(name);
            return value;
        } catch (const py::cast_error&) {
            throw py::type_error(std::string("keyword argument '") + name + "' cannot be " +
                                 py::repr(rest_[name]).cast<std::string>());
        }
    }

    void check_all_taken() const {
        for (const auto& item : rest_) {
            throw py::type_error("unexpected keyword argument '" + item.first.cast<std::string>() +
                                 "'");
        }
    }

  private:
    py::dict rest_;
};

engine::SearchSettings take_settings(Keywords& keywords) {
    engine::SearchSettings settings{
        .objective = engine::parse_objective(keywords.take<std::string>("objective")),
        .alpha = keywords.take<double>("alpha"),
        .schedule = {keywords.take<double>("initial_temperature"),
                     keywords.take<double>("min_temperature"), keywords.take<double>("cooling"),
                     parse_clock(keywords.take<std::string>("cooling_clock"))},
        .start_zero_shot = parse_start(keywords.take<std::string>("start")),
        .n_initial = keywords.take<std::int64_t>("n_initial"),
        .initial_labels = keywords.take<std::vector<std::int32_t>>("initial_labels"),
        .label_shares = keywords.take<std::vector<double>>("label_shares"),
        .prior_weight = keywords.take<double>("prior_weight"),
        .fix_rounds = keywords.take<std::int64_t>("fix_rounds"),
        .fix_both_false = keywords.take<bool>("fix_both_false"),
        .fix_accepts_ties = keywords.take<bool>("fix_accepts_ties"),
        .group_weight = keywords.take<std::uint64_t>("group_weight"),
        .single = false,
        .growth = keywords.take<double>("growth"),
        .single_tries = keywords.take<std::int64_t>("single_tries"),
        .restarts = keywords.take<std::int64_t>("restarts"),
        .kick = keywords.take<double>("kick"),
        .lazy_queries = keywords.take<bool>("lazy_queries"),
        .max_iterations = keywords.take<std::int64_t>("max_iterations"),
        .max_evaluations = keywords.take<std::int64_t>("max_evaluations"),
        .return_best = keywords.take<bool>("return_best"),
        .seed = keywords.take<std::uint64_t>("seed"),
    };
    for (const std::string& move : keywords.take<std::vector<std::string>>("moves")) {
        add_move(settings, move);
    }
    return settings;
}

Annealer make_engine(std::int32_t n_examples, std::int32_t n_labels, const IntArray& pairs,
                     const TableArray& tables, const py::kwargs& arguments) {
    Keywords keywords(arguments);
    const engine::SearchSettings settings = take_settings(keywords);
    keywords.check_all_taken();
    return Annealer(make_graph(n_examples, n_labels, pairs, tables), settings);
}

template <typename Value>
std::vector<Value> to_vector(
    const py::array_t<Value, py::array::c_style | py::array::forcecast>& a) {
    return {a.data(), a.data() + a.size()};
}

void check_labels(const IntArray& labels, std::int64_t n_labels) {
    if (labels.ndim() != 1) {
        throw std::invalid_argument("labels must be an int32 array [n]");
    }
    for (py::ssize_t i = 0; i < labels.size(); ++i) {
        if (labels.data()[i] < engine::kUnlabelled || labels.data()[i] >= n_labels) {
            throw std::invalid_argument("the label of example " + std::to_string(i) + " is " +
                                        std::to_string(labels.data()[i]) + ", outside -1 .. " +
                                        std::to_string(n_labels - 1));
        }
    }
}

engine::SyntheticTask take_task(const IntArray& truth, const ScoreArray& evidence,
                                Keywords& keywords) {
    return {
        .truth = to_vector(truth),
        .evidence = to_vector(evidence),
        .prior_strength = keywords.take<double>("prior_strength"),
        .prior_count = keywords.take<double>("prior_count"),
        .trust = keywords.take<double>("trust"),
        .lean = keywords.take<double>("lean"),
    };
}

py::array_t<float> synthetic_scores(const IntArray& labels, const IntArray& truth,
                                    const ScoreArray& evidence, const py::kwargs& arguments) {
    Keywords keywords(arguments);
    const engine::SyntheticTask task = take_task(truth, evidence, keywords);
    keywords.check_all_taken();
    const auto n = static_cast<std::int32_t>(truth.size());
    const auto n_labels = static_cast<std::int32_t>(evidence.ndim() == 2 ? evidence.shape(1) : 0);
    if (n_labels < 2) throw std::invalid_argument("evidence must be [n_examples, n_labels]");
    task.check(ConstraintGraph(n, n_labels, {}, {}));
    check_labels(labels, n_labels);
    if (labels.size() != n) throw std::invalid_argument("labels must have one entry per example");
    return to_array(engine::synthetic_scores(task, n_labels, view(labels)), n_labels);
}

py::dict simulate(std::int32_t n_labels, const IntArray& pairs, const TableArray& tables,
                  const IntArray& truth, const ScoreArray& evidence, const py::kwargs& arguments) {
    Keywords keywords(arguments);
    const engine::SyntheticTask task = take_task(truth, evidence, keywords);
    const engine::SearchSettings settings = take_settings(keywords);
    keywords.check_all_taken();
    ConstraintGraph graph =
        make_graph(static_cast<std::int32_t>(truth.size()), n_labels, pairs, tables);
    engine::SimulatedSearch found;
    {
        const py::gil_scoped_release unlocked;
        found = engine::simulate(std::move(graph), settings, task);
    }
    const auto counts = [](const std::vector<std::int64_t>& values) {
        return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
    };
    py::dict content;
    content["labels"] = to_array(found.labels);
    content["utility"] = found.utility;
    content["true_utility"] = found.true_utility;
    content["reason"] = found.reason;
    content["n_iterations"] = found.n_iterations;
    content["evaluations"] = counts(found.evaluations);
    content["asks"] = counts(found.asks);
    content["null_draws"] = counts(found.null_draws);
    content["lookups"] = counts(found.lookups);
    content["extra_rows"] = counts(found.extra_rows);
    return content;
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

void tell(Annealer& annealer, const ScoreArray& scores) {
    check_shape(scores, annealer.graph().n_examples(), annealer.graph().n_labels());
    const py::gil_scoped_release unlocked;
    annealer.tell(view(scores));
}

bool rejects(const Annealer& annealer, const ScoreArray& scores) {
    check_shape(scores, annealer.graph().n_examples(), annealer.graph().n_labels());
    return annealer.rejects(view(scores));
}

py::array_t<bool> to_array(const std::vector<bool>& rows) {
    py::array_t<bool> array(static_cast<py::ssize_t>(rows.size()));
    std::ranges::copy(rows, array.mutable_data());
    return array;
}

double compute_utility(const IntArray& labels, const ScoreArray& scores, const IntArray& pairs,
                       const TableArray& tables, const std::string& objective, double alpha) {
    const std::int64_t n_labels = scores.ndim() == 2 ? scores.shape(1) : 0;
    check_labels(labels, n_labels);
    check_scores(scores, labels.size(), n_labels);
    const ConstraintGraph graph = make_graph(static_cast<std::int32_t>(labels.size()),
                                             static_cast<std::int32_t>(n_labels), pairs, tables);
    return engine::utility(engine::parse_objective(objective), alpha, graph, view(labels),
                           {view(scores), static_cast<std::size_t>(n_labels)});
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
        .def_property_readonly("rows", [](const engine::Ask& a) { return to_array(a.rows); })
        .def_readonly("is_lookup", &engine::Ask::is_lookup)
        .def_readonly("threshold", &engine::Ask::threshold);
}

void bind_state(py::class_<Annealer>& type) {
    const auto scores = [](const Annealer& a, const engine::State& state) {
        return to_array(state.scores, a.graph().n_labels());
    };
    type.def_property_readonly("labels",
                               [](const Annealer& a) { return to_array(a.state().labels); })
        .def_property_readonly("scores", [=](const Annealer& a) { return scores(a, a.state()); })
        .def_property_readonly("utility", [](const Annealer& a) { return a.state().utility; })
        .def_property_readonly("n_labelled", [](const Annealer& a) { return a.state().n_labelled; })
        .def_property_readonly("result_labels",
                               [](const Annealer& a) { return to_array(a.result().labels); })
        .def_property_readonly("result_scores",
                               [=](const Annealer& a) { return scores(a, a.result()); })
        .def_property_readonly("result_utility",
                               [](const Annealer& a) { return a.result().utility; });
}

void bind_progress(py::class_<Annealer>& type) {
    type.def_property_readonly("temperature", &Annealer::temperature)
        .def_property_readonly("iteration", &Annealer::iteration)
        .def_property_readonly("n_asks", &Annealer::n_asks)
        .def_property_readonly("n_accepted", &Annealer::n_accepted)
        .def_property_readonly("done", &Annealer::done)
        .def_property_readonly("reason", &Annealer::reason);
}

py::list take_events(Annealer& annealer) {
    py::list events;
    for (const engine::Event& event : annealer.take_events()) {
        events.append(to_dict(event));
    }
    return events;
}

}  // namespace

void bind_engine(py::module_& module) {
    bind_ask(module);
    py::class_<Annealer> type(module, "Engine");
    type.def(py::init(&make_engine), py::arg("n_examples"), py::arg("n_labels"), py::arg("pairs"),
             py::arg("tables"));
    type.def("ask", [](const Annealer& annealer) { return annealer.ask(); });
    type.def("tell", &tell, py::arg("scores"));
    type.def("rejects", &rejects, py::arg("scores"));
    type.def("stop", &Annealer::stop, py::arg("reason"));
    type.def_property_readonly("may_reject", &Annealer::may_reject);
    type.def("take_events", &take_events);
    bind_state(type);
    bind_progress(type);
    module.def("utility", &compute_utility, py::arg("labels"), py::arg("scores"), py::arg("pairs"),
               py::arg("tables"), py::arg("objective"), py::arg("alpha"));
    module.def("count_violations", &count_violations, py::arg("labels"), py::arg("pairs"),
               py::arg("tables"));
    module.def("simulate", &simulate, py::arg("n_labels"), py::arg("pairs"), py::arg("tables"),
               py::arg("truth"), py::arg("evidence"));
    module.def("synthetic_scores", &synthetic_scores, py::arg("labels"), py::arg("truth"),
               py::arg("evidence"));
    module.def("philox4x32", &engine::philox4x32, py::arg("counter"), py::arg("key"));
}

}  // namespace icm_fast
