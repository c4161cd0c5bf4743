#include "sparse_attention/efficient_attention/generated_cases.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/random_tensors.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/base/tensor_check.h"
#include "sparse_attention/key_index/channel_file.h"
#include "sparse_attention/key_index/layer_file_testing.h"

namespace sparse_attention {
namespace {

constexpr const char* kMethods[] = {
    "sink",         "local",           "causal",
    "oracle_top_k", "oracle_top_p",    "hash_attention_top_k",
    "pq_cache",     "quest_top_k",     "double_sparsity_top_k",
    "socket_top_k", "snap_kv",         "lightning_indexer",
    "magic_pig",    "random_sampling", "adaptive_sampling",
};
constexpr int kSamplers = 3;  // the last ones
constexpr int kAllMethods = static_cast<int>(std::size(kMethods));

class Generator {
 public:
  Generator(uint64_t seed, const std::string& folder)
      : seed_(seed), random_(seed), folder_(folder) {}

  GeneratedCase Draw() {
    DrawValues();
    DrawInputs();
    DrawPipeline();
    const auto isas = cpu::SupportedIsas();
    result_.options.isa = isas[seed_ / kAllMethods % isas.size()];
    result_.options.threads = random_.Chance(0.25) ? 2 : 1;
    const bool best = result_.options.isa == cpu::BestIsa() && result_.options.padding.empty();
    result_.through_engine = best && random_.Chance(0.5);
    result_.prepared = random_.Chance(0.5);
    absl::StrAppend(&result_.text, ", ", cpu::IsaName(result_.options.isa), ", ",
                    result_.options.threads, " threads",
                    result_.through_engine ? ", through the engine" : "",
                    result_.prepared ? ", prepared" : "", "\n", result_.pipeline.dump());
    return std::move(result_);
  }

 private:
  void DrawValues() {
    // What a broken key makes of a sampler's budget or buckets is tested for each sampler alone.
    const bool sampled = Main() >= kAllMethods - kSamplers;
    const double u = random_.Real(0, sampled ? 0.92 : 1);
    result_.values = u < 0.5    ? Values::kNormal
                     : u < 0.7  ? Values::kWhole
                     : u < 0.78 ? Values::kConstant
                     : u < 0.92 ? Values::kUnseen
                                : Values::kBroken;
  }

  // The method that this case is about.
  int Main() const { return static_cast<int>(seed_ % kAllMethods); }

  at::ScalarType DrawType() {
    return random_.OneOf<at::ScalarType>({at::kFloat, at::kHalf, at::kBFloat16});
  }

  // As caches of [batch, tokens, heads, dim], or with room behind each row, hand them over.
  at::Tensor Strided(const at::Tensor& x) {
    const double u = random_.Real(0, 1);
    if (u < 0.3) return x.transpose(1, 2).contiguous().transpose(1, 2);
    if (u < 0.4) {
      at::Tensor wide =
          random_.Normal({x.size(0), x.size(1), x.size(2), x.size(3) + 8}, x.scalar_type());
      at::Tensor rows = wide.narrow(3, 0, x.size(3));
      rows.copy_(x);
      return rows;
    }
    return x;
  }

  void DrawInputs() {
    const at::ScalarType type = DrawType();
    int64_t batch = random_.Integer(1, 3), kv_heads = random_.Integer(1, 3);
    int64_t group = random_.OneOf<int64_t>({1, 2, 3, 4, 7, 8, 16});
    const double size = random_.Real(0, 1);
    const int64_t keys = size < 0.5    ? random_.Integer(1, 64)
                         : size < 0.8  ? random_.Integer(65, 400)
                         : size < 0.97 ? random_.Integer(401, 1200)
                                       : random_.Integer(1201, 3000);
    const int64_t dim = random_.Chance(0.3) ? random_.Integer(8, 256)
                                            : random_.OneOf<int64_t>({8, 16, 32, 64, 80, 128, 256});
    const int64_t value_dim = random_.Chance(0.6) ? dim : random_.Integer(1, 256);
    int64_t most_queries = random_.Chance(0.6) ? 1 : random_.Integer(2, 9);
    // Long sequences come with few rows, so that all cases take about the same time.
    while (batch * kv_heads * group * most_queries * keys * (dim + value_dim) > 6'000'000) {
      if (most_queries > 3) {
        most_queries = 3;
      } else if (batch > 1) {
        batch = 1;
      } else if (kv_heads > 1) {
        --kv_heads;
      } else if (group > 4) {
        group = 4;
      } else {
        break;
      }
    }
    const int64_t heads = kv_heads * group;
    AttentionInputs all;
    all.layer = random_.Integer(0, 3);
    at::Tensor k = random_.Normal({batch, kv_heads, keys, dim}, type);
    at::Tensor v = random_.Normal({batch, kv_heads, keys, value_dim}, type);
    const Values values = result_.values;
    if (values == Values::kWhole) {
      k = k.round();
      if (random_.Chance(0.5)) v = v.round();
    } else if (values == Values::kConstant) {
      k = k.narrow(2, 0, 1).expand(k.sizes()).contiguous();
      if (random_.Chance(0.5)) v = v.narrow(2, 0, 1).expand(v.sizes()).contiguous();
    }
    result_.text = absl::StrCat("SA_SEED=", seed_, ": values ", static_cast<int>(values), ", k ",
                                DescribeTensor(k), ", value dim ", value_dim, ", group ", group,
                                ", layer ", all.layer);
    std::string& text = result_.text;
    if (values == Values::kWhole) {
      all.scale = 0.5;
    } else if (random_.Chance(0.2)) {
      all.scale = random_.Real(-0.5, 0.5);
      absl::StrAppend(&text, ", scale ", *all.scale);
    }
    if (values != Values::kWhole && random_.Chance(0.15)) {
      all.softcap = random_.Real(0.5, 5);
      absl::StrAppend(&text, ", softcap ", *all.softcap);
    }
    if (random_.Chance(0.2)) {
      all.sink_logits = random_.Normal({heads}, type, 2);
      absl::StrAppend(&text, ", sinks");
    }
    const int64_t first = std::max<int64_t>(1, keys - random_.Integer(0, 4));
    const int64_t first_queries = std::min(first, most_queries);
    if (random_.Chance(values == Values::kUnseen ? 0.6 : 0.2)) {
      all.sliding_window = random_.Integer(1, keys);
      absl::StrAppend(&text, ", window ", *all.sliding_window);
    }
    if (values == Values::kUnseen) {
      // Hidden from the first query on: before the window, and the padding.
      const int64_t hidden =
          all.sliding_window.has_value()
              ? std::max<int64_t>(0, first - first_queries - *all.sliding_window + 1)
              : 0;
      Spoil(k.narrow(2, 0, hidden));
      Spoil(v.narrow(2, 0, hidden));
      if (hidden == 0 || random_.Chance(0.5)) {
        for (int64_t s = 0; s < batch; ++s) {
          const int64_t padding = random_.Chance(0.05) ? first : random_.Integer(0, first / 2);
          result_.options.padding.push_back(padding);
          Spoil(k.select(0, s).narrow(1, 0, padding), /*every_row=*/true);
          Spoil(v.select(0, s).narrow(1, 0, padding));
        }
        absl::StrAppend(&text, ", padding ", absl::StrJoin(result_.options.padding, " "));
      }
    } else if (values == Values::kBroken) {
      const double nan = std::numeric_limits<double>::quiet_NaN();
      if (random_.Chance(0.5)) random_.Plant(k, nan, random_.Integer(1, 3));
      // Where a logit is infinite, values of other keys have a weight of exactly 0: a NaN of theirs
      // may show or not.
      if (random_.Chance(0.5)) {
        random_.Plant(v, nan, random_.Integer(1, 3));
      } else {
        random_.Plant(k, std::numeric_limits<double>::infinity(), random_.Integer(1, 3));
      }
    }
    all.k = Strided(k);
    all.v = Strided(v);
    DrawSteps(all, heads, first, most_queries);
  }

  // Fills rows, all or some of them, with what would show.
  void Spoil(const at::Tensor& rows, bool every_row = false) {
    if (rows.numel() == 0) return;
    const double bad = random_.OneOf<double>({std::numeric_limits<double>::quiet_NaN(),
                                              std::numeric_limits<double>::infinity(),
                                              -std::numeric_limits<double>::infinity()});
    if (every_row || random_.Chance(0.3)) {
      rows.fill_(bad);
    } else {
      const int64_t axis = rows.dim() - 2;
      rows.select(axis, random_.Integer(0, rows.size(axis) - 1)).fill_(bad);
    }
  }

  void DrawSteps(const AttentionInputs& all, int64_t heads, int64_t length, int64_t most_queries) {
    const int64_t keys = all.k.size(2);
    const auto type = all.k.scalar_type();
    const int64_t batch = all.k.size(0), dim = all.k.size(3);
    while (true) {
      AttentionInputs in = all;
      const int64_t queries =
          std::min(length, result_.steps.empty() || random_.Chance(0.2) ? most_queries : 1);
      in.k = all.k.narrow(2, 0, length);
      in.v = all.v.narrow(2, 0, length);
      in.causal = queries > 1 || random_.Chance(0.5);
      at::Tensor q = random_.Normal({batch, heads, queries, dim}, type);
      if (result_.values == Values::kWhole) q = q.round();
      if (result_.values == Values::kNormal && random_.Chance(0.2)) q = q.mul(4);  // heavy keys
      if (result_.values == Values::kBroken && random_.Chance(0.3)) {
        random_.Plant(q, std::numeric_limits<double>::quiet_NaN(), 1);
      }
      if (random_.Chance(0.2)) q = q.transpose(1, 2).contiguous().transpose(1, 2);
      if (random_.Chance(0.05)) q = q.transpose(2, 3).contiguous().transpose(2, 3);
      in.q = q;
      absl::StrAppend(&result_.text, ", step of ", queries, " queries at ", length);
      result_.steps.push_back(in);
      if (length == keys || result_.steps.size() == 3) return;
      length = std::min(keys, length + random_.Integer(1, 3));
    }
  }

  Json Share(int64_t most, double largest = 0.5) {
    if (random_.Chance(0.5)) return random_.Integer(1, most);
    return random_.Real(0.005, largest);
  }

  Json DrawMasker(const std::string& type) {
    const AttentionInputs& in = result_.steps.back();
    const int64_t dim = in.dim(), keys = in.keys();
    const int64_t most = std::max<int64_t>(1, keys / 2);
    Json m = {{"type", type}};
    if (type == "sink") m["sink_size"] = Share(std::min<int64_t>(most, 40), 0.2);
    if (type == "local") m["window_size"] = Share(std::min<int64_t>(most, 40), 0.2);
    if (type.find("top_k") != std::string::npos || type == "pq_cache" || type == "snap_kv" ||
        type == "lightning_indexer") {
      m["heavy_size"] = Share(most);
    }
    if (type == "oracle_top_p") {
      m["top_p"] =
          random_.Chance(0.2) ? random_.OneOf<double>({0, 0.999, 1}) : random_.Real(0.01, 0.99);
      m["threshold_rule"] = random_.OneOf<std::string>({"greater", "at_least"});
      m["coverage"] = random_.OneOf<std::string>({"residual", "total"});
    }
    if (type == "hash_attention_top_k") {
      m["hat_weight_file"] = folder_ + "/hash.safetensors";
      WriteHashAttentionFile(
          m["hat_weight_file"],
          {{in.layer, in.query_heads(), in.kv_heads(), dim,
            random_.OneOf<int64_t>({1, 16, 31, 32, 40, 64, 100}), random_.Integer(1, 20)}});
    }
    if (type == "pq_cache") {
      m["pq_group_factor"] = random_.Integer(1, 4);
      m["pq_bits"] = random_.OneOf<int64_t>({1, 2, 4, 5, 8, 9});
      m["kmeans_iter"] = random_.Integer(1, 3);
      m["init_offset"] = random_.OneOf<int64_t>({0, 0, 7});
      m["metric"] = random_.Chance(0.3) ? "ip" : "euclidean";
    }
    if (type == "quest_top_k") {
      m["page_size"] = random_.OneOf<int64_t>({1, 3, 4, 16, 24, 64});
      m["label_bits"] = random_.OneOf<int64_t>({16, 16, 4, 8});
    }
    if (type == "double_sparsity_top_k") {
      m["sorted_channel_file"] = folder_ + "/channels.json";
      m["group_factor"] = random_.OneOf<int64_t>({1, 2, 4, 8});
      m["label_bits"] = random_.OneOf<int64_t>({2, 4, 8, 12, 16});
      WriteChannels(m["sorted_channel_file"]);
    }
    if (type == "socket_top_k") {
      m["K"] = random_.OneOf<int64_t>({1, 4, 8, 9, 10});
      m["L"] = random_.Integer(1, 12);
      m["tau"] = random_.Real(0.1, 1);
    }
    if (type == "snap_kv") {
      m["window_size"] = random_.Integer(1, 9);
      m["kernel_size"] = random_.OneOf<int64_t>({1, 3, 5, 9});
    }
    if (type == "lightning_indexer") {
      m["weight_file"] = folder_ + "/indexer.safetensors";
      WriteIndexerFile(m["weight_file"],
                       {{in.layer, in.query_heads(), in.kv_heads(), dim, random_.Integer(1, 6),
                         random_.OneOf<int64_t>({1, 5, 16, 32, 40})}});
    }
    if (type == "magic_pig") {
      m["lsh_l"] = random_.Integer(1, 20);
      m["lsh_k"] = random_.OneOf<int64_t>({1, 2, 4, 8, 9, 16, 17, 33, 64});
      m["center"] = random_.Chance(0.7);
      m["seed"] = random_.Integer(0, 99);
    }
    if (type == "random_sampling") m["sampling_rate"] = random_.Real(0.01, 1);
    if (type == "adaptive_sampling") {
      m["base_rate_sampling"] =
          random_.Chance(0.6) ? Json(random_.Real(0.01, 0.3)) : Json(random_.Integer(0, 40));
      m["epsilon"] = random_.Real(0.02, 0.5);
      m["delta"] = random_.Real(0.02, 0.3);
      m["init_offset"] = random_.Integer(0, 40);
      m["local_offset"] =
          random_.Chance(0.5) ? Json(random_.Integer(0, 40)) : Json(random_.Real(0, 0.2));
      if (random_.Chance(0.4)) m["guarantee"] = "output";
    }
    return m;
  }

  // Lists that the heads of a group share, or lists of their own.
  void WriteChannels(const std::string& path) {
    const AttentionInputs& in = result_.steps.back();
    const int64_t shared_by = random_.Chance(0.5) ? in.group_size() : 1;
    ChannelLists lists;
    for (int64_t head = 0; head < in.query_heads(); ++head) {
      std::vector<int64_t> order;
      for (int64_t c = 0; c < in.dim(); ++c) {
        order.push_back((in.dim() - 1 - c + head / shared_by) % in.dim());
      }
      lists.push_back(order);
    }
    ChannelFile file;
    SA_CHECK_OK(file.Set(in.layer, ChannelSelection::kQueryKey, lists));
    SA_CHECK_OK(WriteChannelFile(path, file));
  }

  // 1 to 4 maskers, `main` among them; samplers come last, and weight files have one user.
  Json DrawChain(int main) {
    std::vector<std::string> types = {kMethods[main]};
    const bool sampled = main >= kAllMethods - kSamplers;
    for (int64_t i = random_.Integer(0, 3); i > 0; --i) {
      const std::string other = random_.Chance(0.4)
                                    ? kMethods[random_.Integer(0, 1)]
                                    : kMethods[random_.Integer(0, kAllMethods - kSamplers - 1)];
      const bool has_file = other == "hash_attention_top_k" || other == "double_sparsity_top_k" ||
                            other == "lightning_indexer";
      if (has_file && !used_files_.insert(other).second) continue;
      const bool in_front = sampled || random_.Chance(0.6);
      types.insert(in_front ? types.begin() : types.end(), other);
    }
    const bool may_sample = !sampled && result_.values != Values::kBroken;
    if (may_sample && types.size() < 4 && random_.Chance(0.2)) {
      types.push_back(kMethods[random_.Integer(kAllMethods - kSamplers, kAllMethods - 1)]);
    }
    Json chain = Json::array();
    for (const std::string& type : types) chain.push_back(DrawMasker(type));
    return chain;
  }

  void DrawPipeline() {
    const AttentionInputs& in = result_.steps.back();
    Json& pipeline = result_.pipeline;
    pipeline = {{"seed", random_.Integer(0, 1 << 30)},
                {"selection", random_.Chance(0.5) ? "query_head" : "kv_group"},
                {"group_reduce", random_.OneOf<std::string>({"max", "sum", "mean"})}};
    const int main = Main();
    used_files_.insert(kMethods[main]);
    Json first = DrawChain(main);
    if (in.query_heads() < 2 || !random_.Chance(0.12)) {
      pipeline["maskers"] = first;
      return;
    }
    // Two rules, or a rule beside dense heads, cut at any head.
    const int64_t cut = random_.Integer(0, in.query_heads() - 2);
    Json rules = Json::array();
    rules.push_back({{"layers", "0-"}, {"heads", absl::StrCat("0-", cut)}, {"maskers", first}});
    if (random_.Chance(0.7)) {
      rules.push_back(
          {{"layers", "0-"}, {"maskers", DrawChain(static_cast<int>(random_.Integer(0, 4)))}});
    } else {
      rules.push_back({{"layers", "0-"}, {"dense", true}});
    }
    pipeline["layers"] = rules;
  }

  const uint64_t seed_;
  RandomTensors random_;
  const std::string folder_;
  std::set<std::string> used_files_;
  GeneratedCase result_;
};

}  // namespace

AttentionInputs GeneratedCase::Prefix() const {
  AttentionInputs in = steps.front();
  in.k = in.k.narrow(2, 0, in.keys() - in.queries());
  in.v = in.v.narrow(2, 0, in.k.size(2));
  in.q = in.q.narrow(2, 0, 0);
  return in;
}

std::vector<std::string> GeneratedCase::MaskerTypes() const {
  std::set<std::string> types;
  const auto add = [&](const Json& chain) {
    for (const Json& masker : chain) types.insert(masker["type"].get<std::string>());
  };
  if (pipeline.contains("maskers")) {
    add(pipeline["maskers"]);
  } else {
    for (const Json& rule : pipeline["layers"]) add(rule.value("maskers", Json::array()));
  }
  return {types.begin(), types.end()};
}

GeneratedCase GenerateCase(uint64_t seed, const std::string& folder) {
  return Generator(seed, folder).Draw();
}

}  // namespace sparse_attention
