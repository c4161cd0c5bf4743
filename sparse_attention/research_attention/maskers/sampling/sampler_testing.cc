#include "sparse_attention/research_attention/maskers/sampling/sampler_testing.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <boost/math/distributions/binomial.hpp>
#include <cmath>
#include <numeric>

#include "sparse_attention/base/normal.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

double Normal(PhiloxStream& stream) { return NormalPair(stream).first; }

}  // namespace

int64_t BinomialUpperLimit(int64_t trials, double rate, double false_alarm) {
  const boost::math::binomial distribution(static_cast<double>(trials), rate);
  int64_t limit = static_cast<int64_t>(static_cast<double>(trials) * rate);
  while (boost::math::cdf(boost::math::complement(distribution, limit)) > false_alarm) ++limit;
  return limit;
}

std::vector<double> ScoreWeights(const std::string& distribution, int64_t keys) {
  std::vector<double> weights(keys);
  PhiloxStream stream(2024, RandomPurpose::kTest, 1, 0, 0);
  for (double& w : weights) {
    if (distribution == "uniform") {
      w = 1 - stream.Uniform();
    } else if (distribution == "lognormal_1") {
      w = std::exp(Normal(stream));
    } else if (distribution == "lognormal_2") {
      w = std::exp(2 * Normal(stream));
    } else if (distribution == "two_level") {
      w = stream.Uniform() < 0.1 ? 1 : 0.05;
    } else {
      SA_CHECK(distribution == "power_law");
      w = std::pow(1 - stream.Uniform(), -1 / 2.5);
    }
  }
  return weights;
}

AttentionInputs RepeatedRows(const std::vector<double>& weights, int64_t queries,
                             int64_t first_position, int64_t value_dim) {
  const int64_t keys = static_cast<int64_t>(weights.size());
  AttentionInputs in;
  in.q = at::ones({1, 1, queries, 1}, at::kFloat);
  in.k = at::zeros({1, 1, keys, 1}, at::kFloat);
  in.v = at::zeros({1, 1, keys, value_dim}, at::kFloat);
  PhiloxStream stream(2024, RandomPurpose::kTest, 2, 0, 0);
  float* k = in.k.data_ptr<float>();
  float* v = in.v.data_ptr<float>();
  for (int64_t j = 0; j < keys; ++j) k[j] = static_cast<float>(std::log(weights[j]));
  for (int64_t i = 0; i < keys * value_dim; ++i) v[i] = static_cast<float>(1 + Normal(stream));
  in.scale = 1;
  in.first_query_position = first_position;
  return in;
}

Mask HeaviestKept(const std::vector<double>& weights, int64_t queries, int64_t count) {
  std::vector<int64_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return weights[a] > weights[b]; });
  order.resize(count);
  at::Tensor dense = at::zeros({1, 1, queries, static_cast<int64_t>(weights.size())}, at::kFloat);
  dense.index_fill_(3, at::tensor(order, at::kLong), 1);
  return Mask::AdoptDense(dense);
}

}  // namespace sparse_attention
