// torch.ops.sparse_attention_hub.*: the arithmetic behind the utilities of the Python hub's index
// methods: quantisation, k-means and product quantisation, Quest's pages, Socket's hashes.
//
// Operators that are composed of LibTorch's alone have gradients and fake kernels by that; the
// others have Meta kernels here.
#include <ATen/core/Tensor.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "sparse_attention/key_index/k_means.h"
#include "sparse_attention/key_index/lookups.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/pseudo_quantize.h"

namespace sparse_attention {
namespace {

using Pair = std::tuple<at::Tensor, at::Tensor>;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr HashRule kSocketRule = {.order = BitOrder::kHighestFirst, .zero_is_one = true};

at::Tensor Quantized(const at::Tensor& x, int64_t bits) {
  return PseudoQuantize(x, bits).to(x.scalar_type());
}

// Quest.

// x [..., n] to [..., pages, page size], filled up with `filler` behind the end.
at::Tensor Pages(const at::Tensor& x, const c10::SymInt& page_size, const c10::SymInt& pages,
                 double filler) {
  const c10::SymInt rest = pages * page_size - x.sym_size(-1);
  const at::Tensor padded = at::constant_pad_nd_symint(x, {0, rest}, filler);
  return padded.unflatten_symint(-1, {pages, page_size});
}

// keys [batch, heads, n, dim] to (lowest, highest) [batch, heads, pages, dim].
Pair PageMinMax(const at::Tensor& keys, c10::SymInt page_size, c10::SymInt pages) {
  const at::Tensor channels = keys.transpose(2, 3);
  return {Pages(channels, page_size, pages, kInfinity).amin(-1).transpose(2, 3).contiguous(),
          Pages(channels, page_size, pages, -kInfinity).amax(-1).transpose(2, 3).contiguous()};
}

// Not as two products of matrices: 0 times an infinite bound must stay out of a sum.
at::Tensor PageScores(const at::Tensor& queries, const at::Tensor& low, const at::Tensor& high) {
  const at::Tensor q = queries.unsqueeze(3);
  return at::maximum(q.mul(low.unsqueeze(2)), q.mul(high.unsqueeze(2))).sum(-1);
}

// pages int64 [..., k] to 0 or 1 [..., n].
at::Tensor PagesToTokens(const at::Tensor& pages, c10::SymInt n, c10::SymInt page_size,
                         at::ScalarType type) {
  c10::SymDimVector shape(pages.sym_sizes().begin(), pages.sym_sizes().end());
  shape.back() = (n + page_size - 1) / page_size;
  const auto options = pages.options().dtype(type);
  const at::Tensor chosen = at::zeros_symint(shape, options)
                                .scatter(-1, pages, at::ones_symint(pages.sym_sizes(), options));
  shape.push_back(page_size);
  return chosen.unsqueeze(-1).expand_symint(shape).flatten(-2).narrow_symint(-1, 0, n).contiguous();
}

// 1 where a mask allows a key, of the mask's first n columns. A bool mask is true where it forbids.
at::Tensor AllowedKeys(const at::Tensor& mask, c10::SymInt n) {
  const at::Tensor columns = mask.narrow_symint(-1, 0, n);
  if (mask.scalar_type() == at::kBool) return columns.logical_not().to(at::kFloat);
  return columns.ge(0).to(mask.is_floating_point() ? mask.scalar_type() : at::kFloat);
}

// allowed [batch, heads, queries, n] to bool [batch, queries, pages]: any key for any head.
at::Tensor PagesValid(const at::Tensor& allowed, c10::SymInt page_size, c10::SymInt pages) {
  return Pages(allowed, page_size, pages, 0).amax(-1).amax(1).gt(0);
}

// k-means.

at::Tensor SquaredDistances(const at::Tensor& a, const at::Tensor& b) {
  return at::cdist(a.to(at::kFloat), b.to(at::kFloat), 2, /*compute_mode=*/2).square();
}

at::Tensor KMeansAssign(const at::Tensor& x, const at::Tensor& centroids) {
  TORCH_CHECK_VALUE(x.dim() == 3 && centroids.dim() == 3 && x.size(0) == centroids.size(0) &&
                        x.size(2) == centroids.size(2) && centroids.size(1) >= 1,
                    "vectors must be [groups, n, dim] and centroids [groups, clusters, dim], got ",
                    x.sizes(), " and ", centroids.sizes());
  return NearestCentroids(x.to(at::kFloat).contiguous(), centroids.to(at::kFloat).contiguous());
}

at::Tensor KMeansAssignMeta(const at::Tensor& x, const at::Tensor&) {
  return at::empty_symint({x.sym_size(0), x.sym_size(1)}, x.options().dtype(at::kLong));
}

// (means float32 [groups, clusters, dim], 0 of an empty cluster; counts [groups, clusters, 1]) of
// x [groups, n, dim] by codes [groups, n].
Pair KMeansMeans(const at::Tensor& x, const at::Tensor& codes, c10::SymInt clusters) {
  const at::Tensor wide = x.to(at::kFloat);
  const c10::SymInt groups = x.sym_size(0), dim = x.sym_size(2);
  const at::Tensor at_vectors = codes.unsqueeze(-1);
  const at::Tensor sums =
      at::zeros_symint({groups, clusters, dim}, wide.options())
          .scatter_add(1, at_vectors.expand_symint({groups, x.sym_size(1), dim}), wide);
  const at::Tensor counts =
      at::zeros_symint({groups, clusters, 1}, wide.options())
          .scatter_add(1, at_vectors, at::ones_symint(at_vectors.sym_sizes(), wide.options()));
  return {sums.div(counts.clamp_min(1)), counts};
}

// (the next centroids: the means, or vectors `drawn` [groups, clusters] where a cluster is empty;
// movement [groups], the lengths of all moves added up).
Pair KMeansSettle(const at::Tensor& x, const at::Tensor& means, const at::Tensor& counts,
                  const std::optional<at::Tensor>& drawn, const at::Tensor& previous) {
  at::Tensor next;
  if (drawn.has_value()) {
    const at::Tensor vectors =
        x.to(at::kFloat).gather(1, drawn->unsqueeze(-1).expand_symint(means.sym_sizes()));
    next = at::where(counts.eq(0), vectors, means);
  } else {
    next = means.clone();
  }
  const at::Tensor moved = next.sub(previous.to(at::kFloat));
  return {next, at::linalg_vector_norm(moved, 2, {-1}).sum(-1)};
}

// Product quantisation.

Pair InnerProductToL2(const at::Tensor& x) {
  const at::Tensor phi = SquaredRadius(x);
  return {AddNormChannel(x, phi), phi};
}

// float64 [3]: mean square, norm, and norm over that of the keys. keys [batch, heads, n, dim],
// centroids [batch, heads, subvectors, clusters, >= width], codes [batch, n, heads, subvectors].
at::Tensor ReconstructionError(const at::Tensor& keys, const at::Tensor& centroids,
                               const at::Tensor& codes, c10::SymInt width) {
  const at::Tensor of_vectors = codes.permute({0, 2, 3, 1}).unsqueeze(-1);
  c10::SymDimVector shape(of_vectors.sym_sizes().begin(), of_vectors.sym_sizes().end());
  shape.back() = width;
  const at::Tensor rebuilt = centroids.narrow_symint(-1, 0, width)
                                 .gather(3, of_vectors.expand_symint(shape))
                                 .permute({0, 1, 3, 2, 4})
                                 .flatten(3);
  const at::Tensor wide = keys.to(at::kDouble);
  const at::Tensor difference = wide.sub(rebuilt.to(at::kDouble));
  const at::Tensor norm = at::linalg_vector_norm(difference);
  const at::Tensor of_keys = at::linalg_vector_norm(wide);
  const at::Tensor relative =
      at::where(of_keys.gt(0), norm.div(of_keys), at::zeros({}, wide.options()));
  return at::stack({difference.square().mean(), norm, relative});
}

// Socket.

// All vectors of -1 and 1, the first coordinate slowest, -1 first: [bits, 2^bits] like `like`.
at::Tensor SignCorners(const at::Tensor& like, int64_t bits) {
  const auto options = like.options().dtype(at::kLong);
  const at::Tensor corners = at::arange(int64_t{1} << bits, options);
  const at::Tensor weights = at::arange(bits - 1, -1, -1, options).unsqueeze(1);
  return corners.unsqueeze(0).bitwise_right_shift(weights).bitwise_and(1).mul(2).sub(1).to(
      like.scalar_type());
}

// int16 up to 15 bits, as the hub has them; wider ones int32 and int64.
at::ScalarType CodeType(int64_t bits) {
  if (bits <= 15) return at::kShort;
  return bits <= 31 ? at::kInt : at::kLong;
}

// Bits [..., p] to the number of which the first bit is the highest: [...].
at::Tensor PackHighestFirst(const at::Tensor& bits) {
  const int64_t width = bits.sym_size(-1).guard_int(__FILE__, __LINE__);
  TORCH_CHECK_VALUE(width >= 1 && width <= 63, "bits must be 1 to 63 a number, got ", width);
  const at::Tensor weights =
      at::ones({}, bits.options().dtype(at::kLong))
          .bitwise_left_shift(at::arange(width - 1, -1, -1, bits.options().dtype(at::kLong)));
  return bits.ne(0).to(at::kLong).mul(weights).sum(-1).to(CodeType(width));
}

// x [batch, heads, n, dim], planes [tables, bits, dim] to [batch, heads, tables, n].
at::Tensor HardHash(const at::Tensor& x, const at::Tensor& planes) {
  TORCH_CHECK_VALUE(x.dim() == 4 && planes.dim() == 3 && planes.size(2) == x.size(3),
                    "tensor must be [batch, heads, n, dim] and planes [tables, bits, dim], got ",
                    x.sizes(), " and ", planes.sizes());
  TORCH_CHECK_VALUE(planes.size(1) >= 1 && planes.size(1) <= 63,
                    "planes must have 1 to 63 bits, got ", planes.size(1));
  return HashBuckets(x, planes.to(at::kFloat), kSocketRule).to(CodeType(planes.size(1)));
}

at::Tensor HardHashMeta(const at::Tensor& x, const at::Tensor& planes) {
  return at::empty_symint(
      {x.sym_size(0), x.sym_size(1), planes.sym_size(0), x.sym_size(2)},
      x.options().dtype(CodeType(planes.sym_size(1).guard_int(__FILE__, __LINE__))));
}

// queries [..., dim] to probabilities [..., tables, 2^bits] of the queries' type.
at::Tensor SoftHash(const at::Tensor& queries, const at::Tensor& planes, const at::Tensor& corners,
                    double tau) {
  const at::Tensor p = planes.to(at::kFloat);
  const at::Tensor sides = at::matmul(queries.to(at::kFloat), p.flatten(0, 1).transpose(0, 1))
                               .unflatten_symint(-1, {p.sym_size(0), p.sym_size(1)})
                               .tanh();
  const at::Tensor scale = at::ones({}, sides.options()).mul(queries.sym_size(-1)).sqrt();
  return at::matmul(sides.div(scale), corners.to(at::kFloat))
      .div(tau)
      .softmax(-1)
      .to(queries.scalar_type());
}

void CheckCollisions(const at::Tensor& probabilities, const at::Tensor& codes,
                     const at::Tensor& norms, const at::Tensor& allowed, int64_t m, int64_t block) {
  TORCH_CHECK_VALUE(probabilities.dim() == 5,
                    "q_probs must be [batch, heads, queries, tables, entries], got ",
                    probabilities.sizes());
  const at::IntArrayRef p = probabilities.sizes();
  TORCH_CHECK_VALUE(
      codes.dim() == 4 && codes.size(0) == p[0] && codes.size(1) == p[1] && codes.size(2) == p[3],
      "key_buckets shape mismatch: must be [batch, heads, tables, n] for q_probs ", p, ", got ",
      codes.sizes());
  const int64_t n = codes.size(3);
  TORCH_CHECK_VALUE(norms.sizes() == at::IntArrayRef({p[0], p[1], n}),
                    "v_mag shape mismatch: must be ", at::IntArrayRef({p[0], p[1], n}), ", got ",
                    norms.sizes());
  TORCH_CHECK_VALUE(allowed.sizes() == at::IntArrayRef({p[0], p[1], p[2], n}),
                    "allowed_bool shape mismatch: must be ", at::IntArrayRef({p[0], p[1], p[2], n}),
                    ", got ", allowed.sizes());
  TORCH_CHECK_VALUE(m >= 0 && m <= n, "M must be in [0, ", n, "], got ", m);
  TORCH_CHECK_VALUE(block >= 1, "block must be >= 1, got ", block);
  TORCH_CHECK_VALUE(at::isIntegralType(codes.scalar_type(), /*includeBool=*/false),
                    "key_buckets must be integers, got ", codes.scalar_type());
  if (!codes.is_cpu() || codes.numel() == 0) return;  // devices check what they gather
  const auto [lowest, highest] = codes.aminmax();
  TORCH_CHECK_VALUE(lowest.item<int64_t>() >= 0 && highest.item<int64_t>() < p[4],
                    "key_buckets must be in [0, ", p[4], "), got ", lowest.item<int64_t>(), " to ",
                    highest.item<int64_t>());
}

// The m highest of (sum over tables of probabilities at a key's code) * value norm among allowed
// keys, in blocks: (indices int64, scores float32) [batch, heads, queries, m], -inf where there are
// too few. probabilities [batch, heads, queries, tables, entries], codes [batch, heads, tables, n],
// norms [batch, heads, n], allowed bool [batch, heads, queries, n].
Pair TopCollisions(const at::Tensor& probabilities, const at::Tensor& codes,
                   const at::Tensor& norms, const at::Tensor& allowed, int64_t m, int64_t block) {
  CheckCollisions(probabilities, codes, norms, allowed, m, block);
  const at::Tensor tables = probabilities.to(at::kFloat).contiguous();
  const int64_t batch = tables.size(0), heads = tables.size(1), queries = tables.size(2);
  const int64_t n = codes.size(3);
  const auto shape = [&](int64_t last) {
    return std::vector<int64_t>{batch, heads, queries, last};
  };
  at::Tensor scores = at::empty(shape(0), tables.options());
  at::Tensor indices = at::empty(shape(0), tables.options().dtype(at::kLong));
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t length = std::min(block, n - begin);
    at::Tensor sums = at::zeros(shape(length), tables.options());
    AddLookups(tables, codes.narrow(3, begin, length).contiguous(), sums);
    sums.mul_(norms.narrow(2, begin, length).to(at::kFloat).unsqueeze(2));
    sums.masked_fill_(allowed.narrow(3, begin, length).logical_not(), -kInfinity);
    const at::Tensor positions = at::arange(begin, begin + length, indices.options());
    scores = at::cat({scores, sums}, -1);
    indices = at::cat({indices, positions.expand(shape(length))}, -1);
    const auto [best, places] = scores.topk(std::min(m, scores.size(-1)), -1);
    scores = best;
    indices = indices.gather(-1, places);
  }
  return {indices, scores};
}

Pair TopCollisionsMeta(const at::Tensor& probabilities, const at::Tensor&, const at::Tensor&,
                       const at::Tensor&, c10::SymInt m, c10::SymInt) {
  const c10::SymDimVector shape = {probabilities.sym_size(0), probabilities.sym_size(1),
                                   probabilities.sym_size(2), std::move(m)};
  return {at::empty_symint(shape, probabilities.options().dtype(at::kLong)),
          at::empty_symint(shape, probabilities.options().dtype(at::kFloat))};
}

void RegisterKernels(torch::Library& library) {
  library.impl("k_means_assign", &KMeansAssign);
  library.impl("socket_hard_hash", &HardHash);
  library.impl("socket_top_collisions", &TopCollisions);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def("pseudo_quantize(Tensor x, int bits) -> Tensor", &Quantized);

  library.def("quest_page_min_max(Tensor keys, SymInt page_size, SymInt pages) -> (Tensor, Tensor)",
              &PageMinMax);
  library.def("quest_page_scores(Tensor queries, Tensor low, Tensor high) -> Tensor", &PageScores);
  library.def(
      "quest_pages_to_tokens(Tensor pages, SymInt n, SymInt page_size, ScalarType dtype) -> Tensor",
      &PagesToTokens);
  library.def("quest_pages_valid(Tensor allowed, SymInt page_size, SymInt pages) -> Tensor",
              &PagesValid);
  library.def("allowed_keys(Tensor mask, SymInt n) -> Tensor", &AllowedKeys);

  library.def("squared_distances(Tensor a, Tensor b) -> Tensor", &SquaredDistances);
  library.def("k_means_assign(Tensor x, Tensor centroids) -> Tensor");
  library.def("k_means_means(Tensor x, Tensor codes, SymInt clusters) -> (Tensor, Tensor)",
              &KMeansMeans);
  library.def(
      "k_means_settle(Tensor x, Tensor means, Tensor counts, Tensor? drawn, Tensor previous) -> "
      "(Tensor, Tensor)",
      &KMeansSettle);
  library.def("pq_inner_product_to_l2(Tensor x) -> (Tensor, Tensor)", &InnerProductToL2);
  library.def(
      "pq_reconstruction_error(Tensor keys, Tensor centroids, Tensor codes, SymInt width) -> "
      "Tensor",
      &ReconstructionError);

  library.def("socket_corners(Tensor like, int bits) -> Tensor", &SignCorners);
  library.def("socket_pack_bits(Tensor bits) -> Tensor", &PackHighestFirst);
  library.def("socket_hard_hash(Tensor x, Tensor planes) -> Tensor");
  library.def(
      "socket_soft_hash(Tensor queries, Tensor planes, Tensor corners, float tau) -> Tensor",
      &SoftHash);
  library.def(
      "socket_top_collisions(Tensor probabilities, Tensor codes, Tensor norms, Tensor allowed, "
      "SymInt m, SymInt block) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) { RegisterKernels(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) { RegisterKernels(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, Meta, library) {
  library.impl("k_means_assign", &KMeansAssignMeta);
  library.impl("socket_hard_hash", &HardHashMeta);
  library.impl("socket_top_collisions", &TopCollisionsMeta);
}

}  // namespace sparse_attention
