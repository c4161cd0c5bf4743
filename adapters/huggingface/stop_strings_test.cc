#include "adapters/huggingface/stop_strings.h"

#include "gtest/gtest.h"

namespace sparse_attention {
namespace {

TEST(StopStrings, WithoutStringsEverythingPasses) {
  StopStrings stop({"", ""});
  EXPECT_EQ(stop.Push("abc"), "abc");
  EXPECT_EQ(stop.Flush(), "");
  EXPECT_FALSE(stop.found());
}

TEST(StopStrings, CutsAtTheFirstEvenAcrossPieces) {
  StopStrings stop({"END", "\n\n"});
  EXPECT_EQ(stop.Push("one\n"), "one");
  EXPECT_EQ(stop.Push("two E"), "\ntwo ");
  EXPECT_EQ(stop.Push("N"), "");
  EXPECT_FALSE(stop.found());
  EXPECT_EQ(stop.Push("D\n\nmore"), "");
  EXPECT_TRUE(stop.found());
  EXPECT_EQ(stop.Push("anything"), "");
  EXPECT_EQ(stop.Flush(), "");
}

TEST(StopStrings, WhatWasHeldBackComesOutInTheEnd) {
  StopStrings stop({"abcd"});
  EXPECT_EQ(stop.Push("xabab"), "xab");
  EXPECT_EQ(stop.Push("c"), "");
  EXPECT_EQ(stop.Flush(), "abc");
}

TEST(StopStrings, TheEarliestInTheTextWins) {
  StopStrings stop({"late", "c"});
  EXPECT_EQ(stop.Push("abclate"), "ab");
  EXPECT_TRUE(stop.found());
}

}  // namespace
}  // namespace sparse_attention
