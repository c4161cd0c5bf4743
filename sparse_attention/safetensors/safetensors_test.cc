#include "sparse_attention/safetensors/safetensors.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/base/status_matchers.h"
#include "sparse_attention/safetensors/safetensors_corpus.h"
#include "sparse_attention/safetensors/safetensors_writer.h"

namespace {
// Bytes asked of operator new since the test began to count.
size_t allocated_bytes = 0;
}  // namespace

void* operator new(size_t size) {
  allocated_bytes += size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace sparse_attention {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsNull;
using ::testing::NotNull;
using ::testing::Pair;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string TempPath(const std::string& name) {
  return (std::filesystem::path(::testing::TempDir()) / absl::StrCat(getpid(), "_", name)).string();
}

std::string DataOf(const TensorView& view) {
  return std::string(reinterpret_cast<const char*>(view.data), view.bytes);
}

TensorView View(std::string name, SafetensorsDtype dtype, std::vector<int64_t> shape,
                const std::string& data) {
  return {.name = std::move(name),
          .dtype = dtype,
          .shape = std::move(shape),
          .data = reinterpret_cast<const std::byte*>(data.data()),
          .bytes = data.size()};
}

class CorpusTest : public ::testing::TestWithParam<size_t> {};

TEST_P(CorpusTest, GetsItsVerdict) {
  const SafetensorsCase& test_case = SafetensorsCorpus()[GetParam()];
  SCOPED_TRACE(test_case.name);
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::FromBytes(test_case.bytes);
  if (test_case.verdict == SafetensorsVerdict::kAccept) {
    SA_ASSERT_OK(file);
    size_t bytes = 0;
    for (const TensorView& view : file->tensors()) {
      EXPECT_EQ(file->Find(view.name), &view);
      bytes += view.bytes;
    }
    EXPECT_LE(bytes, test_case.bytes.size());
  } else {
    EXPECT_THAT(file, StatusIs(kInvalid, HasSubstr(test_case.message)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CorpusTest, ::testing::Range<size_t>(0, SafetensorsCorpus().size()));

TEST(Corpus, IsLargeAndNamesEachCaseOnce) {
  std::set<std::string> names;
  std::map<SafetensorsVerdict, int> count;
  for (const SafetensorsCase& test_case : SafetensorsCorpus()) {
    EXPECT_TRUE(names.insert(test_case.name).second) << test_case.name;
    ++count[test_case.verdict];
  }
  EXPECT_GE(count[SafetensorsVerdict::kAccept], 50);
  EXPECT_GE(count[SafetensorsVerdict::kReject], 120);
  EXPECT_GE(count[SafetensorsVerdict::kStricter], 8);
}

TEST(SafetensorsFile, GivesWhatIsInTheFile) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"I16","shape":[1,2],"data_offsets":[1,5]},)"
      R"("e":{"dtype":"F32","shape":[0,7],"data_offsets":[5,5]},"b":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})";
  SA_ASSERT_OK_AND_ASSIGN(SafetensorsFile file,
                          SafetensorsFile::FromBytes(SafetensorsBytes(header, "Babcd")));
  const auto expect_all = [](const SafetensorsFile& file) {
    EXPECT_THAT(file.tensors(),
                ElementsAre(Field(&TensorView::name, "b"), Field(&TensorView::name, "w"),
                            Field(&TensorView::name, "e")));
    EXPECT_THAT(file.metadata(), UnorderedElementsAre(Pair("format", "pt")));
    ASSERT_THAT(file.Find("w"), NotNull());
    EXPECT_EQ(file.Find("w")->dtype, SafetensorsDtype::kI16);
    EXPECT_THAT(file.Find("w")->shape, ElementsAre(1, 2));
    EXPECT_EQ(DataOf(*file.Find("w")), "abcd");
    EXPECT_EQ(DataOf(*file.Find("b")), "B");
    EXPECT_THAT(file.Find("b")->shape, IsEmpty());
    EXPECT_EQ(file.Find("e")->bytes, 0);
    EXPECT_THAT(file.Find("x"), IsNull());
    EXPECT_THAT(file.Find("__metadata__"), IsNull());
  };
  expect_all(file);
  const std::byte* data = file.Find("w")->data;
  SafetensorsFile moved = std::move(file);
  expect_all(moved);
  EXPECT_EQ(moved.Find("w")->data, data);
}

TEST(SafetensorsFile, OpenMapsAFileAndNamesItInErrors) {
  const std::string path = TempPath("a.safetensors");
  const std::string data = "12345678";
  SA_ASSERT_OK(WriteSafetensors(path, {View("x", SafetensorsDtype::kF32, {2}, data)}));
  {
    SA_ASSERT_OK_AND_ASSIGN(SafetensorsFile file, SafetensorsFile::Open(path));
    // The mapping outlives the name.
    ASSERT_EQ(std::remove(path.c_str()), 0);
    EXPECT_EQ(DataOf(*file.Find("x")), data);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(file.Find("x")->data) % 8, 0);
  }
  EXPECT_THAT(
      SafetensorsFile::Open(path),
      StatusIs(absl::StatusCode::kNotFound, AllOf(StartsWith(path), HasSubstr("No such file"))));
  for (const std::string& content :
       {std::string(), std::string("short"),
        SafetensorsBytes(R"({"a":{"dtype":"U9","shape":[1],"data_offsets":[0,1]}})", "x")}) {
    std::ofstream(path, std::ios::binary) << content;
    EXPECT_THAT(SafetensorsFile::Open(path), StatusIs(kInvalid, StartsWith(path + ": ")));
  }
  EXPECT_THAT(SafetensorsFile::Open(path),
              StatusIs(kInvalid, path + ": tensor \"a\": unknown dtype \"U9\""));
  EXPECT_THAT(SafetensorsFile::Open(::testing::TempDir()),
              StatusIs(kInvalid, HasSubstr("not a regular file")));
}

TEST(SafetensorsFile, AHeaderLengthAllocatesNothing) {
  for (const uint64_t length :
       {~uint64_t{0}, uint64_t{1} << 63, uint64_t{100'000'001}, uint64_t{100'000'000}}) {
    std::string bytes(16, '{');
    std::memcpy(bytes.data(), &length, sizeof(length));
    allocated_bytes = 0;
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::FromBytes(std::move(bytes));
    EXPECT_LT(allocated_bytes, 10'000);
    EXPECT_THAT(file, StatusIs(kInvalid));
  }
}

TEST(SafetensorsFile, MemoryIsBoundedByTheHeader) {
  // The densest things that a header can hold: dimensions, and tensors with short names.
  std::string dimensions = R"({"a":{"dtype":"U8","data_offsets":[0,0],"shape":[0)";
  for (int i = 0; i < 200'000; ++i) dimensions += ",1";
  std::string tensors = "{";
  for (int i = 0; i < 5'000; ++i) {
    absl::StrAppend(&tensors, i == 0 ? "" : ",", "\"", i,
                    R"(":{"dtype":"U8","data_offsets":[0,0],"shape":[0]})");
  }
  for (const std::string& header : {dimensions + "]}}", tensors + "}"}) {
    std::string bytes = SafetensorsBytes(header);
    allocated_bytes = 0;
    SA_EXPECT_OK(SafetensorsFile::FromBytes(std::move(bytes)));
    EXPECT_LT(allocated_bytes, 40 * header.size());
    EXPECT_GT(allocated_bytes, header.size());  // the counter counts
  }
}

TEST(SafetensorsFile, LongNamesAreShortenedInErrors) {
  const std::string name(100'000, 'n');
  const absl::StatusOr<SafetensorsFile> file =
      SafetensorsFile::FromBytes(SafetensorsBytes("{\"" + name + "\":1}"));
  EXPECT_THAT(file, StatusIs(kInvalid, HasSubstr("nnn\"...")));
  EXPECT_LT(file.status().message().size(), 400);
  EXPECT_THAT(SafetensorsFile::FromBytes(SafetensorsBytes("{\"a\\n\":1}")),
              StatusIs(kInvalid, StartsWith("tensor \"a\\n\": ")));
}

// Whatever bytes come: a verdict, and views that stay inside the file.
TEST(SafetensorsFile, FiveThousandMutationsNeitherCrashNorReadOutside) {
  std::vector<std::string> seeds;
  for (const SafetensorsCase& test_case : SafetensorsCorpus()) {
    if (test_case.verdict == SafetensorsVerdict::kAccept && test_case.bytes.size() < 2000) {
      seeds.push_back(test_case.bytes);
    }
  }
  PhiloxStream random(/*seed=*/20, RandomPurpose::kTest, 0, 0, 0);
  int accepted = 0, refused = 0;
  uint64_t sum = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string bytes = seeds[random.Below(seeds.size())];
    for (uint32_t flips = 1 + random.Below(4); flips > 0; --flips) {
      bytes[random.Below(bytes.size())] ^= static_cast<char>(1 << random.Below(8));
    }
    if (random.Below(8) == 0) bytes.resize(random.Below(bytes.size() + 1));
    const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::FromBytes(std::move(bytes));
    if (!file.ok()) {
      ASSERT_THAT(file, StatusIs(kInvalid));
      ++refused;
      continue;
    }
    ++accepted;
    for (const TensorView& view : file->tensors()) {
      for (size_t j = 0; j < view.bytes; ++j) sum += static_cast<uint64_t>(view.data[j]);
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
  EXPECT_GT(sum, 0);
}

TEST(WriteSafetensors, RoundTripsInTheReferencesOrder) {
  const std::string eight = "12345678", four = "abcd", none;
  SA_ASSERT_OK_AND_ASSIGN(const std::string bytes,
                          SerializeSafetensors({View("z", SafetensorsDtype::kBF16, {2, 1}, four),
                                                View("b", SafetensorsDtype::kF32, {1}, four),
                                                View("a", SafetensorsDtype::kF32, {2}, eight),
                                                View("q\"\n", SafetensorsDtype::kU8, {0, 3}, none)},
                                               {{"format", "pt"}}));
  EXPECT_EQ(
      bytes.substr(8),
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
      R"("z":{"dtype":"BF16","shape":[2,1],"data_offsets":[12,16]},)"
      R"("q\"\n":{"dtype":"U8","shape":[0,3],"data_offsets":[16,16]}}       12345678abcdabcd)");
  EXPECT_EQ(bytes.size() % 8, 0);
  SA_ASSERT_OK_AND_ASSIGN(const SafetensorsFile file, SafetensorsFile::FromBytes(bytes));
  EXPECT_EQ(DataOf(*file.Find("a")), eight);
  EXPECT_THAT(file.Find("q\"\n"), NotNull());
}

TEST(WriteSafetensors, RefusesWhatItCouldNotReadBack) {
  const std::string four = "abcd";
  const auto refuse = [&](std::vector<TensorView> tensors, const std::string& message) {
    EXPECT_THAT(SerializeSafetensors(std::move(tensors)), StatusIs(kInvalid, HasSubstr(message)));
  };
  const auto kF32 = SafetensorsDtype::kF32;
  refuse({View("a", kF32, {1}, four), View("a", kF32, {1}, four)}, "duplicate key \"a\"");
  refuse({View("a", kF32, {-1}, four)}, "tensor \"a\": shape[0] must be an integer >= 0, got -1");
  refuse({View("a", kF32, {2}, four)}, "must span the 8 bytes");
  refuse({View("__metadata__", kF32, {1}, four)}, "__metadata__");
  refuse({View("\xff", kF32, {1}, four)}, "must be UTF-8");
  EXPECT_THAT(SerializeSafetensors({}, {{"k", "\xff"}}), StatusIs(kInvalid, HasSubstr("UTF-8")));
  EXPECT_THAT(WriteSafetensors("/no/such/folder/x", {View("a", kF32, {1}, four)}),
              StatusIs(kInvalid, "/no/such/folder/x: cannot write"));
  EXPECT_THAT(WriteSafetensors("x", {View("a", kF32, {2}, four)}),
              StatusIs(kInvalid, StartsWith("x: tensor \"a\": ")));
}

}  // namespace
}  // namespace sparse_attention
