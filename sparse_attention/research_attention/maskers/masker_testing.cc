#include "sparse_attention/research_attention/maskers/masker_testing.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>

#include "sparse_attention/base/normal.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

at::Tensor Normal(at::IntArrayRef sizes, uint64_t seed, uint32_t stream_id, at::ScalarType type) {
  at::Tensor x = at::empty(sizes, at::kFloat);
  float* data = x.data_ptr<float>();
  PhiloxStream stream(seed, RandomPurpose::kTest, stream_id, 0, 0);
  for (int64_t i = 0; i < x.numel(); ++i) {
    data[i] = static_cast<float>(NormalPair(stream).first);
  }
  return x.to(type);
}

}  // namespace

int64_t LayerOfShape(const TestShape& s) { return (s.dim * 16 + s.kv_heads) * 16 + s.heads; }

AttentionInputs RandomInputs(const TestShape& s, uint64_t seed, at::ScalarType type) {
  AttentionInputs in;
  in.q = Normal({s.batch, s.heads, s.queries, s.dim}, seed, 0, type);
  in.k = Normal({s.batch, s.kv_heads, s.keys, s.dim}, seed, 1, type);
  in.v = Normal({s.batch, s.kv_heads, s.keys, s.dim}, seed, 2, type);
  return in;
}

AttentionInputs LayeredInputs(const TestShape& shape, uint64_t seed, at::ScalarType type) {
  AttentionInputs in = RandomInputs(shape, seed, type);
  in.layer = LayerOfShape(shape);
  return in;
}

AttentionInputs InputsWithLogits(const std::vector<std::vector<float>>& logits) {
  const int64_t queries = static_cast<int64_t>(logits.size());
  const int64_t keys = static_cast<int64_t>(logits[0].size());
  AttentionInputs in;
  // Query i is the i-th unit vector, so that channel i of the keys holds its logits.
  in.q = at::eye(queries).view({1, 1, queries, queries}).clone();
  in.k = at::empty({1, 1, keys, queries}, at::kFloat);
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) in.k[0][0][j][i].fill_(logits[i][j]);
  }
  in.v = at::arange(keys).to(at::kFloat).view({1, 1, keys, 1}).clone();
  in.scale = 1;
  return in;
}

std::vector<int64_t> ActiveKeys(const Mask& mask, int64_t batch, int64_t head, int64_t query) {
  const at::Tensor row = mask.ToActive()[batch][head][query].nonzero().flatten().contiguous();
  return {row.const_data_ptr<int64_t>(), row.const_data_ptr<int64_t>() + row.numel()};
}

std::string MaskRow(const Mask& mask, int64_t batch, int64_t head, int64_t query) {
  const at::Tensor row = mask.ToDense()[batch][head][query].to(at::kCPU).contiguous();
  std::string text;
  for (int64_t j = 0; j < row.numel(); ++j) {
    const float weight = row.const_data_ptr<float>()[j];
    text += weight == 0 ? '.' : weight == 1 ? '1' : 's';
  }
  return text;
}

Mask MaskFromRows(const std::vector<std::string>& rows) {
  const int64_t queries = static_cast<int64_t>(rows.size());
  const int64_t keys = static_cast<int64_t>(rows[0].size());
  at::Tensor weights = at::zeros({1, 1, queries, keys}, at::kFloat);
  for (int64_t i = 0; i < queries; ++i) {
    for (int64_t j = 0; j < keys; ++j) {
      const char c = rows[i][j];
      weights[0][0][i][j].fill_(c == '1' ? 1 : c == 's' ? 0.25 : 0);
    }
  }
  return Mask::AdoptDense(weights);
}

Json ParsedJson(absl::string_view text) {
  absl::StatusOr<Json> json = ParseJson(text);
  SA_CHECK_OK(json);
  return *std::move(json);
}

}  // namespace sparse_attention
