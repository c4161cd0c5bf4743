#include "evaluation/results.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evaluation/interval.h"

namespace sparse_attention {
namespace {

// Distinct values in the order of their first appearance.
template <typename Value, typename Get>
std::vector<Value> Distinct(const std::vector<Cell>& cells, const Get& get) {
  std::vector<Value> values;
  for (const Cell& cell : cells) {
    const Value value = get(cell);
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
  return values;
}

std::string Percent(double share) {
  const double percent = 100 * share;
  return absl::StrFormat(percent < 9.95 && percent > 0 ? "%.1f %%" : "%.0f %%", percent);
}

std::string ErrorText(double error) {
  if (error == 0) return "0";
  return std::isfinite(error) ? absl::StrFormat("%.3f", error) : "inf";
}

// A column is as wide as its widest entry; the first is flush left, the others right.
std::string Aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - row[c].size(), ' ');
      absl::StrAppend(&text, c == 0 ? "  " : "   ", c == 0 ? row[c] + padding : padding + row[c]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

// The means over the cells of a row.
template <typename Get>
double MeanOf(const std::vector<const Cell*>& cells, const Get& get) {
  double sum = 0;
  for (const Cell* cell : cells) sum += get(*cell);
  return cells.empty() ? 0 : sum / static_cast<double>(cells.size());
}

}  // namespace

int64_t Cell::Accurate() const {
  return std::count_if(samples.begin(), samples.end(),
                       [](const SampleResult& s) { return s.score == 1; });
}

double Cell::Perplexity() const {
  double loss = 0;
  for (const SampleResult& s : samples) loss += s.score;
  return samples.empty() ? 0 : std::exp(loss / static_cast<double>(samples.size()));
}

double Cell::Mean(double SampleMeasurements::*member) const {
  double sum = 0;
  for (const SampleResult& s : samples) sum += s.measurements.*member;
  return samples.empty() ? 0 : sum / static_cast<double>(samples.size());
}

ErrorHistogram Cell::OutputError() const {
  ErrorHistogram all;
  for (const SampleResult& s : samples) all.Merge(s.measurements.output_error);
  return all;
}

double Cell::MsPerToken() const {
  double sum = 0;
  int timed = 0;
  for (const SampleResult& s : samples) {
    sum += s.ms_per_token;
    timed += s.ms_per_token > 0;
  }
  return timed == 0 ? 0 : sum / timed;
}

Json CellToJson(const Cell& cell) {
  const int64_t samples = static_cast<int64_t>(cell.samples.size());
  const bool perplexity = cell.task == kPerplexityTask;
  const Interval interval = WilsonInterval(perplexity ? 0 : cell.Accurate(), samples);
  const ErrorHistogram error = cell.OutputError();
  // JSON has no infinity.
  const auto number = [](double x) { return std::isfinite(x) ? Json(x) : Json("inf"); };
  Json json = {{"config", cell.config},
               {"engine", cell.engine},
               {"task", cell.task},
               {"context", cell.context}};
  json["samples"] = samples;
  json["accuracy"] =
      perplexity || samples == 0
          ? Json(nullptr)
          : Json(static_cast<double>(cell.Accurate()) / static_cast<double>(samples));
  json["accuracy_low"] = perplexity ? Json(nullptr) : Json(interval.low);
  json["accuracy_high"] = perplexity ? Json(nullptr) : Json(interval.high);
  json["perplexity"] = perplexity && samples > 0 ? Json(cell.Perplexity()) : Json(nullptr);
  json["density"] = cell.Mean(&SampleMeasurements::density);
  json["kv_bytes_fraction"] = cell.Mean(&SampleMeasurements::kv_bytes_fraction);
  json["index_bytes_fraction"] = cell.Mean(&SampleMeasurements::index_bytes_fraction);
  json["oracle"] = cell.oracle;
  json["output_error_mean"] = number(error.Mean());
  json["output_error_p95"] = number(error.Percentile(95));
  json["guarantee_unknown"] = cell.Mean(&SampleMeasurements::guarantee_unknown);
  json["ms_per_token"] = cell.MsPerToken();
  return json;
}

absl::Status WriteResults(const std::string& path, const std::vector<Cell>& cells) {
  Json list = Json::array();
  for (const Cell& cell : cells) list.push_back(CellToJson(cell));
  const std::string temporary = absl::StrCat(path, ".new");
  {
    std::ofstream file(temporary, std::ios::trunc);
    file << DumpJson(list, 2) << "\n";
    file.flush();
    if (!file) {
      return absl::UnavailableError(
          absl::StrCat(temporary, ": cannot be written: ", std::strerror(errno)));
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot be replaced: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

std::string ResultsTable(const std::vector<Cell>& cells) {
  const auto contexts = Distinct<int64_t>(cells, [](const Cell& c) { return c.context; });
  const auto tasks = Distinct<std::string>(cells, [](const Cell& c) { return c.task; });
  using Method = std::pair<std::string, std::string>;
  const auto methods =
      Distinct<Method>(cells, [](const Cell& c) { return Method(c.config, c.engine); });
  std::string text;
  for (int64_t context : contexts) {
    std::vector<std::vector<std::string>> rows(1);
    rows[0] = {"config", "engine"};
    rows[0].insert(rows[0].end(), tasks.begin(), tasks.end());
    for (const char* name :
         {"density", "KV read", "index read", "oracle", "error", "error p95", "tokens/s"}) {
      rows[0].push_back(name);
    }
    for (const Method& method : methods) {
      std::vector<const Cell*> row_cells;
      std::vector<std::string> row = {method.first, method.second};
      for (const std::string& task : tasks) {
        const auto found = std::find_if(cells.begin(), cells.end(), [&](const Cell& c) {
          return c.context == context && Method(c.config, c.engine) == method && c.task == task;
        });
        if (found == cells.end() || found->samples.empty()) {
          row.push_back("-");
          continue;
        }
        row_cells.push_back(&*found);
        row.push_back(
            task == kPerplexityTask
                ? absl::StrFormat("%.2f", found->Perplexity())
                : absl::StrFormat("%.2f", static_cast<double>(found->Accurate()) /
                                              static_cast<double>(found->samples.size())));
      }
      if (row_cells.empty()) continue;
      ErrorHistogram error;
      for (const Cell* cell : row_cells) error.Merge(cell->OutputError());
      const auto mean = [&](double SampleMeasurements::*member) {
        return MeanOf(row_cells, [&](const Cell& c) { return c.Mean(member); });
      };
      row.push_back(Percent(mean(&SampleMeasurements::density)));
      row.push_back(Percent(mean(&SampleMeasurements::kv_bytes_fraction)));
      row.push_back(Percent(mean(&SampleMeasurements::index_bytes_fraction)));
      row.push_back(row_cells[0]->oracle ? "yes" : "no");
      row.push_back(ErrorText(error.Mean()));
      row.push_back(ErrorText(error.Percentile(95)));
      const double ms = MeanOf(row_cells, [](const Cell& c) { return c.MsPerToken(); });
      row.push_back(ms > 0 ? absl::StrFormat("%.1f", 1e3 / ms) : "-");
      rows.push_back(std::move(row));
    }
    absl::StrAppend(&text, "context ", context, " tokens\n", Aligned(rows), "\n");
  }
  return text;
}

}  // namespace sparse_attention
