// The Python module `icm_fast._core`: one bind_* function per type, nothing else.
#include "bindings/bindings.hpp"

PYBIND11_MODULE(_core, module) {
    module.doc() =
        "Native parts of icm_fast: annealing engine, leave-one-out planner, CPU decoder.";
    icm_fast::bind_cpu(module);
    icm_fast::bind_engine(module);
    icm_fast::bind_plan(module);
    icm_fast::bind_simulator(module);
}
