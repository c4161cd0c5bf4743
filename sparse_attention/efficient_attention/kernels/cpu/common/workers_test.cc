#include "sparse_attention/efficient_attention/kernels/cpu/common/workers.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparse_attention::cpu {
namespace {

using ::testing::Each;

class WorkersTest : public ::testing::TestWithParam<int> {};

TEST_P(WorkersTest, EveryItemIsDoneOnce) {
  Workers workers(GetParam());
  EXPECT_EQ(workers.threads(), GetParam());
  for (int round = 0; round < 200; ++round) {
    std::vector<int> done(round, 0);
    workers.Run(round, [&](int64_t item, int thread) {
      ASSERT_GE(thread, 0);
      ASSERT_LT(thread, workers.threads());
      ++done[item];
    });
    EXPECT_THAT(done, Each(1));
  }
}

TEST_P(WorkersTest, WritesOfItemsAreSeenAfterwards) {
  Workers workers(GetParam());
  std::vector<int64_t> values(64, 0);
  for (int64_t round = 1; round <= 500; ++round) {
    workers.Run(64, [&](int64_t item, int) { values[item] += round; });
  }
  EXPECT_THAT(values, Each(500 * 501 / 2));
}

TEST_P(WorkersTest, CallersOfSeveralThreadsTakeTurns) {
  Workers workers(GetParam());
  std::atomic<int> at_work = 0, most = 0, done = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        workers.Run(1, [&](int64_t, int) {
          most = std::max(most.load(), ++at_work);
          ++done;
          --at_work;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(done, 150);
  EXPECT_EQ(most, 1);
}

// Each thread anew.
void RunInFreshThreads(int threads, void (*part)(void*, int), void* context) {
  std::vector<std::thread> pool;
  for (int thread = 0; thread < threads; ++thread) pool.emplace_back(part, context, thread);
  for (std::thread& thread : pool) thread.join();
}
// As a pool does whose threads are all at work.
void RunInTurn(int threads, void (*part)(void*, int), void* context) {
  for (int thread = 0; thread < threads; ++thread) part(context, thread);
}

TEST(BorrowedWorkers, EveryItemIsDoneOnce) {
  for (const Workers::Pool pool : {&RunInFreshThreads, &RunInTurn}) {
    for (int threads : {1, 2, 5}) {
      Workers workers(threads, pool);
      EXPECT_EQ(workers.threads(), threads);
      for (int round = 0; round < 50; ++round) {
        std::vector<int> done(round, 0);
        workers.Run(round, [&](int64_t item, int thread) {
          ASSERT_GE(thread, 0);
          ASSERT_LT(thread, threads);
          ++done[item];
        });
        EXPECT_THAT(done, Each(1));
      }
    }
  }
}

TEST(BorrowedWorkers, ThreadsOfThePoolTakePart) {
  Workers workers(2, &RunInFreshThreads);
  std::atomic<int> arrived = 0;
  workers.Run(2, [&](int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();  // one thread alone would wait for ever
  });
  EXPECT_EQ(arrived, 2);
}

INSTANTIATE_TEST_SUITE_P(Threads, WorkersTest, ::testing::Values(1, 2, 5));

TEST(Workers, SeveralThreadsShareTheItems) {
  Workers workers(2);
  std::atomic<int> arrived = 0;
  // Each item waits for the other one: with a single thread this would never end.
  workers.Run(2, [&](int64_t, int) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived, 2);
}

}  // namespace
}  // namespace sparse_attention::cpu
