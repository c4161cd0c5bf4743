// GoogleMock matchers for absl::Status and absl::StatusOr, for tests.
//
// The installed Abseil has none; names and meaning follow the later absl/status/status_matchers.h.
// There is no `NotOk`: a test says which error it expects.
#ifndef SPARSE_ATTENTION_BASE_STATUS_MATCHERS_H_
#define SPARSE_ATTENTION_BASE_STATUS_MATCHERS_H_

#include <string>

#include "gmock/gmock.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {

MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << internal_status::ToStatus(arg).ToString();
  return arg.ok();
}

MATCHER_P(IsOkAndHolds, value_matcher,
          "is OK and holds " +
              ::testing::DescribeMatcher<typename std::decay_t<arg_type>::value_type>(value_matcher,
                                                                                      negation)) {
  if (!arg.ok()) {
    *result_listener << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(value_matcher, *arg, result_listener);
}

// StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("heavy_size must be > 0"))
MATCHER_P2(StatusIs, code, message_matcher,
           "has code " + absl::StatusCodeToString(code) + " and a message that " +
               ::testing::DescribeMatcher<std::string>(message_matcher, negation)) {
  const absl::Status& status = internal_status::ToStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ::testing::ExplainMatchResult(message_matcher, std::string(status.message()),
                                       result_listener);
}

inline auto StatusIs(absl::StatusCode code) { return StatusIs(code, ::testing::_); }

#define SA_ASSERT_OK(expression) ASSERT_THAT(expression, ::sparse_attention::IsOk())
#define SA_EXPECT_OK(expression) EXPECT_THAT(expression, ::sparse_attention::IsOk())

// SA_ASSERT_OK_AND_ASSIGN(const Mask mask, Mask::FromDense(t));
#define SA_ASSERT_OK_AND_ASSIGN(lhs, expression) \
  SA_ASSERT_OK_AND_ASSIGN_(SA_STATUS_CONCAT_(sa_status_or_, __LINE__), lhs, expression)
#define SA_ASSERT_OK_AND_ASSIGN_(temporary, lhs, expression) \
  auto temporary = (expression);                             \
  SA_ASSERT_OK(temporary);                                   \
  lhs = *std::move(temporary)

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_BASE_STATUS_MATCHERS_H_
