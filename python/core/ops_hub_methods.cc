// torch.ops.sparse_attention_hub.*: the arithmetic behind the single steps of methods that the
// Python hub's maskers offer beside add_mask: signatures, scores from codes, sample sizes, hashes.
#include <ATen/core/Tensor.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include <limits>
#include <optional>
#include <string>
#include <tuple>

#include "sparse_attention/config/enum_names.h"
#include "sparse_attention/key_index/bit_signature.h"
#include "sparse_attention/key_index/lookups.h"
#include "sparse_attention/key_index/lsh_tables.h"
#include "sparse_attention/key_index/mips_transform.h"
#include "sparse_attention/key_index/pq_codebook.h"
#include "sparse_attention/key_index/row_matmul.h"
#include "sparse_attention/key_index/sign_bits.h"
#include "sparse_attention/research_attention/maskers/sampling/adaptive_sampling.h"

namespace sparse_attention {
namespace {

double LowestOf(at::ScalarType type) {
  if (type == at::kHalf) return std::numeric_limits<c10::Half>::lowest();
  if (type == at::kBFloat16) return std::numeric_limits<c10::BFloat16>::lowest();
  if (type == at::kDouble) return std::numeric_limits<double>::lowest();
  return std::numeric_limits<float>::lowest();
}

// HashAttention.

HeadMlp MlpOf(const at::Tensor& x, at::TensorList weights, at::TensorList biases,
              const std::string& activation) {
  const std::optional<Activation> kind = EnumFromName<Activation>(activation);
  TORCH_CHECK_VALUE(kind.has_value(), "Unsupported activation function: ", activation,
                    ", must be one of ", EnumChoices<Activation>());
  TORCH_CHECK_VALUE(!weights.empty() && weights.size() == biases.size(),
                    "matrix_list and bias_list must have one entry or more, and as many of each, "
                    "got ",
                    weights.size(), " and ", biases.size());
  TORCH_CHECK_VALUE(x.dim() == 4, "input_tensor must be [batch, heads, n, dim], got ", x.sizes());
  HeadMlp mlp;
  mlp.activation = *kind;
  const int64_t heads = weights[0].dim() == 3 ? weights[0].size(0) : 0;
  int64_t width = x.size(3);
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK_VALUE(heads > 0 && weights[i].dim() == 3 && weights[i].size(0) == heads &&
                          weights[i].size(1) == width && biases[i].dim() == 2 &&
                          biases[i].size(0) == heads && biases[i].size(1) == weights[i].size(2),
                      "matrix_list[", i, "] and bias_list[", i, "] must be [heads, ", width,
                      ", out] and [heads, out], got ", weights[i].sizes(), " and ",
                      biases[i].sizes());
    width = weights[i].size(2);
    mlp.linears.push_back({weights[i].to(at::kFloat), biases[i].to(at::kFloat)});
  }
  TORCH_CHECK_VALUE(x.size(1) > 0 && heads % x.size(1) == 0, "input_tensor's ", x.size(1),
                    " heads must divide the ", heads, " heads of the weights");
  return mlp;
}

// -1, 0 or 1 in the type of x: x [batch, heads, n, dim] to [batch, heads, n, bits].
at::Tensor HashSigns(const at::Tensor& x, at::TensorList weights, at::TensorList biases,
                     const std::string& activation) {
  return MlpOutputs(MlpOf(x, weights, biases, activation), x).sign().to(x.scalar_type());
}

at::Tensor HashSignsMeta(const at::Tensor& x, at::TensorList weights, at::TensorList,
                         const std::string&) {
  return at::empty_symint({x.sym_size(0), weights[0].sym_size(0), x.sym_size(2),
                           weights[weights.size() - 1].sym_size(2)},
                          x.options());
}

// q . k + bias in the type of the queries, its lowest number where `previous` is not 0.
at::Tensor SignatureScores(const at::Tensor& queries, const at::Tensor& keys,
                           const std::optional<at::Tensor>& bias, const at::Tensor& previous) {
  at::Tensor scores = at::matmul(queries.to(at::kFloat), keys.to(at::kFloat).transpose(-2, -1));
  if (bias.has_value()) {
    scores = scores.add(bias->narrow_symint(-1, 0, keys.sym_size(-2)).to(at::kFloat));
  }
  const at::ScalarType type = queries.scalar_type();
  return scores.to(type).masked_fill(previous.ne(0), LowestOf(type));
}

// Words [..., w] of `width` bits each, lowest first, to -1 or 1 float32 [..., bits].
at::Tensor UnpackSigns(const at::Tensor& words, int64_t width, int64_t bits) {
  const at::Tensor wide = words.to(at::kLong);
  const at::Tensor shifts = at::arange(width, wide.options());
  const at::Tensor each = wide.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(1);
  return each.mul(2).sub(1).flatten(-2).narrow(-1, 0, bits).to(at::kFloat);
}

// PQCache.

void CheckPqShapes(const at::Tensor& queries, const at::Tensor& centroids,
                   const at::Tensor& codes) {
  TORCH_CHECK_VALUE(queries.dim() == 4 && centroids.dim() == 5 && codes.dim() == 4,
                    "queries must be [batch, heads, queries, dim], centroids [batch, KV heads, "
                    "parts, clusters, width] and codes [batch, n, KV heads, parts], got ",
                    queries.sizes(), ", ", centroids.sizes(), " and ", codes.sizes());
  const int64_t kv_heads = centroids.size(1), parts = centroids.size(2);
  TORCH_CHECK_VALUE(kv_heads > 0 && queries.size(1) % kv_heads == 0 && parts > 0 &&
                        queries.size(3) % parts == 0 &&
                        centroids.size(4) >= queries.size(3) / parts && codes.size(2) == kv_heads &&
                        codes.size(3) == parts && codes.size(0) == queries.size(0) &&
                        centroids.size(0) == queries.size(0),
                    "queries, centroids and codes do not fit: ", queries.sizes(), ", ",
                    centroids.sizes(), " and ", codes.sizes());
  if (!codes.is_cpu() || codes.numel() == 0) return;  // devices check what they gather
  const auto [lowest, highest] = codes.aminmax();
  TORCH_CHECK_VALUE(lowest.item<int64_t>() >= 0 && highest.item<int64_t>() < centroids.size(3),
                    "codes must be in [0, ", centroids.size(3), "), got ", lowest.item<int64_t>(),
                    " to ", highest.item<int64_t>());
}

// Products of queries with what codes stand for, [batch, heads, queries, n] in their type. A
// channel of the centroids beyond those of the queries does not count.
at::Tensor PqScores(const at::Tensor& queries, const at::Tensor& centroids,
                    const at::Tensor& codes) {
  CheckPqShapes(queries, centroids, codes);
  const int64_t batch = queries.size(0), heads = queries.size(1), rows = queries.size(2);
  const int64_t kv_heads = centroids.size(1), parts = centroids.size(2), n = codes.size(1);
  const int64_t width = queries.size(3) / parts;
  const at::Tensor q = queries.to(at::kFloat)
                           .reshape({batch, kv_heads, heads / kv_heads * rows, parts, width})
                           .transpose(2, 3);
  const at::Tensor of_width = centroids.to(at::kFloat).narrow(-1, 0, width).transpose(-2, -1);
  const at::Tensor tables = at::matmul(q, of_width).transpose(2, 3).contiguous();
  at::Tensor sums = at::zeros({batch, kv_heads, tables.size(2), n}, tables.options());
  AddLookups(tables, codes.permute({0, 2, 3, 1}).contiguous(), sums);
  return sums.view({batch, heads, rows, n}).to(queries.scalar_type());
}

at::Tensor PqScoresMeta(const at::Tensor& queries, const at::Tensor&, const at::Tensor& codes) {
  return at::empty_symint(
      {queries.sym_size(0), queries.sym_size(1), queries.sym_size(2), codes.sym_size(1)},
      queries.options());
}

// Adaptive sampling.

at::Tensor SampleDeviation(const at::Tensor& x, const at::Tensor& drawn) {
  return HubSampleDeviation(x.to(at::kFloat), drawn).to(x.scalar_type());
}

at::Tensor AdaptiveBudget(const at::Tensor& deviation, const at::Tensor& total, double quantile,
                          double epsilon, int64_t range) {
  return HubBudget(deviation.to(at::kFloat), total.to(at::kFloat), quantile, epsilon, range);
}

// MagicPIG.

using Pair = std::tuple<at::Tensor, at::Tensor>;

// keys [batch, heads, n, dim] and queries [batch, heads, m, dim] to unit vectors of dim + 1.
Pair ToSphere(const at::Tensor& keys, const at::Tensor& queries) {
  TORCH_CHECK_VALUE(keys.dim() == 4 && queries.dim() == 4 && keys.size(3) == queries.size(3),
                    "keys and queries must be [batch, heads, n, dim] of one dim, got ",
                    keys.sizes(), " and ", queries.sizes());
  const MipsTransform transform = MipsTransform::Fit(keys, /*centred=*/false, /*like_hub=*/true);
  return {transform.Keys(keys).to(keys.scalar_type()),
          transform.Queries(queries).to(queries.scalar_type())};
}

at::Tensor WiderByOne(const at::Tensor& x) {
  return at::empty_symint({x.sym_size(0), x.sym_size(1), x.sym_size(2), x.sym_size(3) + 1},
                          x.options());
}

Pair ToSphereMeta(const at::Tensor& keys, const at::Tensor& queries) {
  return {WiderByOne(keys), WiderByOne(queries)};
}

at::Tensor Unit(const at::Tensor& x) {
  constexpr double kTinyNorm = 1e-8;  // of a vector of zeros
  const at::Tensor wide = x.to(at::kFloat);
  return wide.div(at::linalg_vector_norm(wide, 2, {-1}, /*keepdim=*/true).add(kTinyNorm));
}

at::Tensor Collisions(const at::Tensor& keys, const at::Tensor& queries, int64_t bits,
                      int64_t tables) {
  const at::Tensor cosines = at::matmul(Unit(queries), Unit(keys).transpose(-2, -1));
  return CollisionProbability(cosines, bits, tables).to(queries.scalar_type());
}

// [..., queries, n] of keys [..., n, *] and queries [..., queries, *].
at::Tensor PairsMeta(const at::Tensor& keys, const at::Tensor& queries, at::ScalarType type) {
  c10::SymDimVector shape(queries.sym_sizes().begin(), queries.sym_sizes().end());
  shape.back() = keys.sym_size(-2);
  return at::empty_symint(shape, queries.options().dtype(type));
}

at::Tensor CollisionsMeta(const at::Tensor& keys, const at::Tensor& queries, int64_t, int64_t) {
  return PairsMeta(keys, queries, queries.scalar_type());
}

// The side of each plane that a vector lies on, -1, 0 or 1 float32: x [..., dim], planes [dim, m].
at::Tensor ProjectionSigns(const at::Tensor& x, const at::Tensor& planes) {
  TORCH_CHECK_VALUE(x.dim() >= 1 && planes.dim() == 2 && x.size(-1) == planes.size(0),
                    "projections must be [", x.dim() == 0 ? 0 : x.size(-1), ", bits], got ",
                    planes.sizes());
  return RowMatmul(x, planes.to(at::kFloat).contiguous()).sign();
}

at::Tensor ProjectionSignsMeta(const at::Tensor& x, const at::Tensor& planes) {
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  shape.back() = planes.sym_size(1);
  return at::empty_symint(shape, x.options().dtype(at::kFloat));
}

// Bits are 1 where signs [..., m * width] are above 0: int64 [..., m], the lowest bit first.
at::Tensor PackSigns(const at::Tensor& signs, int64_t width) {
  TORCH_CHECK_VALUE(width >= 1 && width <= 64, "bits of a table must be in [1, 64], got ", width);
  TORCH_CHECK_VALUE(signs.size(-1) % width == 0, "signs must be a multiple of ", width, ", got ",
                    signs.size(-1));
  return PackBits(signs.gt(0), width);
}

at::Tensor PackSignsMeta(const at::Tensor& signs, int64_t width) {
  c10::SymDimVector shape(signs.sym_sizes().begin(), signs.sym_sizes().end());
  shape.back() = shape.back() / width;
  return at::empty_symint(shape, signs.options().dtype(at::kLong));
}

// 1 where query and key have a word in common at one place: int32 [batch, heads, queries, n].
at::Tensor SharedBuckets(const at::Tensor& keys, const at::Tensor& queries) {
  TORCH_CHECK_VALUE(keys.dim() == 4 && queries.dim() == 4 && keys.size(3) == queries.size(3) &&
                        keys.scalar_type() == queries.scalar_type(),
                    "signatures must be [batch, heads, n, tables] of one type, got ", keys.sizes(),
                    " and ", queries.sizes());
  return ShareABucket(queries.transpose(2, 3), keys.transpose(2, 3).contiguous()).to(at::kInt);
}

at::Tensor SharedBucketsMeta(const at::Tensor& keys, const at::Tensor& queries) {
  return PairsMeta(keys, queries, at::kInt);
}

// The same for signs [batch, heads, n, tables * bits]: a 0 agrees with nothing.
at::Tensor SharedSigns(const at::Tensor& keys, const at::Tensor& queries, int64_t bits) {
  const int64_t width = keys.sym_size(-1).guard_int(__FILE__, __LINE__);
  TORCH_CHECK_VALUE(bits >= 1 && width >= bits && width % bits == 0,
                    "signs must be a positive multiple of ", bits, ", got ", width);
  at::Tensor shared;
  for (int64_t begin = 0; begin < width; begin += bits) {
    const at::Tensor agreeing =
        at::matmul(queries.narrow(-1, begin, bits), keys.narrow(-1, begin, bits).transpose(-2, -1))
            .eq(bits);
    shared = shared.defined() ? shared.logical_or(agreeing) : agreeing;
  }
  return shared.to(at::kInt);
}

void RegisterKernels(torch::Library& library) {
  library.impl("hash_signs", &HashSigns);
  library.impl("pq_scores", &PqScores);
  library.impl("mips_transform", &ToSphere);
  library.impl("collision_probability", &Collisions);
  library.impl("projection_signs", &ProjectionSigns);
  library.impl("pack_signs", &PackSigns);
  library.impl("shared_buckets", &SharedBuckets);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(sparse_attention_hub, library) {
  library.def("hash_signs(Tensor x, Tensor[] weights, Tensor[] biases, str activation) -> Tensor");
  library.def(
      "signature_scores(Tensor queries, Tensor keys, Tensor? bias, Tensor previous) -> "
      "Tensor",
      &SignatureScores);
  library.def("unpack_signs(Tensor words, int width, int bits) -> Tensor", &UnpackSigns);
  library.def("pq_scores(Tensor queries, Tensor centroids, Tensor codes) -> Tensor");
  library.def("pq_add_norm_channel(Tensor x, Tensor phi) -> Tensor", &AddNormChannel);
  library.def("sample_deviation(Tensor x, Tensor drawn) -> Tensor", &SampleDeviation);
  library.def(
      "adaptive_budget(Tensor deviation, Tensor total, float quantile, float epsilon, int range) "
      "-> Tensor",
      &AdaptiveBudget);
  library.def("mips_transform(Tensor keys, Tensor queries) -> (Tensor, Tensor)");
  library.def("collision_probability(Tensor keys, Tensor queries, int bits, int tables) -> Tensor");
  library.def("projection_signs(Tensor x, Tensor planes) -> Tensor");
  library.def("pack_signs(Tensor signs, int width) -> Tensor");
  library.def("shared_buckets(Tensor keys, Tensor queries) -> Tensor");
  library.def("shared_signs(Tensor keys, Tensor queries, int bits) -> Tensor", &SharedSigns);
}
TORCH_LIBRARY_IMPL(sparse_attention_hub, CPU, library) { RegisterKernels(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, CUDA, library) { RegisterKernels(library); }
TORCH_LIBRARY_IMPL(sparse_attention_hub, Meta, library) {
  library.impl("hash_signs", &HashSignsMeta);
  library.impl("pq_scores", &PqScoresMeta);
  library.impl("mips_transform", &ToSphereMeta);
  library.impl("collision_probability", &CollisionsMeta);
  library.impl("projection_signs", &ProjectionSignsMeta);
  library.impl("pack_signs", &PackSignsMeta);
  library.impl("shared_buckets", &SharedBucketsMeta);
}

}  // namespace sparse_attention
