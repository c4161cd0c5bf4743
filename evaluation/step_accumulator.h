// StepAccumulator: a MetricSink that averages what attention measured over the tokens, heads and
// layers of a sample.
#ifndef EVALUATION_STEP_ACCUMULATOR_H_
#define EVALUATION_STEP_ACCUMULATOR_H_

#include <cstdint>
#include <map>

#include "absl/types/span.h"
#include "evaluation/error_histogram.h"
#include "metric_logging/metric_sink.h"

namespace sparse_attention {

// What one sample cost and lost under one config. Every layer weighs the same, within a layer every
// token does.
struct SampleMeasurements {
  double density = 0;  // keys selected over keys visible
  double kv_bytes_fraction =
      0;  // distinct K and V rows read, united over a group's query heads, over all rows
  double index_bytes_fraction = 0;  // bytes that scoring reads over the bytes of K and V
  double guarantee_unknown = 0;     // share of rows whose sampling promise is not supported
  ErrorHistogram output_error;      // of every layer, head and token
};

// For one thread.
class StepAccumulator final : public MetricSink {
 public:
  SampleMeasurements Result() const;

 private:
  struct Average {
    double sum = 0;
    double weight = 0;
    void Add(double value, double times) { sum += value * times, weight += times; }
    double Value() const { return weight == 0 ? 0 : sum / weight; }
  };
  struct Layer {
    Average density, kv_rows, index_bytes, guarantee_unknown;
  };

  // A group is one step of one layer; it holds an output error for each of its rows.
  void DoRecord(absl::Span<const MetricRecord> records) override;

  std::map<int64_t, Layer> layers_;
  ErrorHistogram output_error_;
};

}  // namespace sparse_attention

#endif  // EVALUATION_STEP_ACCUMULATOR_H_
