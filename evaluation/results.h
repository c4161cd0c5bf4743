// Results: the cells of an evaluation, as JSON and as a table.
#ifndef EVALUATION_RESULTS_H_
#define EVALUATION_RESULTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "evaluation/journal.h"
#include "sparse_attention/config/json.h"

namespace sparse_attention {

inline constexpr char kPerplexityTask[] = "perplexity";

// One config on one task at one context length.
struct Cell {
  std::string config;
  std::string engine;  // "research" or "efficient"
  std::string task;
  int64_t context = 0;
  bool oracle = false;  // scoring reads all keys
  std::vector<SampleResult> samples;

  int64_t Accurate() const;  // samples whose every answer was found
  double Perplexity() const;
  double Mean(double SampleMeasurements::*member) const;
  ErrorHistogram OutputError() const;
  double MsPerToken() const;  // over the samples that were timed
};

// config, engine, task, context, samples, accuracy, accuracy_low, accuracy_high (null for
// perplexity), perplexity (null for other tasks), density, kv_bytes_fraction, index_bytes_fraction,
// oracle, output_error_mean, output_error_p95, guarantee_unknown, ms_per_token.
Json CellToJson(const Cell& cell);

// Replaces `path` as a whole, or not at all.
absl::Status WriteResults(const std::string& path, const std::vector<Cell>& cells);

// For people: for each context a row a config and engine, a column a task, and what the config
// costs and loses on average.
std::string ResultsTable(const std::vector<Cell>& cells);

}  // namespace sparse_attention

#endif  // EVALUATION_RESULTS_H_
