#include "sparse_attention/key_index/channel_calibration.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"

namespace sparse_attention {
namespace {

// For each row of float64 [heads, dim] the channels by falling value.
ChannelLists SortedChannels(const at::Tensor& importance) {
  const at::Tensor host = importance.contiguous();
  ChannelLists heads;
  for (int64_t h = 0; h < host.size(0); ++h) {
    const double* value = host.const_data_ptr<double>() + h * host.size(1);
    std::vector<int64_t>& channels = heads.emplace_back(host.size(1));
    std::iota(channels.begin(), channels.end(), 0);
    std::stable_sort(channels.begin(), channels.end(),
                     [value](int64_t a, int64_t b) { return value[a] > value[b]; });
  }
  return heads;
}

}  // namespace

void ChannelCalibration::AddRows(const at::Tensor& x, Sums* sums) {
  const at::Tensor magnitude = x.to(at::kDouble).abs();
  const at::Tensor finite = magnitude.isfinite().all(-1);
  skipped_rows_ += finite.numel() - finite.sum().item<int64_t>();
  const at::Tensor sum =
      magnitude.masked_fill(finite.logical_not().unsqueeze(-1), 0).sum(2).sum(0).to(at::kCPU);
  const at::Tensor rows = finite.to(at::kDouble).sum(2).sum(0).to(at::kCPU);
  sums->magnitude = sums->magnitude.defined() ? sums->magnitude.add(sum) : sum;
  sums->rows = sums->rows.defined() ? sums->rows.add(rows) : rows;
}

absl::Status ChannelCalibration::Add(const AttentionInputs& in) {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  const int64_t first = in.query_position(0);
  if (first < 0 || first + in.queries() > in.keys()) {
    return absl::InvalidArgumentError(
        absl::StrCat("queries to calibrate on must be at positions of keys, [0, ", in.keys(),
                     "), got [", first, ", ", first + in.queries(), ")"));
  }
  return CatchTorch([&]() -> absl::Status {
    LayerSums& sums = layers_[in.layer];
    if (sums.q.magnitude.defined()) {
      const at::Tensor &q = sums.q.magnitude, &k = sums.k.magnitude;
      SA_RETURN_IF_ERROR(Annotate(CheckShape(in.q, {-1, q.size(0), -1, q.size(1)}, "q"),
                                  absl::StrCat("layer ", in.layer)));
      SA_RETURN_IF_ERROR(Annotate(CheckShape(in.k, {-1, k.size(0), -1, k.size(1)}, "k"),
                                  absl::StrCat("layer ", in.layer)));
    }
    AddRows(in.q, &sums.q);
    AddRows(in.k.narrow(2, first, in.queries()), &sums.k);
    return absl::OkStatus();
  });
}

absl::StatusOr<at::Tensor> ChannelCalibration::Importance(int64_t layer,
                                                          ChannelSelection selection) const {
  const auto found = layers_.find(layer);
  if (found == layers_.end()) {
    return absl::NotFoundError(absl::StrCat("nothing was added for layer ", layer));
  }
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    const auto& [q_sums, k_sums] = found->second;
    for (const Sums* sums : {&q_sums, &k_sums}) {
      if (sums->rows.min().item<double>() > 0) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layer, ": ", sums == &q_sums ? "query head " : "KV head ",
                       sums->rows.argmin().item<int64_t>(), " has no finite row"));
    }
    const int64_t kv_heads = k_sums.rows.size(0);
    const int64_t group = q_sums.rows.size(0) / kv_heads;
    at::Tensor q = q_sums.magnitude.div(q_sums.rows.unsqueeze(-1));
    if (average_group_) {
      q = q.view({kv_heads, group, -1}).mean(1).repeat_interleave(group, 0);
    }
    const at::Tensor k =
        k_sums.magnitude.div(k_sums.rows.unsqueeze(-1)).repeat_interleave(group, 0);
    switch (selection) {
      case ChannelSelection::kQuery:
        return q;
      case ChannelSelection::kKey:
        return k;
      case ChannelSelection::kQueryKey:
        return q.mul(k);
    }
    return absl::InvalidArgumentError("no such channel selection");
  });
}

absl::StatusOr<ChannelFile> ChannelCalibration::Channels() const {
  ChannelFile file;
  for (const auto& [layer, sums] : layers_) {
    for (const auto& [selection, name] : EnumNames<ChannelSelection>::kTable) {
      SA_ASSIGN_OR_RETURN(const at::Tensor importance, Importance(layer, selection));
      SA_RETURN_IF_ERROR(file.Set(layer, selection, SortedChannels(importance)));
    }
  }
  return file;
}

}  // namespace sparse_attention
