#include <ATen/core/Tensor.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "python/core/bindings.h"
#include "python/core/session.h"
#include "python/core/status_error.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/key_index/tensor_array.h"
#include "sparse_attention/research_attention/maskers/fixed/hash_attention_top_k.h"
#include "sparse_attention/research_attention/maskers/masker.h"
#include "sparse_attention/research_attention/maskers/registry.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

py::dict ToDict(const FieldDoc& doc) {
  py::dict field;
  field["name"] = doc.name;
  field["type"] = doc.type;
  field["default"] = doc.default_json;
  field["rule"] = doc.rule;
  field["doc"] = doc.doc;
  field["required"] = doc.required;
  return field;
}

// The type, traits and fields of every masker, for help texts and for tests of the Python configs.
py::list Descriptors() {
  py::list all;
  for (const MaskerDescriptor* descriptor : AllMaskers()) {
    py::dict entry;
    entry["type"] = descriptor->name;
    entry["sampling"] = descriptor->kind == MaskerKind::kSampling;
    entry["summary"] = descriptor->summary;
    entry["source"] = descriptor->source;
    py::list fields;
    for (const FieldDoc& field : descriptor->fields()) fields.append(ToDict(field));
    entry["fields"] = fields;
    all.append(entry);
  }
  return all;
}

std::string Written(const PipelineConfig& config, const std::string& model_folder) {
  return DumpJson(
      PipelineToJson(model_folder.empty() ? config : ResolveModelPaths(config, model_folder)));
}

template <typename E>
E EnumOrThrow(const std::string& name, const char* field) {
  const std::optional<E> value = EnumFromName<E>(name);
  if (value.has_value()) return *value;
  throw StatusError(absl::InvalidArgumentError(
      absl::StrCat(field, " must be ", EnumChoices<E>(), ", got \"", name, "\"")));
}

MaskerOptions OptionsOf(uint64_t seed, const std::string& selection,
                        const std::string& group_reduce) {
  return {.seed = seed,
          .selection = EnumOrThrow<Selection>(selection, "selection"),
          .group_reduce = EnumOrThrow<GroupReduce>(group_reduce, "group_reduce")};
}

}  // namespace

void BindMaskers(py::module_& module) {
  py::class_<Session, std::shared_ptr<Session>>(
      module, "Session",
      "What maskers remember of one sequence between steps. Never copied: a copy is a new, empty "
      "session, since indexes are rebuilt from the keys where they are missing.")
      .def(py::init<>())
      .def(
          "rewind",
          [](Session& self) {
            const std::lock_guard lock(self.mutex);
            self.session.Rewind();
          },
          Release(), "The sequence is cut back to what `prepare` was given.")
      .def(
          "reset",
          [](Session& self) {
            const std::lock_guard lock(self.mutex);
            self.session.Reset();
          },
          Release(), "Forgets everything: the next step starts a new sequence.")
      .def("__copy__", [](const Session&) { return std::make_shared<Session>(); })
      .def("__deepcopy__",
           [](const Session&, const py::dict&) { return std::make_shared<Session>(); })
      .def("__reduce__",
           [](const Session&) { return py::make_tuple(py::type::of<Session>(), py::tuple()); });

  py::class_<Masker>(module, "Masker", "One step of a pipeline; made from its JSON entry.")
      .def(py::init([](const std::string& json, uint64_t seed, const std::string& selection,
                       const std::string& group_reduce) {
             return ValueOrThrow(MaskerFromJson(ValueOrThrow(ParseJson(json)),
                                                OptionsOf(seed, selection, group_reduce)));
           }),
           py::arg("json"), py::kw_only(), py::arg("seed") = 42,
           py::arg("selection") = "query_head", py::arg("group_reduce") = "max", Release())
      .def_property_readonly("type", [](const Masker& self) { return self.descriptor().name; })
      .def("json", [](const Masker& self) { return DumpJson(self.ToJson()); })
      .def(
          "add_mask",
          [](const Masker& self, const AttentionInputs& inputs, const Mask& previous,
             Session* session, int64_t place) {
            if (session == nullptr) return ValueOrThrow(self.AddMask(inputs, previous, nullptr));
            const std::lock_guard lock(session->mutex);
            MaskerState* state = session->session.StateFor(inputs.layer, place, 0, self);
            return ValueOrThrow(self.AddMask(inputs, previous, state));
          },
          py::arg("inputs"), py::arg("previous"), py::arg("session") = nullptr,
          py::arg("place") = 0, Release(),
          "`previous` united with the keys that the masker selects. `place` tells apart the "
          "maskers "
          "that share a session.")
      .def(
          "tensors",
          [](const Masker& self, Session& session, int64_t layer, int64_t place) {
            const std::lock_guard lock(session.mutex);
            std::map<std::string, at::Tensor> tensors;
            for (const auto& [name, tensor] :
                 session.session.StateFor(layer, place, 0, self)->Tensors()) {
              if (tensor.defined()) tensors.emplace(name, tensor);
            }
            return tensors;
          },
          py::arg("session"), py::arg("layer"), py::arg("place") = 0, Release(),
          "What the masker remembers in `session` of a layer, by name; for reading only.");

  module.def(
      "hash_attention_masker",
      [](const std::string& json, const std::string& activation,
         const std::map<int64_t, std::map<std::string, at::Tensor>>& layers, uint64_t seed,
         const std::string& selection, const std::string& group_reduce) -> std::unique_ptr<Masker> {
        HashAttentionWeights::ArraysOfLayers arrays;
        for (const auto& [layer, tensors] : layers) {
          auto& of_layer = arrays[layer];
          for (const auto& [name, tensor] : tensors) of_layer.emplace(name, ArrayOf(tensor));
        }
        const auto config =
            ValueOrThrow(ConfigFromJson<HashAttentionTopKConfig>(ValueOrThrow(ParseJson(json))));
        return std::make_unique<HashAttentionTopK>(
            config, OptionsOf(seed, selection, group_reduce),
            ValueOrThrow(HashAttentionWeights::FromArrays(
                "hat_weights", EnumOrThrow<Activation>(activation, "hat_mlp_activation"),
                std::move(arrays))));
      },
      py::arg("json"), py::arg("activation"), py::arg("layers"), py::kw_only(),
      py::arg("seed") = 42, py::arg("selection") = "query_head", py::arg("group_reduce") = "max",
      Release(),
      "A hash_attention_top_k masker with weights from memory: layer -> \"query.0.weight\" and so "
      "on -> float32 tensor on the host.");
  module.def(
      "add_masks",
      [](const std::vector<const Masker*>& maskers, const std::vector<int64_t>& places,
         const AttentionInputs& inputs, Session& session) {
        const std::lock_guard lock(session.mutex);
        Mask mask = Mask::MakeEmpty(inputs.mask_shape(), inputs.q.device());
        for (size_t i = 0; i < maskers.size(); ++i) {
          MaskerState* state = session.session.StateFor(inputs.layer, places[i], 0, *maskers[i]);
          mask = ValueOrThrow(maskers[i]->AddMask(inputs, mask, state));
        }
        return mask;
      },
      py::arg("maskers"), py::arg("places"), py::arg("inputs"), py::arg("session"), Release(),
      "add_mask of each masker in turn, from an empty mask on.");
  module.def(
      "check_masker",
      [](const std::string& json) {
        const Json entry = ValueOrThrow(ParseJson(json));
        const std::string type = entry.value("type", "");
        ThrowIfError(ValueOrThrow(FindMasker(type))->check(entry));
      },
      py::arg("json"), Release(),
      "Checks the fields of a masker's entry; files that it names are not opened.");
  module.def("masker_descriptors", &Descriptors);
  module.def(
      "read_pipeline",
      [](const std::string& json, const std::string& model_folder) {
        return Written(ValueOrThrow(PipelineFromJson(ValueOrThrow(ParseJson(json)))), model_folder);
      },
      py::arg("json"), py::arg("model_folder") = "", Release(),
      "Checks a pipeline, or a config dumped by the Python hub, and returns it as pipeline JSON; "
      "{model}/ in it becomes `model_folder` where that is given.");
  module.def(
      "read_pipeline_file",
      [](const std::string& path, const std::string& model_folder) {
        return Written(ValueOrThrow(PipelineFromFile(path)), model_folder);
      },
      py::arg("path"), py::arg("model_folder") = "", Release(), "The same of a file.");
}

}  // namespace sparse_attention
