// Arguments of the kernels that are wrong, one at a time: as in hostile_test.cc.
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "sparse_attention/c_api/c_api_testing.h"

namespace sparse_attention::c_api {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Kernels, ArgumentsThatAreWrongAreNamed) {
  std::vector<float> q(32, 0.5f), k(160, 0.5f), v(160, 0.5f), max(2), sum(2), out(32), result(32);
  std::vector<int32_t> table = {1, 0, 2};
  sah_attention good = Sized<sah_attention>();
  good.rows = 2;
  good.dim = 16;
  good.q = q.data();
  good.k = k.data();
  good.v = v.data();
  good.q_stride = good.k_row_stride = good.v_row_stride = 64;
  good.keys = 10;
  const sah_state state = {max.data(), sum.data(), out.data(), 16};
  ASSERT_SAH_OK(sah_state_init(2, 16, &state));
  uint32_t listed[2] = {0, 9};
  sah_key_list list = Sized<sah_key_list>();
  list.keys = listed;
  list.count = 2;
  EXPECT_SAH(SAH_OK, sah_attend_list(&good, &list, &state));

  const auto bad = [&](const std::string& text, const std::function<void(sah_attention&)>& change) {
    sah_attention wrong = good;
    change(wrong);
    ExpectError(SAH_INVALID_ARGUMENT, text,
                sah_attend_range(&wrong, 0, 1, nullptr, nullptr, &state));
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_attend_list(&wrong, &list, &state));
  };
  using A = sah_attention;
  bad("attention.struct_size", [](A& a) { a.struct_size = 1; });
  bad("attention.dtype must be", [](A& a) { a.dtype = 9; });
  for (int32_t wrong : {-1, 0, 17}) bad("attention.rows must be", [&](A& a) { a.rows = wrong; });
  for (int32_t wrong : {-1, 0, 257}) bad("attention.dim must be", [&](A& a) { a.dim = wrong; });
  for (int32_t wrong : {-1, 257}) {
    bad("attention.value_dim must be", [&](A& a) { a.value_dim = wrong; });
  }
  bad("attention.keys must be", [](A& a) { a.keys = -1; });
  bad("attention.keys must be", [](A& a) { a.keys = kMost; });
  bad("attention.q must not be NULL", [](A& a) { a.q = nullptr; });
  bad("attention.k must not be NULL", [](A& a) { a.k = nullptr; });
  bad("attention.v must be aligned", [](A& a) { a.v = Misaligned(a.v); });
  bad("attention.q_stride must be", [](A& a) { a.q_stride = -64; });
  bad("attention.q must span", [](A& a) { a.q_stride = kMost - 3; });
  bad("attention.k_row_stride must be", [](A& a) { a.k_row_stride = 60; });
  bad("attention.v_row_stride must be", [](A& a) { a.v_row_stride = 0; });
  bad("attention.k must span", [](A& a) { a.k_row_stride = kMost - 3; });
  bad("attention.scale must be", [](A& a) { a.scale = kNan; });
  bad("attention.softcap must be", [](A& a) { a.softcap = -1; });
  bad("attention.page_size must be", [](A& a) { a.page_size = 5; });
  const auto paged = [&](const std::string& text,
                         const std::function<void(sah_attention&)>& change) {
    bad(text, [&](A& a) {
      a.page_size = 4;
      a.pages = 3;
      a.block_table = table.data();
      a.k_page_stride = a.v_page_stride = 256;
      change(a);
    });
  };
  paged("attention.pages must be", [](A& a) { a.pages = 0; });
  paged("attention.block_table must not be NULL", [](A& a) { a.block_table = nullptr; });
  paged("attention.block_table[2] must be in [0, 2), got 2", [](A& a) { a.pages = 2; });
  paged("attention.k_page_stride must be", [](A& a) { a.k_page_stride = -4; });
  paged("attention.v must span", [](A& a) { a.v_page_stride = kMost - 3; });

  const auto range = [&](int64_t begin, int64_t end) {
    return sah_attend_range(&good, begin, end, nullptr, nullptr, &state);
  };
  ExpectError(SAH_INVALID_ARGUMENT, "begin must be in [0, 10], got -1", range(-1, 5));
  ExpectError(SAH_INVALID_ARGUMENT, "begin must be in [0, 10], got 11", range(11, 11));
  ExpectError(SAH_INVALID_ARGUMENT, "end must be in [0, 10], got 11", range(0, 11));
  ExpectError(SAH_INVALID_ARGUMENT, "end must be in [5, 10], got 4", range(5, 4));
  const int64_t wild[2] = {-kMost - 1, kMost};  // no key lies there: an empty row
  EXPECT_SAH(SAH_OK, sah_attend_range(&good, 0, 10, wild, wild, &state));

  const auto bad_list = [&](const std::string& text,
                            const std::function<void(sah_key_list&)>& change) {
    sah_key_list wrong = list;
    change(wrong);
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_attend_list(&good, &wrong, &state));
  };
  using L = sah_key_list;
  float weights[4] = {1, 2, 3, 4};
  bad_list("list.struct_size", [](L& l) { l.struct_size = 0; });
  bad_list("list.keys must not be NULL", [](L& l) { l.keys = nullptr; });
  bad_list("list.keys must be aligned", [](L& l) { l.keys = Misaligned(l.keys); });
  bad_list("list.count must be", [](L& l) { l.count = -1; });
  bad_list("list.count must be", [](L& l) { l.count = kMost; });
  for (uint32_t wrong : {10u, 0xFFFFFFFFu}) {
    listed[1] = wrong;
    bad_list(absl::StrCat("list.keys[1] must be below attention.keys, 10, got ", wrong), [](L&) {});
  }
  listed[1] = 9;
  list.inverse_probabilities = weights;
  list.inverse_probability_stride = 2;
  EXPECT_SAH(SAH_OK, sah_attend_list(&good, &list, &state));
  bad_list("list.inverse_probability_stride must be",
           [](L& l) { l.inverse_probability_stride = 1; });
  bad_list("list.inverse_probability_stride must be",
           [](L& l) { l.inverse_probability_stride = -2; });
  for (float wrong : {0.0f, -1.0f, kNan, kInfinity}) {
    weights[3] = wrong;
    bad_list("list.inverse_probabilities[1][1] must be > 0 and finite, got ", [](L&) {});
  }

  const auto bad_state = [&](const std::string& text, const sah_state& wrong) {
    ExpectError(SAH_INVALID_ARGUMENT, text, sah_state_init(2, 16, &wrong));
    ExpectError(SAH_INVALID_ARGUMENT, text,
                sah_attend_range(&good, 0, 1, nullptr, nullptr, &wrong));
    ExpectError(SAH_INVALID_ARGUMENT, text,
                sah_state_finish(2, 16, &wrong, nullptr, 0, result.data(), 64, nullptr));
  };
  bad_state("state.max must not be NULL", {nullptr, sum.data(), out.data(), 16});
  bad_state("state.sum must be aligned", {max.data(), Misaligned(sum.data()), out.data(), 16});
  bad_state("state.out must not be NULL", {max.data(), sum.data(), nullptr, 16});
  bad_state("state.out_stride must be", {max.data(), sum.data(), out.data(), 15});
  ExpectError(SAH_INVALID_ARGUMENT, "state must not be NULL", sah_state_init(2, 16, nullptr));
  ExpectError(SAH_INVALID_ARGUMENT, "rows must be", sah_state_init(17, 16, &state));
  ExpectError(SAH_INVALID_ARGUMENT, "value_dim must be", sah_state_init(2, 0, &state));
  ExpectError(SAH_INVALID_ARGUMENT, "from must not be NULL",
              sah_state_merge(2, 16, nullptr, &state));
  ExpectError(SAH_INVALID_ARGUMENT, "into must not be NULL",
              sah_state_merge(2, 16, &state, nullptr));
  const auto finish = [&](int32_t dtype, void* to, int64_t stride) {
    return sah_state_finish(2, 16, &state, nullptr, dtype, to, stride, nullptr);
  };
  ExpectError(SAH_INVALID_ARGUMENT, "dtype must be", finish(3, result.data(), 64));
  ExpectError(SAH_INVALID_ARGUMENT, "out must not be NULL", finish(0, nullptr, 64));
  ExpectError(SAH_INVALID_ARGUMENT, "out_stride must be", finish(0, result.data(), 60));
  ExpectError(SAH_INVALID_ARGUMENT, "out_stride must be", finish(0, result.data(), -64));
  ExpectError(SAH_INVALID_ARGUMENT, "out must span", finish(0, result.data(), kMost - 3));
}

TEST(Kernels, TopKArgumentsThatAreWrongAreNamed) {
  const float scores[3] = {1, 2, 3};
  uint32_t selected[3];
  int64_t count = 0;
  ExpectError(SAH_INVALID_ARGUMENT, "n must be in",
              sah_top_k(scores, -1, 1, nullptr, selected, &count));
  ExpectError(SAH_INVALID_ARGUMENT, "n must be in",
              sah_top_k(scores, int64_t{1} << 31, 1, nullptr, selected, &count));
  ExpectError(SAH_INVALID_ARGUMENT, "k must be in",
              sah_top_k(scores, 3, -1, nullptr, selected, &count));
  ExpectError(SAH_INVALID_ARGUMENT, "scores must not be NULL",
              sah_top_k(nullptr, 3, 1, nullptr, selected, &count));
  ExpectError(SAH_INVALID_ARGUMENT, "selected must not be NULL",
              sah_top_k(scores, 3, 1, nullptr, nullptr, &count));
  ExpectError(SAH_INVALID_ARGUMENT, "count must not be NULL",
              sah_top_k(scores, 3, 1, nullptr, selected, nullptr));
  EXPECT_SAH(SAH_OK, sah_top_k(nullptr, 0, 5, nullptr, nullptr, &count));
  EXPECT_EQ(count, 0);
}

}  // namespace
}  // namespace sparse_attention::c_api
