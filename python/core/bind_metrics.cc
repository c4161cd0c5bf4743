#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "metric_logging/crc32c.h"
#include "metric_logging/jsonl_sink.h"
#include "metric_logging/memory_sink.h"
#include "metric_logging/metric.h"
#include "metric_logging/metric_sink.h"
#include "metric_logging/reader.h"
#include "python/core/bindings.h"
#include "python/core/status_error.h"

namespace py = pybind11;

namespace sparse_attention {
namespace {

using Release = py::call_guard<py::gil_scoped_release>;

py::dict ToDict(const MetricRecord& record) {
  py::dict entry;
  entry["metric"] = std::string(record.metric->name);
  entry["value"] = record.value;
  entry["layer"] = record.layer;
  entry["head"] = record.head;
  entry["query_position"] = record.query_position;
  return entry;
}

py::dict ToDict(const LoggedMetric& record) {
  py::dict entry;
  entry["timestamp"] = record.timestamp;
  entry["metric"] = record.metric;
  entry["value"] = record.value;
  entry["layer"] = record.layer;
  entry["head"] = record.head;
  entry["query_position"] = record.query_position;
  entry["masker"] = record.masker;
  entry["location"] = record.location;
  entry["metadata"] = DumpJson(record.metadata);
  entry["seq"] = record.seq;
  return entry;
}

const Metric& MetricOrThrow(const std::string& name) {
  const Metric* metric = FindMetric(name);
  if (metric == nullptr) throw StatusError(absl::NotFoundError("there is no metric " + name));
  return *metric;
}

}  // namespace

void BindMetrics(py::module_& module) {
  py::class_<MetricSink, std::shared_ptr<MetricSink>>(module, "MetricSink",
                                                      "Where an engine's measurements go.")
      .def(
          "flush", [](MetricSink& self) { ThrowIfError(self.Flush()); }, Release());
  py::class_<MemorySink, MetricSink, std::shared_ptr<MemorySink>>(
      module, "MemorySink", "Keeps every record in memory (about 200 bytes each).")
      .def(py::init<>())
      .def("clear", &MemorySink::Clear)
      .def("records",
           [](const MemorySink& self) {
             py::list records;
             for (const MetricRecord& record : self.records()) records.append(ToDict(record));
             return records;
           })
      .def(
          "mean",
          [](const MemorySink& self, const std::string& metric) {
            return ValueOrThrow(self.Mean(MetricOrThrow(metric)));
          },
          py::arg("metric"), "Mean of a metric's records; NotFoundError where there are none.");
  py::class_<JsonlSink, MetricSink, std::shared_ptr<JsonlSink>>(
      module, "JsonlSink", "Appends records to a file, a JSON object a line.")
      .def(py::init([](const std::string& path) {
             return std::shared_ptr<JsonlSink>(ValueOrThrow(JsonlSink::Open(path)));
           }),
           py::arg("path"), Release())
      .def(
          "close", [](JsonlSink& self) { ThrowIfError(self.Close()); }, Release());
  module.def(
      "metrics",
      [] {
        py::dict all;
        for (const Metric* metric : AllMetrics()) {
          all[py::str(std::string(metric->name))] = std::string(metric->summary);
        }
        return all;
      },
      "Names and summaries of every metric.");
  module.def(
      "read_metric_log",
      [](const std::string& path) {
        py::list records;
        for (const LoggedMetric& record : ValueOrThrow(ReadMetricLog(path))) {
          records.append(ToDict(record));
        }
        return records;
      },
      py::arg("path"), "All records of a log; a missing, torn or damaged log is an error.");
  module.def(
      "crc32c", [](const py::bytes& bytes) { return Crc32c(std::string(bytes)); }, py::arg("bytes"),
      "CRC-32C of some bytes.");
}

}  // namespace sparse_attention
