// Whatever is handed over is answered with a status and a text that names it: nothing crashes,
// nothing is thrown, nothing is written.
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/c_api/c_api_testing.h"

// Under the address sanitizer, too, memory that there is not is a null pointer.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace sparse_attention::c_api {
namespace {

using ::testing::HasSubstr;
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr int32_t kMost32 = std::numeric_limits<int32_t>::max();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Version, IsThatOfTheHeader) {
  EXPECT_EQ(sah_api_version(), SAH_API_VERSION);
  EXPECT_THAT(sah_version(), ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  for (int code = SAH_OK; code <= SAH_INTERNAL; ++code) {
    EXPECT_THAT(sah_status_name(static_cast<sah_status>(code)), HasSubstr("SAH_"));
  }
}

TEST(LastError, BelongsToItsThreadAndFits) {
  ExpectError(SAH_INVALID_ARGUMENT, "engine must not be NULL, got NULL",
              sah_engine_create("{}", nullptr, nullptr));
  std::thread([] { EXPECT_STREQ(sah_last_error(), ""); }).join();
  sah_engine* engine = nullptr;
  const std::string text = absl::StrCat(R"({"type": "efficient", "maskers": [{"type": ")",
                                        std::string(9000, 'x'), R"("}]})");
  EXPECT_EQ(sah_engine_create(text.c_str(), nullptr, &engine), SAH_NOT_FOUND);
  EXPECT_EQ(std::string(sah_last_error()).size(), 2047u);
}

TEST(Isa, AWrongNameInTheEnvironmentIsAnError) {
  const char* const before = std::getenv("SA_ISA");
  const std::string kept = before == nullptr ? "" : before;
  const char* name = nullptr;
  ASSERT_SAH_OK(sah_default_isa(&name));
  EXPECT_THAT(std::string(name),
              ::testing::AnyOf("generic", "neon", "avx2", "avx512", "avx512_bf16"));
  ExpectError(SAH_INVALID_ARGUMENT, "name must not be NULL", sah_default_isa(nullptr));
  setenv("SA_ISA", "mmx", 1);
  ExpectError(SAH_INVALID_ARGUMENT, "the environment variable SA_ISA must be one of ",
              sah_default_isa(&name));
  sah_engine* engine = nullptr;
  ExpectError(SAH_INVALID_ARGUMENT, "got \"mmx\"",
              sah_engine_create(R"({"type": "efficient", "maskers": []})", nullptr, &engine));
  if (before == nullptr) {
    unsetenv("SA_ISA");
  } else {
    setenv("SA_ISA", kept.c_str(), 1);
  }
}

TEST(Engine, PipelinesThatAreWrongAreNamed) {
  const auto create = [](const std::string& json) {
    sah_engine* engine = reinterpret_cast<sah_engine*>(8);
    const sah_status status = sah_engine_create(json.c_str(), nullptr, &engine);
    EXPECT_EQ(engine, nullptr) << json;
    return status;
  };
  const auto masker = [&](const std::string& entry) {
    return create(absl::StrCat(R"({"type": "efficient", "maskers": [)", entry, "]}"));
  };
  ExpectError(SAH_INVALID_ARGUMENT, "line 1", create(""));
  ExpectError(SAH_INVALID_ARGUMENT, "line 1", create("{"));
  ExpectError(SAH_INVALID_ARGUMENT, "line 1", create("\xff\xfe"));
  EXPECT_EQ(create(std::string(100000, '[')), SAH_INVALID_ARGUMENT);
  EXPECT_EQ(create("null"), SAH_INVALID_ARGUMENT);
  EXPECT_EQ(create("[]"), SAH_INVALID_ARGUMENT);
  ExpectError(SAH_INVALID_ARGUMENT, "pipeline.type must be \"efficient\"",
              create(R"({"type": "research", "maskers": []})"));
  ExpectError(SAH_INVALID_ARGUMENT, "pipeline has no field \"masker\" (did you mean \"maskers\"",
              create(R"({"type": "efficient", "masker": []})"));
  ExpectError(SAH_NOT_FOUND,
              "pipeline.maskers[0]: the efficient engine has no masker \"sinks\" "
              "(did you mean \"sink\"",
              masker(R"({"type": "sinks"})"));
  ExpectError(SAH_INVALID_ARGUMENT, "pipeline.maskers[1]: sink.sink_size must be > 0, got 0",
              masker(R"({"type": "causal"}, {"type": "sink", "sink_size": 0})"));
  ExpectError(SAH_NOT_FOUND, "hash_attention_top_k.hat_weight_file",
              masker(R"({"type": "hash_attention_top_k", "heavy_size": 4,
                         "hat_weight_file": "no/such/file"})"));
  ExpectError(SAH_INVALID_ARGUMENT, "{model}",
              masker(R"({"type": "hash_attention_top_k", "heavy_size": 4,
                         "hat_weight_file": "{model}/file"})"));
  ExpectError(SAH_INVALID_ARGUMENT, "double_sparsity_top_k.sorted_channel_file",
              masker(R"({"type": "double_sparsity_top_k", "heavy_size": 4,
                         "sorted_channel_file": "no/such/file"})"));
  ExpectError(SAH_NOT_FOUND, "lightning_indexer.weight_file",
              masker(R"({"type": "lightning_indexer", "heavy_size": 4,
                         "weight_file": "no/such/file"})"));
  ExpectError(SAH_UNSUPPORTED, "nothing may follow a sampling masker",
              masker(R"({"type": "random_sampling", "sampling_rate": 0.5},
                        {"type": "sink", "sink_size": 4})"));
  ExpectError(SAH_UNSUPPORTED, "estimator",
              masker(R"({"type": "random_sampling", "sampling_rate": 0.5, "estimator": "hub"})"));
  ExpectError(SAH_UNSUPPORTED, "socket_top_k.L 1000000",
              masker(R"({"type": "socket_top_k", "heavy_size": 4, "L": 1000000})"));
  ExpectError(SAH_INVALID_ARGUMENT, "json must not be NULL", [] {
    sah_engine* engine = nullptr;
    return sah_engine_create(nullptr, nullptr, &engine);
  }());
}

TEST(Engine, OptionsThatAreWrongAreNamed) {
  const auto create = [](const std::function<void(sah_engine_options&)>& change) {
    sah_engine_options options = Sized<sah_engine_options>();
    change(options);
    sah_engine* engine = nullptr;
    const sah_status status =
        sah_engine_create(R"({"type": "efficient", "maskers": []})", &options, &engine);
    sah_engine_destroy(engine);
    return status;
  };
  EXPECT_SAH(SAH_OK, create([](auto&) {}));
  using O = sah_engine_options;
  ExpectError(SAH_INVALID_ARGUMENT, "options.struct_size must be ",
              create([](O& o) { o.struct_size = 0; }));
  ExpectError(SAH_INVALID_ARGUMENT, "options.struct_size must be ",
              create([](O& o) { o.struct_size = sizeof(O) - 1; }));
  ExpectError(SAH_INVALID_ARGUMENT, "options.struct_size must be ",
              create([](O& o) { o.struct_size = static_cast<size_t>(-1); }));
  for (int32_t threads : {-1, 1025, kMost32}) {
    ExpectError(SAH_INVALID_ARGUMENT, "options.threads must be in [0, 1024], got ",
                create([&](O& o) { o.threads = threads; }));
  }
  ExpectError(SAH_INVALID_ARGUMENT, "options: isa must be one of ",
              create([](O& o) { o.isa = "sse9"; }));
  // A struct of a later header: what is not known here must not be used.
  struct {
    sah_engine_options known;
    int64_t unknown;
  } later = {Sized<O>(), 0};
  later.known.struct_size = sizeof(later);
  sah_engine* engine = nullptr;
  const char* const json = R"({"type": "efficient", "maskers": []})";
  EXPECT_SAH(SAH_OK, sah_engine_create(json, &later.known, &engine));
  sah_engine_destroy(engine);
  later.unknown = 1;
  ExpectError(SAH_UNSUPPORTED, "options uses members that this version",
              sah_engine_create(json, &later.known, &engine));
  ExpectError(SAH_INVALID_ARGUMENT, "options must be aligned",
              sah_engine_create(json, Misaligned(&later.known), &engine));
  EXPECT_EQ(engine, nullptr);
  sah_engine_info info = Sized<sah_engine_info>();
  ExpectError(SAH_INVALID_ARGUMENT, "engine must not be NULL", sah_engine_get_info(engine, &info));
  sah_engine_destroy(nullptr);
  sah_layer_destroy(nullptr);
}

sah_layer_options SmallLayer() {
  sah_layer_options options = Sized<sah_layer_options>();
  options.dim = 16;
  options.query_heads = 4;
  options.kv_heads = 2;
  options.sequences = 2;
  options.capacity = 64;
  return options;
}

TEST(Layer, OptionsThatAreWrongAreNamed) {
  const EnginePtr engine = MakeEngine(
      R"({"type": "efficient", "maskers": [{"type": "quest_top_k", "heavy_size": 9,
          "page_size": 4}]})",
      1);
  using O = sah_layer_options;
  const auto create = [&](const std::function<void(O&)>& change) {
    O options = SmallLayer();
    change(options);
    sah_layer* layer = nullptr;
    const sah_status status = sah_layer_create(engine.get(), &options, &layer);
    sah_layer_destroy(layer);
    return status;
  };
  EXPECT_SAH(SAH_OK, create([](O&) {}));
  const auto each = [&](int32_t O::*member, const std::vector<int32_t>& values,
                        const std::string& text) {
    for (int32_t value : values) {
      ExpectError(SAH_INVALID_ARGUMENT, absl::StrCat(text, ", got ", value),
                  create([&](O& o) { o.*member = value; }));
    }
  };
  each(&O::dtype, {-1, 3, kMost32},
       "options.dtype must be SAH_FLOAT32, SAH_FLOAT16 or SAH_BFLOAT16");
  each(&O::dim, {0, -1, 257, kMost32}, "options.dim must be in [1, 256]");
  each(&O::value_dim, {-1, 257}, "options.value_dim must be in [0, 256]");
  each(&O::kv_heads, {0, -2, 65537}, "options.kv_heads must be in [1, 65536]");
  each(&O::query_heads, {0, -4, 1, 33, kMost32}, "options.query_heads must be in [2, 32]");
  each(&O::query_heads, {3}, "options.query_heads must be a multiple of kv_heads, 2");
  each(&O::layer, {-1, 1 << 24, kMost32}, "options.layer must be in [0, 16777215]");
  each(&O::sequences, {0, -1, 65537}, "options.sequences must be in [1, 65536]");
  each(&O::capacity, {0, -1}, "options.capacity must be in [1, 2147483647]");
  ExpectError(SAH_INVALID_ARGUMENT, "must be at most 2^44", create([](O& o) {
                o.sequences = 65536;
                o.kv_heads = o.query_heads = 65536;
                o.capacity = kMost32;
              }));
  // Bounds of so many pages fit into no machine.
  EXPECT_EQ(create([](O& o) {
              o.sequences = 8192;
              o.kv_heads = o.query_heads = 1;
              o.dim = 256;
              o.capacity = kMost32;
            }),
            SAH_OUT_OF_MEMORY);
  ExpectError(SAH_INVALID_ARGUMENT, "layer must not be NULL",
              sah_layer_create(engine.get(), nullptr, nullptr));
  sah_layer* layer = nullptr;
  ExpectError(SAH_INVALID_ARGUMENT, "options must not be NULL",
              sah_layer_create(engine.get(), nullptr, &layer));
  const O options = SmallLayer();
  ExpectError(SAH_INVALID_ARGUMENT, "engine must not be NULL",
              sah_layer_create(nullptr, &options, &layer));
}

// Integers of maskers as large as they can be: refused, or a number like another.
TEST(Layer, ExtremeMaskersRunOrAreRefused) {
  const std::string most = absl::StrCat(kMost);
  for (std::string maskers :
       {R"({"type": "sink", "sink_size": MOST})", R"({"type": "local", "window_size": MOST})",
        R"({"type": "oracle_top_k", "heavy_size": MOST})",
        R"({"type": "quest_top_k", "heavy_size": MOST, "page_size": MOST})",
        R"({"type": "quest_top_k", "heavy_size": 1, "page_size": MOST})",
        R"({"type": "pq_cache", "heavy_size": 1, "pq_group_factor": MOST, "pq_bits": 2,
            "kmeans_iter": MOST, "init_offset": 3, "metric": "ip"})",
        R"({"type": "pq_cache", "heavy_size": MOST, "pq_group_factor": 1, "pq_bits": 2,
            "kmeans_iter": 1, "init_offset": MOST, "metric": "euclidean"})",
        R"({"type": "socket_top_k", "heavy_size": 1, "K": 20, "L": 3, "tau": 1e-300})",
        R"({"type": "random_sampling", "sampling_rate": 1e-300})",
        R"({"type": "adaptive_sampling", "base_rate_sampling": MOST, "epsilon": 1e-300,
            "delta": 1e-300, "init_offset": MOST, "local_offset": MOST})",
        R"({"type": "adaptive_sampling", "base_rate_sampling": 2, "epsilon": 1e-300,
            "delta": 1e-300, "init_offset": 1, "local_offset": 1})"}) {
    SCOPED_TRACE(maskers);
    for (size_t at; (at = maskers.find("MOST")) != std::string::npos;) maskers.replace(at, 4, most);
    const EnginePtr engine =
        MakeEngine(absl::StrCat(R"({"type": "efficient", "maskers": [)", maskers, "]}"), 1);
    sah_layer* made = nullptr;
    const sah_layer_options options = SmallLayer();
    ASSERT_SAH_OK(sah_layer_create(engine.get(), &options, &made));
    const LayerPtr layer(made);
    HostCache cache(cpu::Element::kFloat32, 2, 64, 2, 16, 16, 8);
    const auto rows = RandomElements(1, 50 * 32, cpu::Element::kFloat32);
    for (int32_t s : {0, 1}) cache.Append(s, rows.data(), rows.data(), 50);
    const sah_kv_cache view = cache.view();
    ASSERT_SAH_OK(sah_layer_append(made, &view));
    std::vector<float> q(2 * 4 * 16, 0.5f), out(q.size(), kNan);
    sah_step step = Sized<sah_step>();
    step.q = q.data();
    step.out = out.data();
    step.q_sequence_stride = step.out_sequence_stride = 256;
    step.q_head_stride = step.out_head_stride = 64;
    step.queries = 1;
    ASSERT_SAH_OK(sah_layer_run(made, &view, &step));
    for (float x : out) EXPECT_TRUE(std::isfinite(x));
  }
}

// A layer, a cache and a step that are right; tests break one thing at a time.
class StepTest : public ::testing::TestWithParam<int64_t> {
 protected:
  StepTest()
      : engine_(MakeEngine(R"({"type": "efficient", "maskers": [{"type": "quest_top_k",
                               "heavy_size": 9, "page_size": 4}]})",
                           2)),
        cache_(cpu::Element::kFloat32, 2, 64, 2, 16, 16, GetParam()),
        q_(2 * 4 * 2 * 16, 0.5f),
        out_(q_.size(), 7.0f),
        lse_(16, 7.0f),
        reports_(16) {
    const sah_layer_options options = SmallLayer();
    sah_layer* made = nullptr;
    EXPECT_SAH(SAH_OK, sah_layer_create(engine_.get(), &options, &made));
    layer_.reset(made);
    const auto rows = RandomElements(1, 50 * 32, cpu::Element::kFloat32);
    for (int32_t s : {0, 1}) cache_.Append(s, rows.data(), rows.data(), 50);
    view_ = cache_.view();
    EXPECT_SAH(SAH_OK, sah_layer_append(made, &view_));
    step_ = Sized<sah_step>();
    step_.q = q_.data();
    step_.out = out_.data();
    step_.q_sequence_stride = step_.out_sequence_stride = 512;
    step_.q_head_stride = step_.out_head_stride = 128;
    step_.q_query_stride = step_.out_query_stride = 64;
    step_.queries = 2;
    step_.lse = lse_.data();
    step_.reports = reports_.data();
  }

  // Both functions that read a cache notice.
  void BadCache(const std::string& text, const std::function<void(sah_kv_cache&)>& change) {
    sah_kv_cache bad = view_;
    change(bad);
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_layer_append(layer_.get(), &bad));
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_layer_run(layer_.get(), &bad, &step_));
  }
  void BadStep(const std::string& text, const std::function<void(sah_step&)>& change) {
    sah_step bad = step_;
    change(bad);
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_layer_run(layer_.get(), &view_, &bad));
  }

  EnginePtr engine_;
  LayerPtr layer_;
  HostCache cache_;
  std::vector<float> q_, out_, lse_;
  std::vector<sah_row_report> reports_;
  sah_kv_cache view_;
  sah_step step_;
};

TEST_P(StepTest, CachesThatAreWrongAreNamed) {
  using C = sah_kv_cache;
  BadCache("cache.struct_size", [](C& c) { c.struct_size = 8; });
  BadCache("cache.k must not be NULL", [](C& c) { c.k = nullptr; });
  BadCache("cache.v must not be NULL", [](C& c) { c.v = nullptr; });
  BadCache("cache.k must be aligned to 4 bytes", [](C& c) { c.k = Misaligned(c.k); });
  BadCache("cache.v must be aligned to 4 bytes", [](C& c) { c.v = Misaligned(c.v); });
  BadCache("cache.lengths must not be NULL", [](C& c) { c.lengths = nullptr; });
  BadCache("cache.lengths must be aligned", [](C& c) { c.lengths = Misaligned(c.lengths); });
  BadCache("cache.padding must be aligned", [](C& c) { c.padding = Misaligned(c.padding); });
  for (int64_t bad : {int64_t{-64}, int64_t{0}, int64_t{60}, int64_t{66}, int64_t{-kMost}}) {
    BadCache("cache.k_row_stride must be a multiple of 4 and at least 64",
             [&](C& c) { c.k_row_stride = bad; });
    BadCache("cache.v_row_stride must be", [&](C& c) { c.v_row_stride = bad; });
  }
  for (int64_t bad : {int64_t{-4}, int64_t{3}, std::numeric_limits<int64_t>::min()}) {
    BadCache("cache.k_head_stride must be", [&](C& c) { c.k_head_stride = bad; });
    BadCache("cache.v_head_stride must be", [&](C& c) { c.v_head_stride = bad; });
    BadCache("cache.k_block_stride must be", [&](C& c) { c.k_block_stride = bad; });
    BadCache("cache.v_block_stride must be", [&](C& c) { c.v_block_stride = bad; });
  }
  for (int64_t C::*member : {&C::k_row_stride, &C::k_head_stride, &C::k_block_stride,
                             &C::v_row_stride, &C::v_head_stride, &C::v_block_stride}) {
    BadCache("must span less than 2^56 bytes", [&](C& c) { c.*member = kMost - 3; });
  }
  for (int64_t bad : {int64_t{-1}, int64_t{3}, int64_t{48}, int64_t{1} << 31, kMost}) {
    BadCache("cache.page_size must be 0 or a power of two up to 2^30, got ",
             [&](C& c) { c.page_size = bad; });
  }
  cache_.lengths()[1] = -1;
  BadCache("cache.lengths[1] must be in [0, 64], got -1", [](C&) {});
  cache_.lengths()[1] = 65;
  BadCache("cache.lengths[1] must be in [0, 64], got 65", [](C&) {});
  cache_.lengths()[1] = 50;
  for (int32_t bad : {-1, 51, kMost32}) {
    cache_.padding()[0] = bad;
    BadCache("cache.padding[0] must be in [0, 50], got ", [](C&) {});
  }
  cache_.padding()[0] = 0;
  if (GetParam() == 0) return;
  BadCache("cache.block_tables must not be NULL", [](C& c) { c.block_tables = nullptr; });
  BadCache("cache.block_tables must be aligned",
           [](C& c) { c.block_tables = Misaligned(c.block_tables); });
  for (int64_t bad : {int64_t{-1}, int64_t{0}, int64_t{1} << 40}) {
    BadCache("cache.pages must be in", [&](C& c) { c.pages = bad; });
  }
  BadCache("cache.block_table_stride must be in", [](C& c) { c.block_table_stride = -1; });
  BadCache("cache.block_table_stride must be in", [](C& c) { c.block_table_stride = kMost; });
  BadCache("the entries of cache.block_tables[0] must be in [0, 1], got 7",
           [](C& c) { c.block_table_stride = 1; });
  for (int32_t bad : {-1, 17, kMost32}) {
    const int32_t kept = std::exchange(cache_.tables()[8 + 6], bad);
    BadCache(absl::StrCat("cache.block_tables[1][6] must be in [0, 17), got ", bad), [](C&) {});
    cache_.tables()[8 + 6] = kept;
  }
  cache_.tables()[8 + 7] = -5;  // beyond the length: not looked at
  EXPECT_SAH(SAH_OK, sah_layer_run(layer_.get(), &view_, &step_));
}

TEST_P(StepTest, StepsThatAreWrongAreNamed) {
  using S = sah_step;
  BadStep("step.struct_size", [](S& s) { s.struct_size = sizeof(S) + 8000; });
  BadStep("step.q must not be NULL", [](S& s) { s.q = nullptr; });
  BadStep("step.out must not be NULL", [](S& s) { s.out = nullptr; });
  BadStep("step.q must be aligned", [](S& s) { s.q = Misaligned(s.q); });
  BadStep("step.out must be aligned", [](S& s) { s.out = Misaligned(static_cast<char*>(s.out)); });
  BadStep("step.lse must be aligned", [](S& s) { s.lse = Misaligned(s.lse); });
  BadStep("step.reports must be aligned", [](S& s) { s.reports = Misaligned(s.reports); });
  BadStep("step.sink_logits must be aligned", [](S& s) { s.sink_logits = Misaligned(s.lse); });
  for (int64_t bad : {int64_t{0}, int64_t{-1}, int64_t{65}, kMost}) {
    BadStep("step.queries must be in [1, 64], got ", [&](S& s) { s.queries = bad; });
  }
  BadStep("cache.lengths[0] must be 0 or at least step.queries, 60, got 50",
          [](S& s) { s.queries = 60; });
  for (int64_t bad : {int64_t{-64}, int64_t{2}, std::numeric_limits<int64_t>::min()}) {
    BadStep("step.q_sequence_stride must be", [&](S& s) { s.q_sequence_stride = bad; });
    BadStep("step.q_head_stride must be", [&](S& s) { s.q_head_stride = bad; });
    BadStep("step.q_query_stride must be", [&](S& s) { s.q_query_stride = bad; });
  }
  // Rows of outputs must not lie in one another.
  for (int64_t bad : {int64_t{0}, int64_t{60}, int64_t{66}}) {
    BadStep("step.out_sequence_stride must be", [&](S& s) { s.out_sequence_stride = bad; });
    BadStep("step.out_head_stride must be", [&](S& s) { s.out_head_stride = bad; });
    BadStep("step.out_query_stride must be", [&](S& s) { s.out_query_stride = bad; });
  }
  BadStep("step.q must span", [](S& s) { s.q_head_stride = kMost - 3; });
  BadStep("step.out must span", [](S& s) { s.out_head_stride = kMost - 3; });
  for (float bad : {kNan, kInfinity, -1.0f}) {
    BadStep("step.scale must be finite and >= 0, got ", [&](S& s) { s.scale = bad; });
    BadStep("step.softcap must be finite and >= 0, got ", [&](S& s) { s.softcap = bad; });
  }
  for (int64_t bad : {int64_t{-1}, int64_t{1} << 31, kMost}) {
    BadStep("step.sliding_window must be in", [&](S& s) { s.sliding_window = bad; });
  }
  EXPECT_THAT(out_, ::testing::Each(7.0f));
  EXPECT_THAT(lse_, ::testing::Each(7.0f));
  ExpectError(SAH_INVALID_ARGUMENT, "step must not be NULL",
              sah_layer_run(layer_.get(), &view_, nullptr));
  ExpectError(SAH_INVALID_ARGUMENT, "cache must not be NULL",
              sah_layer_run(layer_.get(), nullptr, &step_));
  ExpectError(SAH_INVALID_ARGUMENT, "layer must not be NULL",
              sah_layer_run(nullptr, &view_, &step_));
  ExpectError(SAH_INVALID_ARGUMENT, "layer must not be NULL", sah_layer_append(nullptr, &view_));
  EXPECT_SAH(SAH_OK, sah_layer_run(layer_.get(), &view_, &step_));
}

TEST_P(StepTest, OtherArgumentsThatAreWrongAreNamed) {
  sah_layer* const layer = layer_.get();
  ExpectError(SAH_INVALID_ARGUMENT, "sequence must be in [0, 1], got 2",
              sah_layer_truncate(layer, 2, 0));
  ExpectError(SAH_INVALID_ARGUMENT, "sequence must be in [0, 1], got -1",
              sah_layer_truncate(layer, -1, 0));
  ExpectError(SAH_INVALID_ARGUMENT, "length must be in [0, 64], got -1",
              sah_layer_truncate(layer, 0, -1));
  ExpectError(SAH_INVALID_ARGUMENT, "length must be in [0, 64], got 65",
              sah_layer_truncate(layer, 0, 65));
  ExpectError(SAH_INVALID_ARGUMENT, "layer must not be NULL", sah_layer_truncate(nullptr, 0, 0));
  double share = 0;
  ExpectError(SAH_INVALID_ARGUMENT, "keys must be in", sah_layer_scoring_share(layer, -1, &share));
  ExpectError(SAH_INVALID_ARGUMENT, "share must not be NULL",
              sah_layer_scoring_share(layer, 1, nullptr));
  ExpectError(SAH_INVALID_ARGUMENT, "info must not be NULL", sah_layer_get_info(layer, nullptr));
  sah_layer_info info = {};
  ExpectError(SAH_INVALID_ARGUMENT, "info.struct_size must be ", sah_layer_get_info(layer, &info));
}

INSTANTIATE_TEST_SUITE_P(Pages, StepTest, ::testing::Values(0, 8));

}  // namespace
}  // namespace sparse_attention::c_api
