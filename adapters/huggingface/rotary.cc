#include "adapters/huggingface/rotary.h"

#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>

namespace sparse_attention {
namespace {

constexpr double kPi = 3.14159265358979323846;

// base^(-2i / dim), float32 as in transformers: the roundings are part of the trained model.
at::Tensor InverseFrequencies(double base, int64_t dim) {
  const at::Tensor exponent = at::arange(0, dim, 2, at::kLong).to(at::kFloat).div(dim);
  return at::pow(base, exponent).reciprocal();
}

// Low frequencies are divided by the factor, high ones kept, those between interpolated.
at::Tensor Llama3Frequencies(const RopeConfig& rope, int64_t dim) {
  const at::Tensor plain = InverseFrequencies(rope.theta, dim);
  const double length = static_cast<double>(rope.original_max_position_embeddings);
  const double longest = length / rope.low_freq_factor;
  const double shortest = length / rope.high_freq_factor;
  const at::Tensor wavelength = plain.reciprocal().mul(2 * kPi);
  const at::Tensor scaled = at::where(wavelength.gt(longest), plain.div(rope.factor), plain);
  const at::Tensor share = wavelength.reciprocal()
                               .mul(length)
                               .sub(rope.low_freq_factor)
                               .div(rope.high_freq_factor - rope.low_freq_factor);
  const at::Tensor smooth = share.neg().add(1).mul(scaled).div(rope.factor).add(share.mul(scaled));
  const at::Tensor between = wavelength.ge(shortest).logical_and(wavelength.le(longest));
  return at::where(between, smooth, scaled);
}

// Channels that turn often within the original length keep their frequency (extrapolation), slow
// ones are divided by the factor (interpolation), with a linear ramp over the channels between.
at::Tensor YarnFrequencies(const RopeConfig& rope, int64_t dim) {
  const double length = static_cast<double>(rope.original_max_position_embeddings);
  // The channel that makes so many turns.
  const auto channel = [&](double turns) {
    return static_cast<double>(dim) * std::log(length / (turns * 2 * kPi)) /
           (2 * std::log(rope.theta));
  };
  double low = channel(rope.beta_fast);
  double high = channel(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = at::arange(dim / 2, at::kFloat).sub(low).div(high - low).clamp(0, 1);
  const at::Tensor keep = ramp.neg().add(1);
  const at::Tensor plain = InverseFrequencies(rope.theta, dim);
  const at::Tensor interpolated = plain.reciprocal().mul(rope.factor).reciprocal();
  return interpolated.mul(keep.neg().add(1)).add(plain.mul(keep));
}

at::Tensor Frequencies(const RopeConfig& rope, int64_t dim) {
  switch (rope.type) {
    case RopeType::kDefault:
    case RopeType::kDynamic:  // at lengths up to the trained one
      return InverseFrequencies(rope.theta, dim);
    case RopeType::kLinear:
      return InverseFrequencies(rope.theta, dim).div(rope.factor);
    case RopeType::kLlama3:
      return Llama3Frequencies(rope, dim);
    case RopeType::kYarn:
      return YarnFrequencies(rope, dim);
  }
  return {};
}

}  // namespace

Rotary::Rotary(const RopeConfig& config, int64_t head_dim, at::Device device)
    : config_(config),
      head_dim_(head_dim),
      frequencies_(Frequencies(config, head_dim).to(device)) {}

at::Tensor Rotary::DynamicFrequencies(int64_t sequence_length) const {
  const double length = static_cast<double>(config_.original_max_position_embeddings);
  const double dim = static_cast<double>(head_dim_);
  const double stretch =
      config_.factor * static_cast<double>(sequence_length) / length - (config_.factor - 1);
  const double base = config_.theta * std::pow(stretch, dim / (dim - 2));
  return InverseFrequencies(base, head_dim_).to(frequencies_.device());
}

RotaryTable Rotary::Table(int64_t first_position, int64_t tokens, int64_t sequence_length,
                          at::ScalarType type) const {
  const bool stretched = config_.type == RopeType::kDynamic &&
                         sequence_length > config_.original_max_position_embeddings;
  const at::Tensor positions =
      at::arange(first_position, first_position + tokens, frequencies_.options());
  const at::Tensor angles =
      at::outer(positions, stretched ? DynamicFrequencies(sequence_length) : frequencies_);
  const double scaling = config_.AttentionScaling();
  return {angles.cos().mul_(scaling).to(type), angles.sin().mul_(scaling).to(type)};
}

void ApplyRotary(const at::Tensor& x, const RotaryTable& table, at::Tensor& out) {
  const int64_t half = x.size(3) / 2;
  const at::Tensor low = x.narrow(3, 0, half);
  const at::Tensor high = x.narrow(3, half, half);
  at::Tensor out_low = out.narrow(3, 0, half);
  at::Tensor out_high = out.narrow(3, half, half);
  at::sub_out(out_low, low.mul(table.cos), high.mul(table.sin));
  at::add_out(out_high, high.mul(table.cos), low.mul(table.sin));
}

}  // namespace sparse_attention
