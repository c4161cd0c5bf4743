#include <ATen/core/Tensor.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "python/core/bindings.h"
#include "python/core/session.h"
#include "python/core/status_error.h"
#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/config/pipeline_config.h"
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
             MaskerOptions options;
             options.seed = seed;
             options.selection = EnumOrThrow<Selection>(selection, "selection");
             options.group_reduce = EnumOrThrow<GroupReduce>(group_reduce, "group_reduce");
             return ValueOrThrow(MaskerFromJson(ValueOrThrow(ParseJson(json)), options));
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
          "that share a session.");

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
