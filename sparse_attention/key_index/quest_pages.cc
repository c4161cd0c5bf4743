#include "sparse_attention/key_index/quest_pages.h"

#include <ATen/Parallel.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/page_bounds.h"
#include "sparse_attention/key_index/pseudo_quantize.h"
#include "sparse_attention/key_index/tensor_rows.h"

namespace sparse_attention {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kGrainPages = 64;   // of a thread at least
constexpr int64_t kPieceKeys = 4096;  // converted to float32 at a time

// Bounds of pages of equal size, x [batch, heads, pages, keys of a page, dim].
std::pair<at::Tensor, at::Tensor> Bounds(const at::Tensor& keys) {
  const at::Tensor x = keys.to(at::kFloat);
  const at::Tensor finite = x.isfinite().all(-1, /*keepdim=*/true);
  at::Tensor low, high;
  if (finite.all().item<bool>()) {
    low = x.amin(3);
    high = x.amax(3);
  } else {
    low = at::where(finite, x, kInfinity).amin(3);
    high = at::where(finite, x, -kInfinity).amax(3);
    const at::Tensor none = finite.any(3).logical_not_();
    low.masked_fill_(none, 0);
    high.masked_fill_(none, 0);
  }
  return {low, high};
}

}  // namespace

void QuestPages::SetOnHost(int64_t page, const at::Tensor& keys) {
  const at::Tensor rows = AsElements(keys);
  const int64_t b = keys.size(0), heads = keys.size(1), n = keys.size(2), dim = keys.size(3);
  const int64_t pages = (n + page_size_ - 1) / page_size_ - page;
  at::Tensor low = at::empty({b, heads, pages, dim}, keys.options().dtype(at::kFloat));
  at::Tensor high = at::empty_like(low);
  float* const low_data = low.data_ptr<float>();
  float* const high_data = high.data_ptr<float>();
  const cpu::PageBoundsKernels kernels = cpu::PageBoundsKernelsFor(cpu::BestIsa());
  const int label_bits = static_cast<int>(label_bits_);
  at::parallel_for(0, b * heads * pages, kGrainPages, [&](int64_t begin, int64_t end) {
    std::vector<char> bounds(2 * dim * sizeof(float));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = (page + i % pages) * page_size_;
      const cpu::KeyRows all = KeyRowsOf(rows, i / pages / heads, i / pages % heads);
      cpu::RowView of_page;  // as page 0 of a view that begins at it
      of_page.base = all.Row(first);
      of_page.row_stride = all.row_stride;
      kernels.update(of_page, all.element, static_cast<int32_t>(dim), page_size_, label_bits, 0,
                     std::min(page_size_, n - first), bounds.data(), 0);
      const cpu::Element element = cpu::BoundsElement(all.element, label_bits);
      for (int64_t c = 0; c < dim; ++c) {
        high_data[i * dim + c] = cpu::ElementAt(bounds.data(), element, c);
        low_data[i * dim + c] = cpu::ElementAt(bounds.data(), element, dim + c);
      }
    }
  });
  min_.Set(page, low);
  max_.Set(page, high);
}

QuestPages::QuestPages(const at::Tensor& keys, int64_t page_size, int64_t label_bits)
    : page_size_(page_size), label_bits_(label_bits) {
  const at::Tensor none =
      at::zeros({keys.size(0), keys.size(1), 0, keys.size(3)}, keys.options().dtype(at::kFloat));
  min_.Set(0, none);
  max_.Set(0, none);
  Extend(keys, 0);
}

void QuestPages::Extend(const at::Tensor& keys, int64_t unchanged) {
  int64_t page = unchanged / page_size_;
  const auto set = [&](const at::Tensor& of_pages) {
    auto [low, high] = Bounds(of_pages);
    if (label_bits_ < 16) {
      low = PseudoQuantize(low, label_bits_);
      high = PseudoQuantize(high, label_bits_);
    }
    min_.Set(page, low);
    max_.Set(page, high);
    page += low.size(2);
  };
  const int64_t whole_pages = keys.size(2) / page_size_;
  if (page == whole_pages && keys.size(2) % page_size_ == 0) {  // nothing but a cut
    min_.Set(page, min_.view().narrow(2, 0, 0));
    max_.Set(page, max_.view().narrow(2, 0, 0));
  }
  if (keys.device().is_cpu()) {
    if (keys.size(2) > page * page_size_) SetOnHost(page, keys);
    return;
  }
  while (page < whole_pages) {
    const int64_t count =
        std::min(whole_pages - page, std::max<int64_t>(1, kPieceKeys / page_size_));
    set(keys.narrow(2, page * page_size_, count * page_size_).unflatten(2, {count, page_size_}));
  }
  if (const int64_t rest = keys.size(2) - whole_pages * page_size_; rest > 0) {
    set(keys.narrow(2, whole_pages * page_size_, rest).unsqueeze(2));
  }
}

at::Tensor QuestPages::Scores(const at::Tensor& q) const {
  const at::Tensor rows = GroupRows(q.to(at::kFloat), min_.view().size(1));
  const at::Tensor scores = at::matmul(rows.clamp_min(0), max_.view().transpose(2, 3));
  scores.add_(at::matmul(rows.clamp_max(0), min_.view().transpose(2, 3)));
  return UngroupRows(scores, q.size(1));
}

}  // namespace sparse_attention
