// Declarations of the binding functions, one per type. Only csrc/bindings knows Python.
#pragma once

#include <pybind11/pybind11.h>

namespace icm_fast {

void bind_cpu(pybind11::module_& module);
void bind_engine(pybind11::module_& module);
void bind_plan(pybind11::module_& module);
void bind_simulator(pybind11::module_& module);

}  // namespace icm_fast
