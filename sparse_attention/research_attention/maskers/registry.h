// The list of all maskers, and their creation from JSON.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_REGISTRY_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_REGISTRY_H_

#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// Those of maskers.inc in its order, then registered ones in the order of their registration.
std::vector<const MaskerDescriptor*> AllMaskers();

// NotFound names the nearest masker and lists all.
absl::StatusOr<const MaskerDescriptor*> FindMasker(absl::string_view name);

// Adds a masker from outside this project. `descriptor` must live as long as the process.
// AlreadyExists: the name is taken. Thread-safe; call it before pipelines are created.
absl::Status RegisterMasker(const MaskerDescriptor& descriptor);

// {"type": "sink", "sink_size": 4}. InvalidArgument names the field, the rule and the value.
absl::StatusOr<std::unique_ptr<Masker>> MaskerFromJson(const Json& json,
                                                       const MaskerOptions& options);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_REGISTRY_H_
