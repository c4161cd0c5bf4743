// What the tests of the C API share: random rows, and a host's cache, contiguous or in pages.
#ifndef SPARSE_ATTENTION_C_API_C_API_TESTING_H_
#define SPARSE_ATTENTION_C_API_C_API_TESTING_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sparse_attention/base/normal.h"
#include "sparse_attention/base/philox.h"
#include "sparse_attention/c_api/sparse_attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/element.h"

namespace sparse_attention::c_api {

// EXPECT_SAH(SAH_OK, sah_layer_append(...)).
#define EXPECT_SAH(status, call) EXPECT_EQ(status, call) << sah_last_error()
#define ASSERT_SAH_OK(call) ASSERT_EQ(SAH_OK, call) << sah_last_error()

// The status, and a part of the text.
inline void ExpectError(sah_status expected, const std::string& text, sah_status got) {
  EXPECT_EQ(sah_status_name(got), std::string(sah_status_name(expected))) << text;
  EXPECT_THAT(sah_last_error(), ::testing::HasSubstr(text));
}

// One byte beyond.
template <typename T>
T* Misaligned(T* pointer) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + 1);
}
inline const void* Misaligned(const void* pointer) { return static_cast<const char*>(pointer) + 1; }

template <typename T>
T Sized() {
  T value = {};
  value.struct_size = sizeof(T);
  return value;
}

struct Destroy {
  void operator()(sah_engine* engine) const { sah_engine_destroy(engine); }
  void operator()(sah_layer* layer) const { sah_layer_destroy(layer); }
};
using EnginePtr = std::unique_ptr<sah_engine, Destroy>;
using LayerPtr = std::unique_ptr<sah_layer, Destroy>;

inline EnginePtr MakeEngine(const std::string& json, int threads) {
  sah_engine_options options = Sized<sah_engine_options>();
  options.threads = threads;
  sah_engine* engine = nullptr;
  EXPECT_SAH(SAH_OK, sah_engine_create(json.c_str(), &options, &engine));
  return EnginePtr(engine);
}

// Standard normal elements, exactly `count` of them, so that the address sanitizer sees what lies
// beyond.
inline std::vector<char> RandomElements(uint64_t seed, int64_t count, cpu::Element element) {
  PhiloxStream stream(seed, RandomPurpose::kTest, 0, 0, 0);
  std::vector<char> bytes(static_cast<size_t>(count * cpu::ElementBytes(element)));
  for (int64_t i = 0; i < count; ++i) {
    cpu::SetElement(bytes.data(), element, i, static_cast<float>(NormalPair(stream).first));
  }
  return bytes;
}

// A cache as hosts have them, tokens outside heads: [sequences, capacity, KV heads, dim], or a pool
// [pages, page_size, KV heads, dim] whose pages sequences take in no order.
class HostCache {
 public:
  HostCache(cpu::Element element, int32_t sequences, int32_t capacity, int32_t kv_heads,
            int32_t dim, int32_t value_dim, int64_t page_size)
      : page_size_(page_size) {
    const int64_t bytes = cpu::ElementBytes(element);
    k_token_ = kv_heads * dim * bytes;
    v_token_ = kv_heads * value_dim * bytes;
    lengths_.assign(static_cast<size_t>(sequences), 0);
    padding_.assign(static_cast<size_t>(sequences), 0);
    view_ = Sized<sah_kv_cache>();
    view_.k_row_stride = k_token_;
    view_.v_row_stride = v_token_;
    view_.k_head_stride = dim * bytes;
    view_.v_head_stride = value_dim * bytes;
    int64_t block = capacity, blocks = sequences;
    if (page_size != 0) {
      table_stride_ = (capacity + page_size - 1) / page_size;
      block = page_size;
      blocks = table_stride_ * sequences + 1;
      // A stride without a common factor walks over all pages.
      tables_.resize(static_cast<size_t>(table_stride_ * sequences));
      for (size_t i = 0; i < tables_.size(); ++i) {
        tables_[i] = static_cast<int32_t>((static_cast<int64_t>(i) * 7 + 3) % (blocks - 1));
      }
      if ((blocks - 1) % 7 == 0) std::iota(tables_.rbegin(), tables_.rend(), 0);
      view_.page_size = page_size;
      view_.pages = blocks;
      view_.block_table_stride = table_stride_;
    }
    view_.k_block_stride = block * k_token_;
    view_.v_block_stride = block * v_token_;
    k_.resize(static_cast<size_t>(blocks * view_.k_block_stride));
    v_.resize(static_cast<size_t>(blocks * view_.v_block_stride));
  }

  // Rows [KV heads, dim] of one token each.
  void Append(int32_t sequence, const char* k, const char* v, int32_t tokens) {
    for (int32_t t = 0; t < tokens; ++t) {
      const int64_t j = lengths_[static_cast<size_t>(sequence)]++;
      int64_t row = 0;
      if (page_size_ == 0) {
        row = sequence * (view_.k_block_stride / k_token_) + j;
      } else {
        const size_t entry = static_cast<size_t>(sequence * table_stride_ + j / page_size_);
        row = tables_[entry] * page_size_ + j % page_size_;
      }
      std::memcpy(k_.data() + row * k_token_, k + t * k_token_, static_cast<size_t>(k_token_));
      std::memcpy(v_.data() + row * v_token_, v + t * v_token_, static_cast<size_t>(v_token_));
    }
  }

  sah_kv_cache view() {
    view_.k = k_.data();
    view_.v = v_.data();
    view_.block_tables = page_size_ == 0 ? nullptr : tables_.data();
    view_.lengths = lengths_.data();
    view_.padding = padding_.data();
    return view_;
  }
  std::vector<int32_t>& lengths() { return lengths_; }
  std::vector<int32_t>& padding() { return padding_; }
  std::vector<int32_t>& tables() { return tables_; }

 private:
  int64_t page_size_, table_stride_ = 0;
  int64_t k_token_, v_token_;
  std::vector<char> k_, v_;
  std::vector<int32_t> lengths_, padding_, tables_;
  sah_kv_cache view_;
};

}  // namespace sparse_attention::c_api

#endif  // SPARSE_ATTENTION_C_API_C_API_TESTING_H_
