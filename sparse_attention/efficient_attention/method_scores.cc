#include "sparse_attention/efficient_attention/method_scores.h"

#include <ATen/ops/avg_pool1d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>

#include "sparse_attention/base/status.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/indexer_keys.h"
#include "sparse_attention/key_index/indexer_weights.h"
#include "sparse_attention/key_index/label_cache.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/quest_pages.h"
#include "sparse_attention/key_index/socket_planes.h"
#include "sparse_attention/key_index/tensor_array.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor Logits(const AttentionInputs& step) {
  const auto of_heads = [&](const at::Tensor& x) {
    return x.to(at::kDouble).repeat_interleave(step.group_size(), 1);
  };
  at::Tensor x = at::matmul(step.q.to(at::kDouble), of_heads(step.k).transpose(2, 3));
  x = x.mul(step.effective_scale());
  if (step.softcap.has_value()) x = x.div(*step.softcap).tanh().mul(*step.softcap);
  return x;
}

at::Tensor QuestScores(const Json& masker, const AttentionInputs& step) {
  const int64_t page_size = masker["page_size"];
  const QuestPages pages(step.k, page_size, masker.value("label_bits", 16));
  return pages.Scores(step.q).repeat_interleave(page_size, 3).narrow(3, 0, step.keys());
}

at::Tensor PqScores(const Json& masker, std::span<const AttentionInputs> steps) {
  const AttentionInputs& step = steps.back();
  PqOptions options;
  options.subvectors = masker["pq_group_factor"];
  options.bits = masker["pq_bits"];
  options.iterations = masker["kmeans_iter"];
  options.inner_product = masker["metric"] == "ip";
  options.layer = step.layer;
  const int64_t offset = masker["init_offset"];
  at::Tensor scores =
      at::zeros({step.batch(), step.query_heads(), step.queries(), step.keys()}, at::kFloat);
  // Trained on the first step that has enough keys; then the codebook follows the others, which
  // may train it again.
  std::optional<PqCodebook> codebook;
  int64_t covered = 0;
  for (const AttentionInputs& s : steps) {
    const int64_t count = s.keys() - offset;
    if (!codebook.has_value()) {
      if (count <= int64_t{1} << options.bits) continue;
      codebook.emplace(s.k.narrow(2, offset, count), options);
    } else {
      codebook->Extend(s.k.narrow(2, offset, count), covered);
    }
    covered = count;
  }
  if (codebook.has_value()) scores.narrow(3, offset, covered).copy_(codebook->Scores(step.q));
  return scores;
}

at::Tensor LabelScores(const Json& masker, const AttentionInputs& step) {
  const auto file = ReadChannelFile(masker["sorted_channel_file"]);
  SA_CHECK_OK(file.status());
  const auto lists = file->Layer(step.layer, ChannelSelection::kQueryKey);
  SA_CHECK_OK(lists.status());
  const int64_t count = step.dim() / masker["group_factor"].get<int64_t>();
  at::Tensor channels = at::zeros({step.query_heads(), count}, at::kLong);
  int64_t* out = channels.data_ptr<int64_t>();
  for (const std::vector<int64_t>& list : *lists) out = std::copy_n(list.begin(), count, out);
  return LabelCache(step.k, channels, masker["label_bits"]).Scores(step.q);
}

at::Tensor IndexerScores(const Json& masker, const AttentionInputs& step) {
  const auto weights = IndexerWeights::Load(masker["weight_file"]);
  SA_CHECK_OK(weights.status());
  const auto layer = (*weights)->Layer(step.layer, step.query_heads(), step.kv_heads(), step.dim());
  SA_CHECK_OK(layer.status());
  const IndexerLayer tensors = {TensorOf((*layer)->query), TensorOf((*layer)->key),
                                TensorOf((*layer)->gate)};
  return IndexerKeys(step.k, tensors)
      .Scores(step.q)
      .unsqueeze(1)
      .expand({step.batch(), step.query_heads(), step.queries(), step.keys()});
}

at::Tensor SocketScores(const Json& masker, const AttentionInputs& step) {
  const int64_t bits = masker["K"], tables = masker["L"];
  const at::Tensor planes = TensorOf(SocketPlanes(tables, bits, step.dim()));
  const at::Tensor buckets =
      HashBuckets(step.k, planes, {.order = BitOrder::kHighestFirst, .zero_is_one = true});
  const at::Tensor a =
      at::matmul(step.q.to(at::kFloat), planes.flatten(0, 1).t())
          .tanh()
          .mul(1 / (std::sqrt(static_cast<double>(step.dim())) * masker.value("tau", 0.3)))
          .unflatten(-1, {tables, bits});
  const at::Tensor soft = SoftBuckets(a);  // [batch, heads, queries, tables, 2^bits]
  at::Tensor scores =
      at::zeros({step.batch(), step.query_heads(), step.queries(), step.keys()}, at::kDouble);
  for (int64_t t = 0; t < tables; ++t) {
    const at::Tensor of_heads = buckets.select(2, t)
                                    .to(at::kLong)
                                    .repeat_interleave(step.group_size(), 1)
                                    .unsqueeze(2)
                                    .expand(scores.sizes());
    scores.add_(soft.select(3, t).gather(3, of_heads));
  }
  const at::Tensor norms = step.v.to(at::kDouble).square().sum(-1).sqrt();
  return scores.mul(norms.repeat_interleave(step.group_size(), 1).unsqueeze(2));
}

int64_t VotingQueries(const Json& masker, const AttentionInputs& prompt) {
  return std::min({masker["window_size"].get<int64_t>(), prompt.queries(), prompt.keys()});
}

// What a prompt's last queries vote for, [batch, heads, 1, keys].
at::Tensor PromptVotes(const Json& pipeline, const Json& masker, const AttentionInputs& prompt) {
  const int64_t window = VotingQueries(masker, prompt), kernel = masker["kernel_size"];
  const at::Tensor logits = ComputeLogits(prompt).to(at::kDouble);
  const at::Tensor sums =
      logits.narrow(2, prompt.queries() - window, window).softmax(-1).nan_to_num(0).sum(2);
  const at::Tensor pooled = at::avg_pool1d(sums, {kernel}, {1}, {kernel / 2}).unsqueeze(2);
  at::Tensor votes = OfGroups(pooled, prompt, pipeline).clone();
  votes.narrow(3, prompt.keys() - window, window).fill_(votes.max());
  return votes;
}

// The end of the latest prompt.
const AttentionInputs& PromptOf(std::span<const AttentionInputs> steps) {
  const AttentionInputs* prompt = nullptr;
  for (const AttentionInputs& step : steps) {
    if (step.queries() == 0) continue;
    const bool continues = prompt != nullptr && step.queries() == 1 && prompt->keys() < step.keys();
    if (!continues) prompt = &step;
  }
  SA_CHECK(prompt != nullptr);
  return *prompt;
}

// Keys behind the prompt score highest.
at::Tensor SnapKvScores(const Json& pipeline, const Json& masker,
                        std::span<const AttentionInputs> steps) {
  const at::Tensor votes = PromptVotes(pipeline, masker, PromptOf(steps));
  const AttentionInputs& step = steps.back();
  at::Tensor scores = at::empty({votes.size(0), votes.size(1), 1, step.keys()}, at::kDouble);
  scores.fill_(votes.max());
  scores.narrow(3, 0, votes.size(3)).copy_(votes);
  return scores.expand({-1, -1, step.queries(), -1});
}

}  // namespace

at::Tensor MethodScores(const Json& pipeline, const Json& masker,
                        std::span<const AttentionInputs> steps) {
  const std::string type = masker["type"];
  const AttentionInputs& step = steps.back();
  if (type == "snap_kv") return SnapKvScores(pipeline, masker, steps);
  if (type == "lightning_indexer") return IndexerScores(masker, step);
  at::Tensor scores;
  if (type == "oracle_top_k") scores = Logits(step);
  if (type == "quest_top_k") scores = QuestScores(masker, step);
  if (type == "pq_cache") scores = PqScores(masker, steps);
  if (type == "double_sparsity_top_k") scores = LabelScores(masker, step);
  if (type == "socket_top_k") scores = SocketScores(masker, step);
  SA_CHECK(scores.defined());
  return OfGroups(scores.to(at::kDouble), step, pipeline);
}

at::Tensor FarFromLastVote(const Json& pipeline, const Json& masker,
                           std::span<const AttentionInputs> steps) {
  const AttentionInputs &prompt = PromptOf(steps), &step = steps.back();
  const at::Tensor votes = PromptVotes(pipeline, masker, prompt);
  at::Tensor far = at::ones({votes.size(0), votes.size(1), 1, step.keys()}, at::kBool);
  const int64_t candidates = prompt.keys() - VotingQueries(masker, prompt);
  const int64_t kept = HeavySize(masker).Resolve(prompt.keys());
  if (kept > 0 && kept < candidates) {
    const at::Tensor of_candidates = votes.narrow(3, 0, candidates);
    const at::Tensor last = std::get<0>(of_candidates.topk(kept)).amin(-1, true);
    const double rounding = 1e-5 * votes.abs().max().item<double>() + 1e-12;
    far.narrow(3, 0, candidates).copy_(of_candidates.sub(last).abs().gt(rounding));
  }
  return far.expand({-1, -1, step.queries(), -1});
}

Budget HeavySize(const Json& masker) {
  const Json& size = masker["heavy_size"];
  return size.is_number_integer() ? Budget::Count(size.get<int64_t>())
                                  : Budget::Fraction(size.get<double>());
}

at::Tensor OfGroups(const at::Tensor& x, const AttentionInputs& step, const Json& pipeline) {
  if (pipeline["selection"] == "query_head") return x;
  const at::Tensor heads = x.unflatten(1, {step.kv_heads(), step.group_size()});
  const std::string reduce = pipeline["group_reduce"];
  const at::Tensor one = reduce == "max"   ? heads.amax(2)
                         : reduce == "sum" ? heads.sum(2)
                                           : heads.mean(2);
  return one.repeat_interleave(step.group_size(), 1);
}

at::Tensor NotTopP(const at::Tensor& selected, const at::Tensor& held, const AttentionInputs& step,
                   const Json& pipeline, const Json& masker, double rounding) {
  const double top_p = masker["top_p"];
  const bool total = masker["coverage"] == "total";
  at::Tensor logits = ComputeLogits(step).to(at::kDouble);
  at::Tensor open = held.logical_not();
  if (const auto visible = VisibleKeys(step)) open = open.logical_and(*visible);
  if (!total) logits = logits.masked_fill(open.logical_not(), -kInfinity);
  const at::Tensor mass = logits.softmax(-1).nan_to_num(0);
  const at::Tensor of_set = OfGroups(mass, step, pipeline);
  const auto sum_of = [&](const at::Tensor& keys) { return at::where(keys, of_set, 0.).sum(-1); };
  const at::Tensor kept_before = OfGroups(at::where(open, 0., mass).sum(-1), step, pipeline);
  at::Tensor wanted = sum_of(open).mul(top_p);
  if (total) wanted = wanted.add(kept_before.mul(top_p - 1));
  const at::Tensor least = at::where(selected, of_set, kInfinity).amin(-1);
  const at::Tensor heavier = selected.logical_and(of_set.gt(least.mul(1 + rounding).unsqueeze(-1)));
  const at::Tensor left = at::where(open.logical_and(selected.logical_not()), of_set, -1.).amax(-1);
  const at::Tensor too_few = sum_of(selected).lt(wanted.sub(rounding));
  const at::Tensor too_many =
      selected.any(-1).logical_and(sum_of(heavier).gt(wanted.add(rounding)));
  const at::Tensor lighter =
      selected.any(-1).logical_and(left.gt(least.mul(1 + rounding).add(1e-30)));
  return too_few.logical_or(too_many).logical_or(lighter);
}

const MipsTransform& Spheres::Follow(const at::Tensor& keys) {
  const MipsTransform fitted = MipsTransform::Fit(keys, centred_, /*like_hub=*/false);
  if (!transform_.centre.defined()) return transform_ = fitted;
  const at::Tensor holds = transform_.Holds(keys);
  transform_.centre = at::where(holds, transform_.centre, fitted.centre);
  transform_.radius = at::where(holds, transform_.radius, fitted.radius);
  return transform_;
}

at::Tensor HashedCosines(const AttentionInputs& step, const MipsTransform& sphere, bool by_group) {
  at::Tensor x = step.q.to(at::kDouble);
  if (by_group) {
    x = x.div(x.square().sum(-1, true).sqrt()).unflatten(1, {step.kv_heads(), step.group_size()});
    x = x.sum(2).repeat_interleave(step.group_size(), 1);
  }
  const auto of_heads = [&](const at::Tensor& t) {
    return t.to(at::kDouble).repeat_interleave(step.group_size(), 1);
  };
  const at::Tensor from_centre = of_heads(step.k).sub(of_heads(sphere.centre));
  return at::matmul(x, from_centre.transpose(2, 3))
      .div(x.square().sum(-1, true).sqrt().mul(of_heads(sphere.radius)));
}

double CosineRounding(const AttentionInputs& step, bool by_group) {
  // Of an inner product in float32, of a group over its directions.
  return static_cast<double>(step.dim() + 8) * 0x1p-23 *
         (by_group ? static_cast<double>(step.group_size()) : 1);
}

}  // namespace sparse_attention
