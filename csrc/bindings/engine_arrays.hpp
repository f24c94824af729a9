// NumPy arrays of the engine: views of arguments, copies of results. For the thread that holds the
// GIL.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine/constraints.hpp"
#include "engine/labeling.hpp"

namespace icm_fast {

template <typename T>
using ContiguousArray = pybind11::array_t<T, pybind11::array::c_style | pybind11::array::forcecast>;
using IntArray = ContiguousArray<std::int32_t>;
using TableArray = ContiguousArray<std::uint8_t>;
using ScoreArray = ContiguousArray<float>;

// The elements in memory order; valid as long as the array.
template <typename T>
std::span<const T> view(const ContiguousArray<T>& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

template <typename T>
std::vector<T> to_vector(const ContiguousArray<T>& array) {
    return {array.data(), array.data() + array.size()};
}

// [n]
template <typename T>
pybind11::array_t<T> to_array(const std::vector<T>& values) {
    return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(values.size()), values.data());
}

// [n, n_labels]
inline pybind11::array_t<float> to_table(const std::vector<float>& scores, std::int32_t n_labels) {
    const auto columns = static_cast<pybind11::ssize_t>(n_labels);
    const auto rows = static_cast<pybind11::ssize_t>(scores.size()) / columns;
    return pybind11::array_t<float>({rows, columns}, scores.data());
}

// pairs: [m, 2]; tables: [m, n_labels, n_labels]. Throws std::invalid_argument where they are not.
inline engine::ConstraintGraph make_graph(std::int32_t n_examples, std::int32_t n_labels,
                                          const IntArray& pairs, const TableArray& tables) {
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

// labels: [n]. Throws std::invalid_argument, with the example at fault, for one outside
// -1 .. n_labels - 1.
inline void check_labels(const IntArray& labels, std::int64_t n_labels) {
    if (labels.ndim() != 1) throw std::invalid_argument("labels must be an int32 array [n]");
    std::int64_t example = 0;
    for (const std::int32_t label : view(labels)) {
        if (label < engine::kUnlabelled || label >= n_labels) {
            throw std::invalid_argument("the label of example " + std::to_string(example) + " is " +
                                        std::to_string(label) + ", outside -1 .. " +
                                        std::to_string(n_labels - 1));
        }
        ++example;
    }
}

}  // namespace icm_fast
