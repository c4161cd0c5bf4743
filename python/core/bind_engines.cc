#include <ATen/core/Tensor.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "adapters/host_attention.h"
#include "python/core/bindings.h"
#include "python/core/sequence.h"
#include "python/core/session.h"
#include "python/core/status_error.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/research_attention/research_attention.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

PipelineConfig PipelineOrThrow(const std::string& json) {
  return ValueOrThrow(PipelineFromJson(ValueOrThrow(ParseJson(json))));
}

// Python holds objects that may change; these do not, hence a holder each.
struct Research {
  std::unique_ptr<const ResearchAttention> engine;
};
struct Host {
  std::shared_ptr<const HostAttention> engine;
};

}  // namespace

void BindEngines(py::module_& module) {
  py::class_<Research>(module, "ResearchAttention",
                       "The engine that defines what a pipeline means.")
      .def(py::init([](const std::string& json) {
             return Research{ValueOrThrow(ResearchAttention::Create(PipelineOrThrow(json)))};
           }),
           py::arg("json"), Release())
      .def("json",
           [](const Research& self) { return DumpJson(PipelineToJson(self.engine->config())); })
      .def(
          "run",
          [](const Research& self, const AttentionInputs& inputs, Session& session,
             MetricSink* sink) {
            const std::lock_guard lock(session.mutex);
            AttentionResult result = ValueOrThrow(self.engine->Run(inputs, &session.session, sink));
            return std::tuple(std::move(result.state.out), std::move(result.state.lse),
                              std::move(result.mask));
          },
          py::arg("inputs"), py::arg("session"), py::arg("sink") = nullptr, Release(),
          "(out, lse, mask) of one attention step.")
      .def(
          "prepare",
          [](const Research& self, const AttentionInputs& inputs, Session& session) {
            const std::lock_guard lock(session.mutex);
            ThrowIfError(self.engine->Prepare(inputs, &session.session));
          },
          py::arg("inputs"), py::arg("session"), Release(),
          "Builds the indexes over the keys of `inputs`, before any query of what follows.");

  py::class_<Host>(module, "HostAttention",
                   "What a host model calls: a pipeline, dense layers included.")
      .def(py::init([](const std::string& json) {
             return Host{ValueOrThrow(HostAttention::Create(PipelineOrThrow(json)))};
           }),
           py::arg("json"), Release())
      .def("json", [](const Host& self) { return DumpJson(PipelineToJson(self.engine->config())); })
      .def(
          "is_dense",
          [](const Host& self, int64_t layers, int64_t query_heads) {
            return self.engine->IsDense(layers, query_heads);
          },
          py::arg("layers"), py::arg("query_heads"))
      .def(
          "is_dense_layer",
          [](const Host& self, int64_t layer, int64_t query_heads) {
            return self.engine->IsDenseLayer(layer, query_heads);
          },
          py::arg("layer"), py::arg("query_heads"))
      .def("is_oracle", [](const Host& self) { return self.engine->IsOracle(); });

  py::class_<Sequence, std::shared_ptr<Sequence>>(
      module, "Sequence",
      "A pipeline, the session of one sequence (or one batch that starts together) and a sink. "
      "torch.ops.sparse_attention_hub.attend takes its `handle`.")
      .def(py::init([](const Host& attention, std::shared_ptr<MetricSink> sink) {
             return Sequence::Create(attention.engine, std::move(sink));
           }),
           py::arg("attention"), py::arg("sink") = nullptr)
      .def_property_readonly("handle", &Sequence::handle,
                             "int64 [2] on the host: a number and the steps taken.")
      .def_property_readonly("steps", &Sequence::steps)
      .def("prepare", &Sequence::Prepare, py::arg("inputs"), Release())
      .def("rewind", &Sequence::Rewind, Release())
      .def("reset", &Sequence::Reset, Release());
}

}  // namespace sparse_attention
