// What module.cc puts together: one function a file.
#ifndef PYTHON_CORE_BINDINGS_H_
#define PYTHON_CORE_BINDINGS_H_

#include <pybind11/pybind11.h>

namespace sparse_attention {

void BindMask(pybind11::module_& module);
void BindAttention(pybind11::module_& module);  // after BindMask
void BindMaskers(pybind11::module_& module);    // after BindAttention
void BindMetrics(pybind11::module_& module);
void BindEngines(pybind11::module_& module);  // after all of the above

}  // namespace sparse_attention

#endif  // PYTHON_CORE_BINDINGS_H_
