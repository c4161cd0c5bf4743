// Layers of the C API compute what the engine's own classes compute, bit for bit, whatever the
// host's layout of keys and values.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/c_api/c_api_testing.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/efficient_attention/cpu/cpu_layer.h"
#include "sparse_attention/efficient_attention/cpu/kv_cache.h"
#include "sparse_attention/efficient_attention/cpu_pipeline.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

// Counts what the whole program allocates.
void* operator new(size_t size) {
  ++allocations;
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace sparse_attention::c_api {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// The shape that the shipped model's weights are for.
constexpr int32_t kHeads = 8, kKvHeads = 2, kDim = 64, kLayer = 3;
constexpr int32_t kValueDim = 48;
constexpr int32_t kSequences = 2, kCapacity = 700;
constexpr char kModel[] = "models/retrieval-6m";
constexpr float kSinks[kHeads] = {-1, 0, 1, 2, 3, 4, 5, 6};

struct Case {
  std::string name, maskers;
};

std::vector<Case> Cases() {
  const std::string ends =
      R"({"type": "sink", "sink_size": 5}, {"type": "local", "window_size": 9})";
  return {
      {"dense", ""},
      {"ranges", ends + R"(, {"type": "causal"})"},
      {"oracle_top_k", ends + R"(, {"type": "oracle_top_k", "heavy_size": 0.05})"},
      {"oracle_top_p", ends + R"(, {"type": "oracle_top_p", "top_p": 0.8})"},
      {"hash", ends + R"(, {"type": "hash_attention_top_k", "heavy_size": 0.05,
                            "hat_weight_file": "{model}/hash_attention.safetensors"})"},
      {"double_sparsity", ends + R"(, {"type": "double_sparsity_top_k", "heavy_size": 40,
                            "sorted_channel_file": "{model}/double_sparsity.json"})"},
      {"indexer", ends + R"(, {"type": "lightning_indexer", "heavy_size": 40,
                            "weight_file": "{model}/lightning_indexer.safetensors"})"},
      {"pq", ends + R"(, {"type": "pq_cache", "heavy_size": 40, "pq_group_factor": 2, "pq_bits": 4,
                          "kmeans_iter": 3, "init_offset": 5, "metric": "euclidean"})"},
      {"quest", ends + R"(, {"type": "quest_top_k", "heavy_size": 0.1, "page_size": 16})"},
      {"socket", ends + R"(, {"type": "socket_top_k", "heavy_size": 40, "K": 5, "L": 7})"},
      {"random", ends + R"(, {"type": "random_sampling", "sampling_rate": 0.2})"},
      {"adaptive", ends + R"(, {"type": "oracle_top_k", "heavy_size": 0.02},
                              {"type": "adaptive_sampling", "base_rate_sampling": 0.05,
                               "epsilon": 0.3, "delta": 0.1, "init_offset": 5,
                               "local_offset": 9})"},
  };
}

std::string PipelineText(const Case& one, bool by_group) {
  return absl::StrCat(R"({"type": "efficient", "seed": 7, "selection": ")",
                      by_group ? "kv_group" : "query_head", R"(", "group_reduce": "sum", )",
                      R"("maskers": [)", one.maskers, "]}");
}

// What a step gives, as bytes.
struct StepResult {
  std::vector<char> out;
  std::vector<float> lse;
  std::vector<sah_row_report> reports;
};

std::vector<char> Queries(int64_t step, int64_t queries, cpu::Element element) {
  return RandomElements(900 + static_cast<uint64_t>(step),
                        int64_t{kSequences} * kHeads * queries * kDim, element);
}

// Tokens [first, first + count) of a sequence: [count, KV heads, dim or value dim]. `round` tells
// apart what comes before and behind a cut.
std::vector<char> Tokens(bool values, int64_t sequence, int64_t round, int64_t first, int64_t count,
                         cpu::Element element) {
  std::vector<char> all;
  for (int64_t t = first; t < first + count; ++t) {
    const int64_t seed = ((round * kSequences + sequence) * 2 + values) * 10000 + t + 1;
    const auto token = RandomElements(static_cast<uint64_t>(seed),
                                      kKvHeads * (values ? kValueDim : kDim), element);
    all.insert(all.end(), token.begin(), token.end());
  }
  return all;
}

// A layer through the C API, or through the classes behind it.
class Subject {
 public:
  virtual ~Subject() = default;
  virtual void Append(int32_t sequence, int32_t tokens) = 0;
  virtual void Truncate(int32_t sequence, int32_t length) = 0;
  virtual StepResult Step(int64_t step, int64_t queries) = 0;
};

class CSubject final : public Subject {
 public:
  CSubject(const std::string& json, cpu::Element element, int64_t page_size, int threads)
      : element_(element),
        cache_(element, kSequences, kCapacity, kKvHeads, kDim, kValueDim, page_size) {
    sah_engine_options options = Sized<sah_engine_options>();
    options.threads = threads;
    options.model_folder = kModel;
    sah_engine* engine = nullptr;
    EXPECT_SAH(SAH_OK, sah_engine_create(json.c_str(), &options, &engine));
    const EnginePtr owned(engine);  // the layer outlives it
    sah_layer_options layer = Sized<sah_layer_options>();
    layer.dtype = static_cast<int32_t>(element);
    layer.dim = kDim;
    layer.value_dim = kValueDim;
    layer.query_heads = kHeads;
    layer.kv_heads = kKvHeads;
    layer.layer = kLayer;
    layer.sequences = kSequences;
    layer.capacity = kCapacity;
    sah_layer* made = nullptr;
    EXPECT_SAH(SAH_OK, sah_layer_create(engine, &layer, &made));
    layer_.reset(made);
  }

  void Append(int32_t sequence, int32_t tokens) override {
    const int32_t first = cache_.lengths()[static_cast<size_t>(sequence)];
    cache_.Append(sequence, Tokens(false, sequence, round_, first, tokens, element_).data(),
                  Tokens(true, sequence, round_, first, tokens, element_).data(), tokens);
    const sah_kv_cache view = cache_.view();
    EXPECT_SAH(SAH_OK, sah_layer_append(layer_.get(), &view));
  }
  void Truncate(int32_t sequence, int32_t length) override {
    ++round_;
    cache_.lengths()[static_cast<size_t>(sequence)] = length;
    EXPECT_SAH(SAH_OK, sah_layer_truncate(layer_.get(), sequence, length));
  }
  StepResult Step(int64_t step, int64_t queries) override {
    const std::vector<char> q = Queries(step, queries, element_);
    const int64_t rows = int64_t{kSequences} * kHeads * queries;
    const int64_t row = kDim * cpu::ElementBytes(element_);
    const int64_t value_row = kValueDim * cpu::ElementBytes(element_);
    StepResult result = {std::vector<char>(static_cast<size_t>(rows * value_row)),
                         std::vector<float>(rows), std::vector<sah_row_report>(rows)};
    sah_step s = Sized<sah_step>();
    s.q = q.data();
    s.out = result.out.data();
    s.q_sequence_stride = kHeads * queries * row;
    s.q_head_stride = queries * row;
    s.q_query_stride = row;
    s.out_sequence_stride = kHeads * queries * value_row;
    s.out_head_stride = queries * value_row;
    s.out_query_stride = value_row;
    s.scale = step == 1 ? 0.3f : 0.0f;
    s.sink_logits = step == 2 ? kSinks : nullptr;
    s.queries = queries;
    s.lse = result.lse.data();
    s.reports = result.reports.data();
    s.softcap = step % 2 == 0 ? 0.0f : 20.0f;
    s.sliding_window = step == 3 ? 300 : 0;
    const sah_kv_cache view = cache_.view();
    const int64_t before = allocations;
    const sah_status status = sah_layer_run(layer_.get(), &view, &s);
    allocated_ = allocations - before;
    EXPECT_SAH(SAH_OK, status);
    return result;
  }

  HostCache& cache() { return cache_; }
  // By the latest step.
  int64_t allocated() const { return allocated_; }
  sah_layer* layer() { return layer_.get(); }

 private:
  const cpu::Element element_;
  HostCache cache_;
  LayerPtr layer_;
  int64_t allocated_ = 0, round_ = 0;
};

class DirectSubject final : public Subject {
 public:
  DirectSubject(const std::string& json, cpu::Element element)
      : element_(element),
        shape_{element, kDim, kValueDim, kHeads, kKvHeads, kLayer},
        pipeline_(
            *CpuPipeline::Create(ResolveModelPaths(*PipelineFromJson(*ParseJson(json)), kModel))),
        layer_(*pipeline_.Plan({shape_, kSequences, kCapacity})),
        cache_(*cpu::KvCache::Create({shape_, kSequences, kCapacity, 0})),
        workers_(1) {
    arenas_.emplace_back(layer_.ScratchBytes());
  }

  void Append(int32_t sequence, int32_t tokens) override {
    const int64_t first = cache_.length(sequence), bytes = cpu::ElementBytes(element_);
    const int64_t row = kDim * bytes, value_row = kValueDim * bytes;
    const auto k = Tokens(false, sequence, round_, first, tokens, element_);
    const auto v = Tokens(true, sequence, round_, first, tokens, element_);
    SA_CHECK_OK(cache_.Append(sequence, {k.data(), row, row * kKvHeads},
                              {v.data(), value_row, value_row * kKvHeads}, tokens));
    layer_.Append(cache_.sequences(), workers_);
  }
  void Truncate(int32_t sequence, int32_t length) override {
    ++round_;
    SA_CHECK_OK(cache_.Truncate(sequence, length));
    layer_.Truncate(sequence, length);
  }
  StepResult Step(int64_t step, int64_t queries) override {
    const std::vector<char> q = Queries(step, queries, element_);
    const int64_t rows = int64_t{kSequences} * kHeads * queries;
    const int64_t row = kDim * cpu::ElementBytes(element_);
    const int64_t value_row = kValueDim * cpu::ElementBytes(element_);
    StepResult result = {
        std::vector<char>(static_cast<size_t>(rows * value_row)), std::vector<float>(rows), {}};
    std::vector<cpu::RowReport> reports(static_cast<size_t>(rows));
    cpu::StepInputs in;
    in.q = q.data();
    in.q_sequence_stride = kHeads * queries * row;
    in.q_head_stride = queries * row;
    in.q_query_stride = row;
    in.queries = queries;
    in.sequences = cache_.sequences();
    in.scale = step == 1 ? 0.3f : static_cast<float>(1 / std::sqrt(double{kDim}));
    in.sink_logits = step == 2 ? kSinks : nullptr;
    in.softcap = step % 2 == 0 ? 0.0f : 20.0f;
    in.sliding_window = step == 3 ? 300 : 0;
    layer_.Run(in,
               {result.out.data(), kHeads * queries * value_row, queries * value_row, value_row,
                result.lse.data()},
               workers_, arenas_, reports.data());
    for (const cpu::RowReport& r : reports) {
      result.reports.push_back(
          {r.visible, r.selected, r.rows_read, r.sample_budget, r.promised, r.guarantee_met});
    }
    return result;
  }

 private:
  const cpu::Element element_;
  const cpu::LayerShape shape_;
  const CpuPipeline pipeline_;
  cpu::CpuLayer layer_;
  cpu::KvCache cache_;
  cpu::Workers workers_;
  std::vector<cpu::Arena> arenas_;
  int64_t round_ = 0;
};

// Prompts of different lengths, steps of one and several queries, a cut.
std::vector<StepResult> Play(Subject& subject) {
  std::vector<StepResult> results;
  subject.Append(0, 600);
  subject.Append(1, 333);
  results.push_back(subject.Step(0, 1));
  for (int32_t s : {0, 1}) subject.Append(s, 4);
  results.push_back(subject.Step(1, 4));
  subject.Truncate(0, 580);
  for (int32_t s : {0, 1}) subject.Append(s, 1);
  results.push_back(subject.Step(2, 1));
  results.push_back(subject.Step(3, 1));
  return results;
}

void ExpectEqual(const std::vector<StepResult>& a, const std::vector<StepResult>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_TRUE(a[i].out == b[i].out);
    EXPECT_EQ(a[i].lse, b[i].lse);
    ASSERT_EQ(a[i].reports.size(), b[i].reports.size());
    for (size_t r = 0; r < a[i].reports.size(); ++r) {
      const sah_row_report &x = a[i].reports[r], &y = b[i].reports[r];
      EXPECT_EQ(std::tie(x.visible, x.selected, x.rows_read, x.sample_budget, x.promised,
                         x.guarantee_met),
                std::tie(y.visible, y.selected, y.rows_read, y.sample_budget, y.promised,
                         y.guarantee_met));
    }
  }
}

class LayerTest : public ::testing::TestWithParam<std::tuple<size_t, bool>> {};

TEST_P(LayerTest, EqualsTheEnginesClassesBitForBit) {
  const std::string json = PipelineText(Cases()[std::get<0>(GetParam())], std::get<1>(GetParam()));
  const cpu::Element element =
      static_cast<cpu::Element>((std::get<0>(GetParam()) + std::get<1>(GetParam())) % 3);
  DirectSubject direct(json, element);
  const std::vector<StepResult> expected = Play(direct);
  for (const auto& [page_size, threads] : {std::pair{0, 1}, {16, 2}, {1, 3}}) {
    SCOPED_TRACE(page_size);
    CSubject subject(json, element, page_size, threads);
    ExpectEqual(Play(subject), expected);
  }
  // The method chooses: the test would be empty otherwise.
  const sah_row_report& row = expected.back().reports.front();
  if (std::get<0>(GetParam()) != 0) {
    EXPECT_LT(row.selected, row.visible);
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, LayerTest,
                         ::testing::Combine(::testing::Range(size_t{0}, Cases().size()),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return Cases()[std::get<0>(info.param)].name +
                                  (std::get<1>(info.param) ? "_group" : "_head");
                         });

TEST(Layer, RulesByLayerAreFollowed) {
  const std::string json = R"({"type": "efficient", "layers": [
      {"layers": "0-2", "dense": true},
      {"layers": "3", "heads": "0-3", "maskers": [{"type": "sink", "sink_size": 5}]}]})";
  const EnginePtr engine = MakeEngine(json, 1);
  for (int32_t layer : {0, 3}) {
    sah_layer_options options = Sized<sah_layer_options>();
    options.dim = 16;
    options.query_heads = 8;
    options.kv_heads = 2;
    options.layer = layer;
    options.sequences = 1;
    options.capacity = 10;
    sah_layer* made = nullptr;
    ASSERT_SAH_OK(sah_layer_create(engine.get(), &options, &made));
    const LayerPtr owned(made);
    sah_layer_info info = Sized<sah_layer_info>();
    ASSERT_SAH_OK(sah_layer_get_info(made, &info));
    EXPECT_EQ(info.dense, layer == 0);
    EXPECT_EQ(info.index_bytes, 0);
  }
}

// A slot of length 0 takes no part, and what its index holds stays.
TEST(Layer, SlotsMayPause) {
  for (size_t method : {size_t{0}, size_t{4}, size_t{8}, size_t{11}}) {
    const std::string json = PipelineText(Cases()[method], false);
    CSubject subject(json, cpu::Element::kFloat32, 16, 2);
    DirectSubject direct(json, cpu::Element::kFloat32);
    for (Subject* each : {static_cast<Subject*>(&subject), static_cast<Subject*>(&direct)}) {
      each->Append(0, 400);
      each->Append(1, 300);
    }
    const StepResult both = direct.Step(0, 2);
    subject.cache().lengths()[0] = 0;
    const StepResult one = subject.Step(0, 2);
    const size_t half = both.out.size() / 2, rows = both.lse.size() / 2;
    EXPECT_THAT(std::vector<char>(one.out.begin(), one.out.begin() + half), Each(0));
    for (size_t r = 0; r < rows; ++r) {
      EXPECT_EQ(one.lse[r], -INFINITY);
      EXPECT_EQ(one.reports[r].visible, 0);
    }
    EXPECT_TRUE(std::equal(one.out.begin() + half, one.out.end(), both.out.begin() + half));
    subject.cache().lengths()[0] = 400;
    EXPECT_TRUE(subject.Step(0, 2).out == both.out);
  }
}

TEST(Layer, StepsAllocateNothing) {
  for (size_t method = 0; method < Cases().size(); ++method) {
    for (int64_t page_size : {0, 16}) {
      CSubject subject(PipelineText(Cases()[method], false), cpu::Element::kBFloat16, page_size, 2);
      for (int32_t s : {0, 1}) subject.Append(s, 300);
      subject.Step(0, 1);  // makes room for reports
      for (int32_t s : {0, 1}) subject.Append(s, 1);
      subject.Step(1, 1);
      EXPECT_EQ(subject.allocated(), 0) << Cases()[method].name;
    }
  }
}

TEST(Layer, PaddingIsNeverSeen) {
  CSubject subject(PipelineText(Cases()[1], false), cpu::Element::kFloat32, 0, 1);
  subject.Append(0, 100);
  subject.Append(1, 100);
  subject.cache().padding() = {30, 0};
  const StepResult result = subject.Step(0, 1);
  EXPECT_EQ(result.reports.front().visible, 70);
  EXPECT_EQ(result.reports.back().visible, 100);
}

TEST(Layer, TheOrderOfCallsIsChecked) {
  CSubject subject(PipelineText(Cases()[8], false), cpu::Element::kFloat32, 16, 1);
  subject.Append(0, 100);
  subject.Append(1, 100);
  subject.Step(0, 1);
  std::vector<int32_t>& lengths = subject.cache().lengths();
  const auto run = [&] {
    std::vector<char> q = Queries(0, 1, cpu::Element::kFloat32), out(q.size());  // enough
    sah_step s = Sized<sah_step>();
    s.q = q.data();
    s.out = out.data();
    s.q_sequence_stride = s.out_sequence_stride = kHeads * kDim * 4;
    s.q_head_stride = s.out_head_stride = s.q_query_stride = s.out_query_stride = kDim * 4;
    s.queries = 1;
    const sah_kv_cache view = subject.cache().view();
    return sah_layer_run(subject.layer(), &view, &s);
  };
  EXPECT_SAH(SAH_OK, run());
  lengths[1] = 101;
  EXPECT_SAH(SAH_FAILED_PRECONDITION, run());
  EXPECT_THAT(sah_last_error(), HasSubstr("cache.lengths[1] is 101, the indexes cover 100 keys: "
                                          "sah_layer_append must come first"));
  lengths[1] = 99;
  EXPECT_SAH(SAH_FAILED_PRECONDITION, run());
  EXPECT_THAT(sah_last_error(), HasSubstr("sah_layer_truncate must come first"));
  const sah_kv_cache view = subject.cache().view();
  EXPECT_SAH(SAH_FAILED_PRECONDITION, sah_layer_append(subject.layer(), &view));
  EXPECT_THAT(sah_last_error(), HasSubstr("sah_layer_truncate must tell of a cut"));
  EXPECT_SAH(SAH_OK, sah_layer_truncate(subject.layer(), 1, 500));  // covers fewer: no change
  EXPECT_SAH(SAH_FAILED_PRECONDITION, run());
  EXPECT_SAH(SAH_OK, sah_layer_truncate(subject.layer(), 1, 99));
  EXPECT_SAH(SAH_OK, run());
}

TEST(Layer, LayersOfAnEngineMayBeUsedByThreadsOfTheHost) {
  const std::string json = PipelineText(Cases()[8], true);
  CSubject expected(json, cpu::Element::kFloat32, 0, 1);
  const std::vector<StepResult> results = Play(expected);
  std::vector<std::vector<StepResult>> played(3);
  std::vector<std::thread> threads;
  for (auto& mine : played) {
    threads.emplace_back([&mine, &json] {
      CSubject subject(json, cpu::Element::kFloat32, 16, 2);
      mine = Play(subject);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : played) ExpectEqual(mine, results);
}

TEST(Layer, SharesItsEngineWithOtherLayersAndThreads) {
  const EnginePtr engine = MakeEngine(
      R"({"type": "efficient", "maskers": [{"type": "quest_top_k", "heavy_size": 9,
          "page_size": 4}]})",
      2);
  sah_engine_info before = Sized<sah_engine_info>(), after = before;
  ASSERT_SAH_OK(sah_engine_get_info(engine.get(), &before));
  EXPECT_EQ(before.threads, 2);
  EXPECT_EQ(before.scratch_bytes, 0);
  const auto run = [&engine](int32_t number, int32_t capacity, std::vector<float>* out) {
    sah_layer_options options = Sized<sah_layer_options>();
    options.dim = 16;
    options.query_heads = options.kv_heads = 2;
    options.layer = number;
    options.sequences = 1;
    options.capacity = capacity;
    sah_layer* made = nullptr;
    EXPECT_SAH(SAH_OK, sah_layer_create(engine.get(), &options, &made));
    const LayerPtr layer(made);
    HostCache cache(cpu::Element::kFloat32, 1, capacity, 2, 16, 16, 8);
    out->assign(32, 0.0f);
    for (int32_t step = 0; step < 40; ++step) {
      const auto rows = RandomElements(static_cast<uint64_t>(step) + 1, 64, cpu::Element::kFloat32);
      cache.Append(0, rows.data(), rows.data() + 128, 1);
      const sah_kv_cache view = cache.view();
      EXPECT_SAH(SAH_OK, sah_layer_append(made, &view));
      sah_step s = Sized<sah_step>();
      s.q = rows.data();
      s.out = out->data();
      s.q_head_stride = s.out_head_stride = 64;
      s.queries = 1;
      EXPECT_SAH(SAH_OK, sah_layer_run(made, &view, &s));
    }
    sah_layer_info info = Sized<sah_layer_info>();
    EXPECT_SAH(SAH_OK, sah_layer_get_info(made, &info));
    // Two bounds a page and channel.
    EXPECT_EQ(info.index_bytes, 2 * (capacity / 4) * 2 * 16 * 4);
    double share = 0;
    EXPECT_SAH(SAH_OK, sah_layer_scoring_share(made, capacity, &share));
    EXPECT_DOUBLE_EQ(share, 0.25);
  };
  std::vector<float> expected, outs[4];
  run(0, 64, &expected);
  std::vector<std::thread> threads;
  for (int32_t i = 0; i < 4; ++i) threads.emplace_back(run, i, 64 << i, &outs[i]);
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& out : outs) EXPECT_EQ(out, expected);
  ASSERT_SAH_OK(sah_engine_get_info(engine.get(), &after));
  EXPECT_GT(after.scratch_bytes, 0);
}

}  // namespace
}  // namespace sparse_attention::c_api
