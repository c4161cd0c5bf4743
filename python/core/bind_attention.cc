#include <ATen/core/Tensor.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>

#include "python/core/bindings.h"
#include "python/core/status_error.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/attention/masked_attention.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

std::tuple<at::Tensor, at::Tensor> AsTuple(AttentionState state) {
  return {std::move(state.out), std::move(state.lse)};
}

}  // namespace

void BindAttention(py::module_& module) {
  py::class_<AttentionInputs>(module, "AttentionInputs",
                              "Queries, keys and values of one layer, and what shapes their "
                              "logits. The same inputs given to several functions share their "
                              "logits; use them for one step and from one thread.")
      .def(py::init([](at::Tensor queries, at::Tensor keys, at::Tensor values,
                       std::optional<at::Tensor> bias, std::optional<double> scale,
                       std::optional<double> softcap, std::optional<int64_t> sliding_window,
                       std::optional<at::Tensor> sink_logits, bool causal, int64_t layer,
                       std::optional<int64_t> first_query_position) {
             AttentionInputs in;
             in.q = std::move(queries);
             in.k = std::move(keys);
             in.v = std::move(values);
             in.bias = std::move(bias);
             in.scale = scale;
             in.softcap = softcap;
             in.sliding_window = sliding_window;
             in.sink_logits = std::move(sink_logits);
             in.causal = causal;
             in.layer = layer;
             in.first_query_position = first_query_position;
             in.memo = std::make_shared<LogitsMemo>();
             ThrowIfError(ValidateInputs(in));
             return in;
           }),
           py::arg("queries"), py::arg("keys"), py::arg("values"), py::kw_only(),
           py::arg("bias") = py::none(), py::arg("scale") = py::none(),
           py::arg("softcap") = py::none(), py::arg("sliding_window") = py::none(),
           py::arg("sink_logits") = py::none(), py::arg("causal") = false, py::arg("layer") = 0,
           py::arg("first_query_position") = py::none())
      .def_property_readonly("shape", [](const AttentionInputs& in) {
        const MaskShape s = in.mask_shape();
        return std::tuple(s.batch, s.heads, s.queries, s.keys);
      });
  module.def(
      "masked_attention",
      [](const AttentionInputs& in, const Mask& mask) {
        return AsTuple(Unwrapped([&] { return MaskedAttention(in, mask); }));
      },
      py::arg("inputs"), py::arg("mask"), Release(),
      "(out float32 [batch, heads, queries, value dim], lse float32 [batch, heads, queries]) over "
      "the keys of `mask`.");
  module.def(
      "dense_attention",
      [](const AttentionInputs& in) {
        return AsTuple(Unwrapped([&] { return DenseAttention(in); }));
      },
      py::arg("inputs"), Release(), "The same over all visible keys.");
  module.def(
      "masked_attention_weights",
      [](const AttentionInputs& in, const Mask& mask) {
        return Unwrapped([&] { return MaskedAttentionWeights(in, mask); });
      },
      py::arg("inputs"), py::arg("mask"), Release(),
      "Normalised weights, float32 [batch, heads, queries, keys].");
  module.def(
      "relative_output_error",
      [](const at::Tensor& out, const at::Tensor& dense) {
        return Unwrapped([&] { return RelativeOutputError(out, dense); });
      },
      py::arg("out"), py::arg("dense"), Release(),
      "||out - dense|| / ||dense|| of each row, float32 [batch, heads, queries].");
}

}  // namespace sparse_attention
