#include "sparse_attention/efficient_attention/kernels/cpu/attention/weighted_list.h"

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention_testing.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/isa_testing.h"

namespace sparse_attention::cpu {
namespace {

class WeightedListTest : public IsaTest {
 protected:
  const AttentionKernels& kernels_ = AttentionKernelsFor(GetParam());
  const std::unique_ptr<RowListScratch> scratch_ = std::make_unique<RowListScratch>();
};
SA_INSTANTIATE_ISAS(WeightedListTest);

// Keys of a random share, and a weight each.
struct Choice {
  Choice(Fixture& fixture, double share) {
    for (const uint32_t key : fixture.RandomKeys(share)) {
      keys.push_back(key);
      weights.push_back(std::exp2(static_cast<float>(Draw(fixture.random, -8, 24)) / 4));
    }
  }
  RowList list(bool weighted) const {
    return {keys.data(), weighted ? weights.data() : nullptr, static_cast<int64_t>(keys.size())};
  }
  std::vector<int64_t> keys;
  std::vector<float> weights;
};

TEST_P(WeightedListTest, ListsOfRowsAndSharedListsAreASoftmax) {
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    CountCase(GetParam());
    Random random(seed);
    Shape shape = RandomShape(random);
    const bool several_pieces = seed % 20 == 0;
    if (several_pieces) shape.keys = 3 * RowListScratch::kPiece + static_cast<int64_t>(seed);
    Fixture fixture(kernels_, shape, seed);
    const bool shared = several_pieces ? seed % 40 == 0 : Draw(random, 0, 2) == 0;
    std::vector<Choice> choices;
    std::vector<RowList> lists;
    for (int r = 0; r < (shared ? 1 : shape.rows); ++r) {
      choices.emplace_back(fixture,
                           several_pieces ? 1 : static_cast<double>(Draw(random, 0, 4)) / 4);
    }
    for (const Choice& choice : choices) {
      lists.push_back(choice.list(several_pieces || Draw(random, 0, 2) != 0));
    }
    // In two parts, whose border may be anywhere.
    const int64_t border = Draw(random, 0, shape.keys);
    std::vector<RowList> first, second;
    for (const RowList& list : lists) {
      first.push_back(list.Within(0, border));
      second.push_back(list.Within(border, shape.keys));
      EXPECT_EQ(first.back().count + second.back().count, list.count);
    }
    for (const auto& part : {first, second}) {
      if (shared) {
        AttendSharedList(kernels_, fixture.problem, part[0], *scratch_, fixture.state.get());
      } else {
        AttendRowLists(kernels_, fixture.problem, part.data(), *scratch_, fixture.state.get());
      }
    }
    for (int r = 0; r < shape.rows; ++r) {
      const RowList& list = lists[shared ? 0 : r];
      for (int64_t i = 0; i < list.count; ++i) {
        const float* const weights = list.inverse_probabilities;
        fixture.Expect(r, list.keys[i], weights == nullptr ? 0 : std::log(double{weights[i]}));
      }
    }
    fixture.Check(shape.element);
  }
}

// Weights of rows that are not members of a key have no meaning, NaN among them.
TEST_P(WeightedListTest, TakesMembersAndWeightsByRow) {
  CountCase(GetParam());
  Shape shape;
  shape.rows = 3;
  shape.keys = 1300;  // more than a piece of logarithms
  Fixture fixture(kernels_, shape, 7);
  std::vector<uint32_t> keys(1300);
  std::iota(keys.begin(), keys.end(), 0u);
  std::vector<uint16_t> members(keys.size());
  const int64_t stride = 1311;
  std::vector<float> weights(static_cast<size_t>(3 * stride), kNan);
  for (size_t i = 0; i < keys.size(); ++i) {
    members[i] = static_cast<uint16_t>(i % 8);
    for (int r = 0; r < 3; ++r) {
      if ((members[i] >> r & 1) == 0) continue;
      weights[r * stride + i] = static_cast<float>(1 + i % 5);
      fixture.Expect(r, keys[i], std::log(1.0 + static_cast<double>(i % 5)));
    }
  }
  AttendWeightedList(kernels_, fixture.problem,
                     {keys.data(), 1300, members.data(), weights.data(), stride},
                     fixture.state.get());
  fixture.Check(shape.element);
}

}  // namespace
}  // namespace sparse_attention::cpu
