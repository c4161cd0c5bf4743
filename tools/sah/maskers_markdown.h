// The generated part of docs/maskers.md: what every masker's descriptor says.
#ifndef TOOLS_SAH_MASKERS_MARKDOWN_H_
#define TOOLS_SAH_MASKERS_MARKDOWN_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

// A table of all maskers, then a section for each.
std::string MaskersMarkdown(const std::vector<const MaskerDescriptor*>& maskers);

// A pipeline's entry with the required fields alone: {"type": "sink", "sink_size": 4}. A string
// that has no default, such as a path, is "...".
std::string MinimalEntry(const MaskerDescriptor& masker);

// `document` with `generated` in place of what stands between the lines
// "<!-- generated: sah maskers markdown -->" and "<!-- end -->". InvalidArgument: it does not have
// both in this order.
absl::StatusOr<std::string> ReplaceGenerated(absl::string_view document,
                                             absl::string_view generated);

}  // namespace sparse_attention

#endif  // TOOLS_SAH_MASKERS_MARKDOWN_H_
