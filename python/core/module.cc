// sparse_attention_hub._core: the C++ library for Python. Tensors cross without copies, errors
// become Python's (status_error.h), and the GIL is released around work. Operators for
// torch.compile are registered beside it, in ops_*.cc, as torch.ops.sparse_attention_hub.
#include <pybind11/eval.h>
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include "python/core/bindings.h"
#include "python/core/status_error.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

// A KeyError prints the repr of its argument; this one prints its message.
py::object MakeNotFoundError(py::module_& module) {
  py::dict scope;
  scope["__builtins__"] = py::module_::import("builtins");
  py::exec(R"(
class NotFoundError(KeyError):
    """A named thing (a masker, a file, a metric) does not exist."""

    __module__ = "sparse_attention_hub._core"

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""
)",
           scope);
  module.attr("NotFoundError") = scope["NotFoundError"];
  return scope["NotFoundError"];
}

PyObject* not_found_error = nullptr;  // lives as long as the interpreter

PyObject* ExceptionType(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return PyExc_ValueError;
    case absl::StatusCode::kNotFound:
      return not_found_error;
    case absl::StatusCode::kUnimplemented:
      return PyExc_NotImplementedError;
    default:
      return PyExc_RuntimeError;
  }
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Sparse attention in C++: masks, maskers, engines, metrics.";
  module.attr("torch_version") = TORCH_VERSION;  // that it was built with
  not_found_error = MakeNotFoundError(module).release().ptr();
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const StatusError& error) {
      PyErr_SetString(ExceptionType(error.status().code()), error.what());
    }
  });
  BindMask(module);
  BindAttention(module);
  BindMaskers(module);
  BindMetrics(module);
  BindEngines(module);
}

}  // namespace sparse_attention
