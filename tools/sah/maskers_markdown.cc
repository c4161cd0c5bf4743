#include "tools/sah/maskers_markdown.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace sparse_attention {
namespace {

constexpr absl::string_view kBegin = "<!-- generated: sah maskers markdown -->\n";
constexpr absl::string_view kEnd = "<!-- end -->\n";

std::string Row(const std::vector<std::string>& cells) {
  std::string row = "|";
  for (const std::string& cell : cells) {
    absl::StrAppend(&row, " ", absl::StrReplaceAll(cell, {{"|", "\\|"}}), " |");
  }
  return row + "\n";
}

std::string Header(const std::vector<std::string>& names) {
  return Row(names) + Row(std::vector<std::string>(names.size(), "---"));
}

std::string Code(absl::string_view text) {
  return text.empty() ? "" : absl::StrCat("`", text, "`");
}

std::string Kind(const MaskerDescriptor& masker) {
  return masker.kind == MaskerKind::kSampling ? "sampling" : "fixed";
}

std::string Fields(const MaskerDescriptor& masker) {
  const std::vector<FieldDoc> fields = masker.fields();
  if (fields.empty()) return "No fields.\n";
  std::string table = Header({"field", "type", "rule", "default", "meaning"});
  for (const FieldDoc& field : fields) {
    table += Row({Code(field.name), field.type, field.rule,
                  field.required ? "required" : Code(field.default_json), field.doc});
  }
  return table;
}

// What a reader of the pipeline has to know beyond the table.
std::string Remarks(const MaskerDescriptor& masker) {
  std::string remarks;
  if (masker.kind == MaskerKind::kSampling) {
    remarks += " A pipeline holds one sampling masker at most.";
  }
  if (!masker.only_adds) remarks += " It may clear keys that earlier maskers kept.";
  if (!masker.queries_apart) {
    remarks += " What a query keeps may depend on the other queries of its step.";
  }
  return remarks;
}

std::string Section(const MaskerDescriptor& masker) {
  return absl::StrCat("### ", masker.name, "\n", masker.summary, Remarks(masker), "\n\n",
                      "- Source: ", masker.source, "\n", "- When to use: ", masker.when_to_use,
                      "\n", "- Index memory: ", masker.memory, "\n",
                      "- Read to choose, a step: ", masker.reads, "\n\n", Fields(masker),
                      "\n```json\n", MinimalEntry(masker), "\n```\n");
}

}  // namespace

std::string MinimalEntry(const MaskerDescriptor& masker) {
  std::vector<std::string> members = {absl::StrCat("\"type\": \"", masker.name, "\"")};
  for (const FieldDoc& field : masker.fields()) {
    if (!field.required) continue;
    const std::string value = field.example_json == "\"\"" ? "\"...\"" : field.example_json;
    members.push_back(absl::StrCat("\"", field.name, "\": ", value));
  }
  return absl::StrCat("{", absl::StrJoin(members, ", "), "}");
}

std::string MaskersMarkdown(const std::vector<const MaskerDescriptor*>& maskers) {
  std::string text = Header(
      {"masker", "kind", "what it keeps", "index memory", "read to choose, a step", "oracle"});
  for (const MaskerDescriptor* masker : maskers) {
    text += Row({absl::StrCat("[`", masker->name, "`](#", masker->name, ")"), Kind(*masker),
                 masker->summary, masker->memory, masker->reads,
                 masker->scoring_reads == ScoringReads::kAllKeys ? "yes" : ""});
  }
  for (const MaskerDescriptor* masker : maskers) absl::StrAppend(&text, "\n", Section(*masker));
  return text;
}

absl::StatusOr<std::string> ReplaceGenerated(absl::string_view document,
                                             absl::string_view generated) {
  const size_t begin = document.find(kBegin);
  const size_t end = begin == absl::string_view::npos ? begin : document.find(kEnd, begin);
  if (end == absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the document must have the lines ", kBegin, "and ", kEnd));
  }
  return absl::StrCat(document.substr(0, begin + kBegin.size()), generated, document.substr(end));
}

}  // namespace sparse_attention
