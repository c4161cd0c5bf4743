#include "sparse_attention/efficient_attention/decode.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/base/torch_status.h"
#include "sparse_attention/config/check.h"
#include "sparse_attention/efficient_attention/cpu/part_keys.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/weighted_list.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k_list.h"

namespace sparse_attention {
namespace {

constexpr int64_t kMostKeys = std::numeric_limits<int32_t>::max();

absl::Status Unsupported(absl::string_view what, absl::string_view rule, const auto& got) {
  return absl::UnimplementedError(absl::StrCat(what, " ", rule, ", got ", got));
}

absl::Status CheckSupported(const AttentionInputs& in) {
  if (!in.q.device().is_cpu()) return Unsupported("q", "must be on the CPU", in.q.device().str());
  if (in.queries() != 1) return Unsupported("q", "must hold one query", in.queries());
  if (in.bias.has_value() || in.sliding_window.has_value() || in.first_query_position.has_value()) {
    return absl::UnimplementedError("bias, sliding_window and first_query_position must be absent");
  }
  for (const auto& [dim, name] : {std::pair{in.dim(), "dim"}, {in.value_dim(), "value dim"}}) {
    if (dim < 1 || dim > cpu::kMaxDim) {
      return Unsupported(name, absl::StrCat("must be in [1, ", cpu::kMaxDim, "]"), dim);
    }
  }
  if (in.group_size() > cpu::kMaxRows) {
    return Unsupported("query heads a KV head", absl::StrCat("must be <= ", cpu::kMaxRows),
                       in.group_size());
  }
  if (in.keys() > kMostKeys) return Unsupported("keys", "must be below 2^31", in.keys());
  // The kernels compute in float32.
  const float scale = static_cast<float>(in.effective_scale());
  if (!std::isfinite(scale) || scale == 0) {
    return RuleError("scale", "must be finite and not 0 in float32",
                     absl::StrCat(in.effective_scale()));
  }
  if (const float softcap = static_cast<float>(in.softcap.value_or(1));
      !std::isfinite(softcap) || softcap == 0) {
    return RuleError("softcap", "must be finite and > 0 in float32", absl::StrCat(*in.softcap));
  }
  return absl::OkStatus();
}

absl::Status CheckOnCpu(const at::Tensor& tensor, absl::string_view name) {
  if (tensor.device().is_cpu()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be on the device of q, cpu, got ", DescribeTensor(tensor)));
}

// Contiguous int64.
absl::StatusOr<at::Tensor> Integers(const at::Tensor& tensor, absl::string_view name) {
  SA_RETURN_IF_ERROR(CheckIndexType(tensor, name));
  SA_RETURN_IF_ERROR(CheckOnCpu(tensor, name));
  return tensor.to(at::kLong).contiguous();
}

struct Span {
  int64_t begin = 0, end = 0;  // keys
};

// ChosenKeys, checked and in the kernels' types.
struct Lists {
  std::vector<int64_t> lengths;  // [batch]
  std::vector<Span> ranges;      // [batch, range_count]
  int64_t range_count = 0;
  int64_t heads = 0;             // lists a sequence; 0: no lists
  at::Tensor indices, weights;   // int64, float32, contiguous; weights may be undefined
  std::vector<int64_t> offsets;  // [batch * heads + 1]

  std::span<const Span> RangesOf(int64_t sequence) const {
    return std::span(ranges).subspan(static_cast<size_t>(sequence * range_count),
                                     static_cast<size_t>(range_count));
  }

  cpu::RowList Of(int64_t list) const {
    const int64_t begin = offsets[static_cast<size_t>(list)];
    return {indices.const_data_ptr<int64_t>() + begin,
            weights.defined() ? weights.const_data_ptr<float>() + begin : nullptr,
            offsets[static_cast<size_t>(list) + 1] - begin};
  }
};

absl::Status ReadLengths(const AttentionInputs& in, const std::optional<at::Tensor>& given,
                         Lists& lists) {
  lists.lengths.assign(static_cast<size_t>(in.batch()), in.keys());
  if (!given.has_value()) return absl::OkStatus();
  SA_RETURN_IF_ERROR(CheckShape(*given, {in.batch()}, "lengths"));
  SA_ASSIGN_OR_RETURN(const at::Tensor lengths, Integers(*given, "lengths"));
  const int64_t* const data = lengths.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < in.batch(); ++s) {
    if (data[s] < 0 || data[s] > in.keys()) {
      return RuleError(absl::StrCat("lengths[", s, "]"),
                       absl::StrCat("must be in [0, ", in.keys(), "]"), absl::StrCat(data[s]));
    }
  }
  lists.lengths.assign(data, data + in.batch());
  return absl::OkStatus();
}

absl::Status ReadRanges(const AttentionInputs& in, const at::Tensor& given, Lists& lists) {
  SA_RETURN_IF_ERROR(CheckShape(given, {in.batch(), -1, 2}, "ranges"));
  SA_ASSIGN_OR_RETURN(const at::Tensor ranges, Integers(given, "ranges"));
  lists.range_count = ranges.size(1);
  const int64_t* data = ranges.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < in.batch(); ++s) {
    int64_t before = 0;
    for (int64_t i = 0; i < lists.range_count; ++i, data += 2) {
      const int64_t length = lists.lengths[static_cast<size_t>(s)];
      if (data[0] < before || data[1] < data[0] || data[1] > length) {
        return RuleError(
            absl::StrCat("ranges[", s, "][", i, "]"),
            absl::StrCat("must be [begin, end) with ", before, " <= begin <= end <= ", length,
                         ", from the end of the range before to the keys of its "
                         "sequence"),
            absl::StrCat("[", data[0], ", ", data[1], ")"));
      }
      lists.ranges.push_back({data[0], data[1]});
      before = data[1];
    }
  }
  return absl::OkStatus();
}

absl::Status ReadOffsets(const AttentionInputs& in, const at::Tensor& given, int64_t entries,
                         Lists& lists) {
  SA_RETURN_IF_ERROR(CheckShape(given, {-1}, "offsets"));
  const int64_t rows = given.size(0) - 1;
  lists.heads = rows == in.batch() * in.query_heads() ? in.query_heads() : in.kv_heads();
  if (rows != in.batch() * lists.heads) {
    return RuleError(
        "offsets",
        absl::StrCat("must have batch * query heads + 1 (", in.batch() * in.query_heads() + 1,
                     ") or batch * KV heads + 1 (", in.batch() * in.kv_heads() + 1, ") entries"),
        DescribeTensor(given));
  }
  SA_ASSIGN_OR_RETURN(const at::Tensor offsets, Integers(given, "offsets"));
  const int64_t* const data = offsets.const_data_ptr<int64_t>();
  if (data[0] != 0) return RuleError("offsets[0]", "must be 0", absl::StrCat(data[0]));
  for (int64_t i = 1; i <= rows; ++i) {
    if (data[i] < data[i - 1] || data[i] > entries) {
      return RuleError(absl::StrCat("offsets[", i, "]"),
                       absl::StrCat("must be in [", data[i - 1], ", ", entries,
                                    "], from the one before to the number of indices"),
                       absl::StrCat(data[i]));
    }
  }
  lists.offsets.assign(data, data + rows + 1);
  return absl::OkStatus();
}

// Sets the offsets of lists of one length.
absl::Status CutEvenly(const AttentionInputs& in, const at::Tensor& indices, Lists& lists) {
  SA_RETURN_IF_ERROR(CheckRank(indices, 3, "indices (without offsets)"));
  lists.heads = indices.size(1);
  if (indices.size(0) != in.batch() ||
      (lists.heads != in.query_heads() && lists.heads != in.kv_heads())) {
    return RuleError("indices",
                     absl::StrCat("must have shape [", in.batch(), ", ", in.query_heads(), " or ",
                                  in.kv_heads(), ", n]"),
                     DescribeTensor(indices));
  }
  lists.offsets.resize(static_cast<size_t>(in.batch() * lists.heads + 1));
  for (size_t i = 0; i < lists.offsets.size(); ++i) {
    lists.offsets[i] = static_cast<int64_t>(i) * indices.size(2);
  }
  return absl::OkStatus();
}

// "indices[3]" of flat lists, "indices[0][2][1]" otherwise.
std::string EntryName(absl::string_view name, const at::Tensor& tensor, int64_t entry) {
  if (tensor.dim() == 1) return absl::StrCat(name, "[", entry, "]");
  const int64_t n = tensor.size(2), list = entry / n;
  return absl::StrCat(name, "[", list / tensor.size(1), "][", list % tensor.size(1), "][",
                      entry % n, "]");
}

absl::Status CheckList(const Lists& lists, int64_t list) {
  const int64_t* const keys = lists.indices.const_data_ptr<int64_t>();
  const float* const weights =
      lists.weights.defined() ? lists.weights.const_data_ptr<float>() : nullptr;
  const int64_t sequence = list / lists.heads;
  const int64_t length = lists.lengths[static_cast<size_t>(sequence)];
  const std::span<const Span> ranges = lists.RangesOf(sequence);
  size_t range = 0;  // the first that does not end before the key
  int64_t before = -1;
  const int64_t end = lists.offsets[static_cast<size_t>(list) + 1];
  for (int64_t i = lists.offsets[static_cast<size_t>(list)]; i < end; ++i) {
    const auto error = [&](const auto&... rule) {
      return RuleError(EntryName("indices", lists.indices, i), absl::StrCat(rule...),
                       absl::StrCat(keys[i]));
    };
    if (keys[i] < 0 || keys[i] >= length) {
      return error("must be in [0, ", length, "), the keys of its sequence");
    }
    if (keys[i] <= before) {
      return error("must be above the index before it, ", before, " (ascending, none twice)");
    }
    while (range < ranges.size() && ranges[range].end <= keys[i]) ++range;
    if (range < ranges.size() && keys[i] >= ranges[range].begin) {
      return error("must not lie in a range, [", ranges[range].begin, ", ", ranges[range].end,
                   "), which would count it twice");
    }
    before = keys[i];
    if (weights != nullptr && !(std::isfinite(weights[i]) && weights[i] > 0)) {
      return RuleError(EntryName("inverse_probabilities", lists.weights, i),
                       "must be > 0 and finite in float32", absl::StrCat(weights[i]));
    }
  }
  return absl::OkStatus();
}

// The first list's error, whichever thread finds one.
absl::Status CheckLists(const Lists& lists) {
  constexpr int64_t kEntriesOfThread = 16384;
  const int64_t count = static_cast<int64_t>(lists.offsets.size()) - 1;
  std::atomic<int64_t> wrong = count;
  const int64_t grain = 1 + kEntriesOfThread * count / (1 + lists.offsets.back());
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    int64_t list = begin;
    while (list < end && CheckList(lists, list).ok()) ++list;
    if (list == end) return;
    int64_t seen = wrong;
    while (list < seen && !wrong.compare_exchange_weak(seen, list)) continue;
  });
  return wrong == count ? absl::OkStatus() : CheckList(lists, wrong);
}

absl::StatusOr<Lists> ReadLists(const AttentionInputs& in, const ChosenKeys& chosen) {
  Lists lists;
  SA_RETURN_IF_ERROR(ReadLengths(in, chosen.lengths, lists));
  if (chosen.ranges.has_value()) SA_RETURN_IF_ERROR(ReadRanges(in, *chosen.ranges, lists));
  if (!chosen.indices.has_value()) {
    for (const auto& [tensor, name] : {std::pair{&chosen.offsets, "offsets"},
                                       {&chosen.inverse_probabilities, "inverse_probabilities"}}) {
      if (tensor->has_value()) return RuleError(name, "needs indices", DescribeTensor(**tensor));
    }
    if (!chosen.ranges.has_value()) {
      lists.range_count = 1;
      for (const int64_t length : lists.lengths) lists.ranges.push_back({0, length});
    }
    return lists;
  }
  if (chosen.offsets.has_value()) {
    SA_RETURN_IF_ERROR(CheckShape(*chosen.indices, {-1}, "indices (with offsets)"));
    SA_RETURN_IF_ERROR(ReadOffsets(in, *chosen.offsets, chosen.indices->size(0), lists));
  } else {
    SA_RETURN_IF_ERROR(CutEvenly(in, *chosen.indices, lists));
  }
  SA_ASSIGN_OR_RETURN(lists.indices, Integers(*chosen.indices, "indices"));
  if (chosen.inverse_probabilities.has_value()) {
    const at::Tensor& given = *chosen.inverse_probabilities;
    SA_RETURN_IF_ERROR(
        CheckShape(given, chosen.indices->sizes().vec(), "inverse_probabilities (as indices)"));
    SA_RETURN_IF_ERROR(CheckFloating(given, "inverse_probabilities"));
    SA_RETURN_IF_ERROR(CheckOnCpu(given, "inverse_probabilities"));
    lists.weights = given.to(at::kFloat).contiguous();
  }
  SA_RETURN_IF_ERROR(CheckLists(lists));
  return lists;
}

cpu::Element ElementOf(at::ScalarType type) {
  return type == at::kFloat  ? cpu::Element::kFloat32
         : type == at::kHalf ? cpu::Element::kFloat16
                             : cpu::Element::kBFloat16;
}

at::Tensor WithRows(const at::Tensor& x) {
  return x.size(3) == 1 || x.stride(3) == 1 ? x : x.contiguous();
}

// A step: items, one a sequence and KV head, are cut into parts, which threads take, and whose
// states are merged in order.
class DecodeStep {
 public:
  DecodeStep(const AttentionInputs& in, const Lists& lists)
      : in_(in),
        lists_(lists),
        kernels_(cpu::AttentionKernelsFor(cpu::BestIsa())),
        q_(WithRows(in.q)),
        k_(WithRows(in.k)),
        v_(WithRows(in.v)),
        group_(in.group_size()),
        state_floats_(group_ * (in.value_dim() + 2)) {
    const int64_t items = group_ == 0 ? 0 : in.batch() * in.kv_heads();
    for (int64_t item = 0; item < items; ++item) {
      first_parts_.push_back(static_cast<int64_t>(parts_.size()));
      const int64_t length = lists.lengths[static_cast<size_t>(SequenceOf(item))];
      const int64_t part = cpu::PartKeys(RowsOf(item, length), length, length);
      int64_t begin = 0;
      do {
        parts_.push_back({item, begin, std::min(begin + part, length)});
        begin += part;
      } while (begin < length);
    }
    first_parts_.push_back(static_cast<int64_t>(parts_.size()));
    states_.resize(parts_.size() * static_cast<size_t>(state_floats_));
  }

  DecodeResult Run() {
    DecodeResult result = {
        at::empty({in_.batch(), in_.query_heads(), 1, in_.value_dim()}, in_.q.options()),
        at::empty({in_.batch(), in_.query_heads(), 1}, in_.q.options().dtype(at::kFloat))};
    at::parallel_for(0, static_cast<int64_t>(parts_.size()), 1, [&](int64_t begin, int64_t end) {
      std::unique_ptr<cpu::RowListScratch> scratch;
      if (lists_.heads != 0) {
        scratch = std::make_unique_for_overwrite<cpu::RowListScratch>();
      }
      for (int64_t part = begin; part < end; ++part) Attend(part, scratch.get());
    });
    at::Tensor sinks;
    if (in_.sink_logits.has_value()) sinks = in_.sink_logits->to(at::kFloat).contiguous();
    const int64_t row_bytes = in_.value_dim() * static_cast<int64_t>(in_.q.element_size());
    char* const out = static_cast<char*>(result.out.data_ptr());
    float* const lse = result.lse.data_ptr<float>();
    for (size_t item = 0; item + 1 < first_parts_.size(); ++item) {
      const cpu::RunningState state = StateOf(first_parts_[item]);
      for (int64_t part = first_parts_[item] + 1; part < first_parts_[item + 1]; ++part) {
        kernels_.merge(static_cast<int>(group_), static_cast<int>(in_.value_dim()), StateOf(part),
                       state);
      }
      const int64_t row = static_cast<int64_t>(item) * group_;
      const float* const sink =
          sinks.defined() ? sinks.const_data_ptr<float>() + row % in_.query_heads() : nullptr;
      kernels_.finish(static_cast<int>(group_), static_cast<int>(in_.value_dim()), state, sink,
                      ElementOf(in_.q.scalar_type()), out + row * row_bytes, row_bytes, lse + row);
    }
    return result;
  }

 private:
  struct Part {
    int64_t item, begin, end;  // positions
  };

  int64_t SequenceOf(int64_t item) const { return item / in_.kv_heads(); }

  // The lists that an item attends to: one, or one a row.
  bool shared() const { return lists_.heads == in_.kv_heads(); }
  cpu::RowList ListOf(int64_t item, int64_t row) const {
    return lists_.Of(shared() ? item : item * group_ + row);
  }

  // Rows of K that it reads at most.
  int64_t RowsOf(int64_t item, int64_t length) const {
    int64_t rows = 0;
    for (const Span& range : lists_.RangesOf(SequenceOf(item))) rows += range.end - range.begin;
    const int64_t lists = lists_.heads == 0 ? 0 : shared() ? 1 : group_;
    for (int64_t r = 0; r < lists; ++r) rows += ListOf(item, r).count;
    return std::min(rows, length);
  }

  cpu::RunningState StateOf(int64_t part) {
    float* const state = states_.data() + part * state_floats_;
    return {state, state + group_, state + 2 * group_, in_.value_dim()};
  }

  void Attend(int64_t index, cpu::RowListScratch* scratch) {
    const Part& part = parts_[static_cast<size_t>(index)];
    const int64_t sequence = SequenceOf(part.item), head = part.item % in_.kv_heads();
    const int64_t bytes = static_cast<int64_t>(q_.element_size());
    const auto base = [&](const at::Tensor& x, int64_t h) {
      return static_cast<const char*>(x.const_data_ptr()) +
             (sequence * x.stride(0) + h * x.stride(1)) * bytes;
    };
    cpu::AttentionProblem problem;
    problem.element = ElementOf(q_.scalar_type());
    problem.dim = static_cast<int32_t>(in_.dim());
    problem.value_dim = static_cast<int32_t>(in_.value_dim());
    problem.rows = static_cast<int32_t>(group_);
    problem.q = base(q_, head * group_);
    problem.q_stride = q_.stride(1) * bytes;
    problem.k.base = base(k_, head);
    problem.k.row_stride = k_.stride(2) * bytes;
    problem.v.base = base(v_, head);
    problem.v.row_stride = v_.stride(2) * bytes;
    problem.scale = static_cast<float>(in_.effective_scale());
    problem.softcap = static_cast<float>(in_.softcap.value_or(0));
    const cpu::RunningState state = StateOf(index);
    cpu::InitState(problem.rows, problem.value_dim, state);
    for (const Span& range : lists_.RangesOf(sequence)) {
      const int64_t begin = std::max(range.begin, part.begin);
      const int64_t end = std::min(range.end, part.end);
      if (begin < end) kernels_.attend_range(problem, begin, end, nullptr, nullptr, state);
    }
    if (lists_.heads == 0) return;
    if (shared()) {
      cpu::AttendSharedList(kernels_, problem, ListOf(part.item, 0).Within(part.begin, part.end),
                            *scratch, state);
    } else {
      cpu::RowList rows[cpu::kMaxRows];
      for (int64_t r = 0; r < group_; ++r) {
        rows[r] = ListOf(part.item, r).Within(part.begin, part.end);
      }
      cpu::AttendRowLists(kernels_, problem, rows, *scratch, state);
    }
  }

  const AttentionInputs& in_;
  const Lists& lists_;
  const cpu::AttentionKernels& kernels_;
  const at::Tensor q_, k_, v_;
  const int64_t group_, state_floats_;
  std::vector<Part> parts_;
  std::vector<int64_t> first_parts_;  // of each item, and the end
  std::vector<float> states_;         // of each part
};

}  // namespace

absl::StatusOr<DecodeResult> Decode(const AttentionInputs& in, const ChosenKeys& chosen) {
  SA_RETURN_IF_ERROR(ValidateInputs(in));
  SA_RETURN_IF_ERROR(CheckSupported(in));
  return CatchTorch([&]() -> absl::StatusOr<DecodeResult> {
    SA_ASSIGN_OR_RETURN(const Lists lists, ReadLists(in, chosen));
    return DecodeStep(in, lists).Run();
  });
}

absl::StatusOr<at::Tensor> ExactTopK(const at::Tensor& scores, int64_t k) {
  if (!scores.defined() || scores.dim() == 0) {
    return RuleError("scores", "must have at least one dimension", DescribeTensor(scores));
  }
  const at::ScalarType type = scores.scalar_type();
  if (type != at::kFloat && type != at::kHalf && type != at::kBFloat16) {
    return RuleError("scores", "must be float32, float16 or bfloat16", DescribeTensor(scores));
  }
  if (!scores.device().is_cpu()) {
    return Unsupported("scores", "must be on the CPU", scores.device().str());
  }
  const int64_t n = scores.size(-1);
  if (n > kMostKeys) return Unsupported("scores", "must have less than 2^31 a row", n);
  if (k < 0 || k > n) {
    return RuleError("k", absl::StrCat("must be in [0, ", n, "]"), absl::StrCat(k));
  }
  return CatchTorch([&]() -> absl::StatusOr<at::Tensor> {
    std::vector<int64_t> sizes = scores.sizes().vec();
    sizes.back() = k;
    at::Tensor indices = at::empty(sizes, scores.options().dtype(at::kLong));
    if (indices.numel() == 0) return indices;
    const at::Tensor rows = scores.to(at::kFloat).contiguous();
    const float* const from = rows.const_data_ptr<float>();
    int64_t* const to = indices.data_ptr<int64_t>();
    std::atomic<bool> no_memory = false;
    at::parallel_for(0, indices.numel() / k, 1, [&](int64_t begin, int64_t end) {
      cpu::TopKList top_k(cpu::BestIsa(), n);
      std::vector<uint32_t> selected(static_cast<size_t>(k));
      if (!top_k.ok()) no_memory = true;
      for (int64_t row = begin; row < end && top_k.ok(); ++row) {
        top_k.Select(from + row * n, n, k, nullptr, selected.data());
        std::copy(selected.begin(), selected.end(), to + row * k);
      }
    });
    if (no_memory) return absl::ResourceExhaustedError("no memory to select the highest scores");
    return indices;
  });
}

}  // namespace sparse_attention
