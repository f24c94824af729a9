// Searches without a model in Python: `simulate` and the scores that it gives.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <utility>

#include "bindings/bindings.hpp"
#include "bindings/engine_arrays.hpp"
#include "bindings/keywords.hpp"
#include "engine/simulator.hpp"

namespace py = pybind11;

namespace icm_fast {
namespace {

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
    task.check(engine::ConstraintGraph(n, n_labels, {}, {}));
    check_labels(labels, n_labels);
    if (labels.size() != n) throw std::invalid_argument("labels must have one entry per example");
    return to_table(engine::synthetic_scores(task, n_labels, view(labels)), n_labels);
}

py::dict to_dict(const engine::SimulatedSearch& found) {
    py::dict content;
    content["labels"] = to_array(found.labels);
    content["utility"] = found.utility;
    content["true_utility"] = found.true_utility;
    content["reason"] = found.reason;
    content["n_iterations"] = found.n_iterations;
    content["evaluations"] = to_array(found.evaluations);
    content["asks"] = to_array(found.asks);
    content["null_draws"] = to_array(found.null_draws);
    content["lookups"] = to_array(found.lookups);
    content["extra_rows"] = to_array(found.extra_rows);
    return content;
}

py::dict simulate(std::int32_t n_labels, const IntArray& pairs, const TableArray& tables,
                  const IntArray& truth, const ScoreArray& evidence, const py::kwargs& arguments) {
    Keywords keywords(arguments);
    const engine::SyntheticTask task = take_task(truth, evidence, keywords);
    const engine::SearchSettings settings = take_settings(keywords);
    keywords.check_all_taken();
    engine::ConstraintGraph graph =
        make_graph(static_cast<std::int32_t>(truth.size()), n_labels, pairs, tables);
    engine::SimulatedSearch found;
    {
        const py::gil_scoped_release unlocked;
        found = engine::simulate(std::move(graph), settings, task);
    }
    return to_dict(found);
}

}  // namespace

void bind_simulator(py::module_& module) {
    module.def("simulate", &simulate, py::arg("n_labels"), py::arg("pairs"), py::arg("tables"),
               py::arg("truth"), py::arg("evidence"));
    module.def("synthetic_scores", &synthetic_scores, py::arg("labels"), py::arg("truth"),
               py::arg("evidence"));
}

}  // namespace icm_fast
