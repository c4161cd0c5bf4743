// One table per enum: its values and their names in JSON. Parsing, output, messages and schema all
// read it.
//
//   enum class Metric { kEuclidean, kInnerProduct };
//   template <>
//   struct EnumNames<Metric> {
//     static constexpr std::pair<Metric, const char*> kTable[] = {{Metric::kEuclidean,
//     "euclidean"},
//                                                                 {Metric::kInnerProduct, "ip"}};
//   };
#ifndef SPARSE_ATTENTION_CONFIG_ENUM_NAMES_H_
#define SPARSE_ATTENTION_CONFIG_ENUM_NAMES_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace sparse_attention {

template <class E>
struct EnumNames;

// The name, or "" for a value that the table lacks.
template <class E>
absl::string_view EnumName(E value) {
  for (const auto& [entry, name] : EnumNames<E>::kTable) {
    if (entry == value) return name;
  }
  return "";
}

template <class E>
std::optional<E> EnumFromName(absl::string_view name) {
  for (const auto& [entry, entry_name] : EnumNames<E>::kTable) {
    if (name == entry_name) return entry;
  }
  return std::nullopt;
}

// "'max', 'mean' or 'sum'", for messages.
template <class E>
std::string EnumChoices() {
  std::string choices;
  size_t left = std::size(EnumNames<E>::kTable);
  for (const auto& [entry, name] : EnumNames<E>::kTable) {
    --left;
    absl::StrAppend(&choices, "'", name, "'", left > 1 ? ", " : left == 1 ? " or " : "");
  }
  return choices;
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_CONFIG_ENUM_NAMES_H_
