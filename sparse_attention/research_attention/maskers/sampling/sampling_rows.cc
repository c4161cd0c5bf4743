#include "sparse_attention/research_attention/maskers/sampling/sampling_rows.h"

namespace sparse_attention {

void ForEachSamplingRow(const AttentionInputs& in, const at::Tensor& eligible, Selection selection,
                        const KeyRange& range,
                        const std::function<void(const SamplingRow&)>& visit) {
  const bool grouped = selection == Selection::kKvGroup;
  const int64_t heads_per_row = grouped ? in.group_size() : 1;
  const bool* flags = eligible.const_data_ptr<bool>();
  SamplingRow row;
  row.heads = heads_per_row;
  for (row.batch = 0; row.batch < in.batch(); ++row.batch) {
    for (row.first_head = 0; row.first_head < in.query_heads(); row.first_head += heads_per_row) {
      row.draw_head = grouped ? row.first_head / heads_per_row : row.first_head;
      for (row.query = 0; row.query < in.queries(); ++row.query) {
        const auto [begin, end] = range(row.query);
        row.candidates.clear();
        for (int64_t key = begin; key < end; ++key) {
          for (int64_t h = row.first_head; h < row.first_head + heads_per_row; ++h) {
            const int64_t index =
                ((row.batch * in.query_heads() + h) * in.queries() + row.query) * in.keys() + key;
            if (flags[index]) {
              row.candidates.push_back(key);
              break;
            }
          }
        }
        visit(row);
      }
    }
  }
}

PhiloxStream RowStream(const AttentionInputs& in, const SamplingRow& row, uint64_t seed,
                       RandomPurpose purpose) {
  return PhiloxStream(seed, purpose, static_cast<uint32_t>(in.layer),
                      static_cast<uint32_t>(row.draw_head),
                      static_cast<uint32_t>(in.query_position(row.query)));
}

void SetSampledWeights(const SamplingRow& row, const std::vector<int64_t>& keys, float weight,
                       const at::Tensor& eligible, at::Tensor& weights) {
  const int64_t heads = weights.size(1), queries = weights.size(2), width = weights.size(3);
  const bool* flags = eligible.const_data_ptr<bool>();
  float* data = weights.data_ptr<float>();
  for (int64_t h = row.first_head; h < row.first_head + row.heads; ++h) {
    const int64_t offset = ((row.batch * heads + h) * queries + row.query) * width;
    for (int64_t key : keys) {
      if (flags[offset + key]) data[offset + key] = weight;
    }
  }
}

}  // namespace sparse_attention
