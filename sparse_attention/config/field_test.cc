#include "sparse_attention/config/field.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/status_matchers.h"

namespace sparse_attention {
namespace {

struct SinkConfig {
  static constexpr char kName[] = "sink";
  Budget sink_size = Budget::Count(4);
  static auto Fields() {
    return std::tuple(
        Field{"sink_size", &SinkConfig::sink_size, "Leading keys kept.", PositiveBudget()},
        IgnoredField{"search_space"});
  }
};

TEST(Field, UnknownFieldNamesTheNearest) {
  EXPECT_THAT(ConfigFromJson<SinkConfig>(*ParseJson(R"({"size": 4})")),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "sink has no field \"size\" (did you mean \"sink_size\"? fields: "
                       "sink_size)"));
  EXPECT_THAT(DumpJson(ConfigToJson(SinkConfig())), R"({"type":"sink","sink_size":4})");
}

}  // namespace
}  // namespace sparse_attention
