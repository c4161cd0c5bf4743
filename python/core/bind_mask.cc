#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "python/core/bindings.h"
#include "python/core/status_error.h"
#include "sparse_attention/mask/mask.h"
#include "sparse_attention/mask/mask_ops.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

MaskShape ShapeOf(const std::vector<int64_t>& sizes) {
  if (sizes.size() != 4) {
    throw StatusError(absl::InvalidArgumentError(absl::StrCat(
        "shape must be [batch, heads, queries, keys], got ", sizes.size(), " dimensions")));
  }
  return {sizes[0], sizes[1], sizes[2], sizes[3]};
}

}  // namespace

void BindMask(py::module_& module) {
  py::class_<Mask>(module, "Mask",
                   "Which keys each query attends to, and with what inclusion probability: an "
                   "immutable value of shape [batch, heads, queries, keys].")
      .def_static(
          "empty",
          [](const std::vector<int64_t>& shape, const at::Device& device) {
            return Mask::MakeEmpty(ShapeOf(shape), device);
          },
          py::arg("shape"), py::arg("device") = at::Device(at::kCPU))
      .def_static(
          "full",
          [](const std::vector<int64_t>& shape, const at::Device& device) {
            return Mask::MakeFull(ShapeOf(shape), device);
          },
          py::arg("shape"), py::arg("device") = at::Device(at::kCPU))
      .def_static(
          "from_dense",
          [](const at::Tensor& weights) {
            return Unwrapped([&] { return Mask::FromDense(weights); });
          },
          py::arg("weights"), Release())
      .def_static(
          "from_csr",
          [](const std::vector<int64_t>& shape, const at::Tensor& indptr, const at::Tensor& indices,
             const std::optional<at::Tensor>& weights) {
            return Unwrapped([&] {
              return Mask::FromCsr(ShapeOf(shape), indptr, indices, weights.value_or(at::Tensor()));
            });
          },
          py::arg("shape"), py::arg("indptr"), py::arg("indices"), py::arg("weights") = py::none(),
          Release())
      .def_property_readonly("shape",
                             [](const Mask& mask) {
                               const MaskShape& s = mask.shape();
                               return std::tuple(s.batch, s.heads, s.queries, s.keys);
                             })
      .def_property_readonly("device", [](const Mask& mask) { return mask.device(); })
      .def_property_readonly("is_empty", &Mask::is_empty)
      .def_property_readonly("is_full", &Mask::is_full)
      .def("to_dense", &Mask::ToDense, Release())
      .def("to_active", &Mask::ToActive, Release())
      .def(
          "to_csr",
          [](const Mask& mask) {
            const Mask::Csr csr = mask.ToCsr();
            return std::tuple(csr.indptr, csr.indices, csr.weights);
          },
          Release())
      .def("normalized", &Mask::Normalized, Release())
      .def("density", &Mask::Density, Release())
      .def(
          "union",
          [](const Mask& a, const Mask& b) { return Unwrapped([&] { return Union(a, b); }); },
          py::arg("other"), Release())
      .def("__repr__", &Mask::ToString);
}

}  // namespace sparse_attention
