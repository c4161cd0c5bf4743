// `sah maskers`: the methods, their fields, a JSON Schema of pipelines, and docs/maskers.md.
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/research_attention/maskers/registry.h"
#include "tools/sah/command_line.h"
#include "tools/sah/maskers_markdown.h"

namespace sparse_attention {
namespace {

void List() {
  for (const MaskerDescriptor* masker : AllMaskers()) {
    std::cout << absl::StrFormat("%-20s %-9s %s\n", masker->name,
                                 masker->kind == MaskerKind::kSampling ? "sampling" : "fixed",
                                 masker->summary);
  }
}

absl::Status Describe(const std::string& name) {
  SA_ASSIGN_OR_RETURN(const MaskerDescriptor* masker, FindMasker(name));
  std::cout << masker->name << ": " << masker->summary << "\nsource: " << masker->source
            << "\nuse: " << masker->when_to_use << "\nindex memory: " << masker->memory
            << "\nread to choose, a step: " << masker->reads << "\n";
  for (const FieldDoc& field : masker->fields()) {
    std::cout << "  " << field.name << "  " << field.type;
    if (!field.rule.empty()) std::cout << ", " << field.rule;
    std::cout << (field.required ? ", required" : absl::StrCat(", default ", field.default_json))
              << "\n      " << field.doc << "\n";
  }
  return absl::OkStatus();
}

void Schema() {
  std::vector<Json> schemas;
  for (const MaskerDescriptor* masker : AllMaskers()) schemas.push_back(masker->schema());
  std::cout << DumpJson(PipelineSchema(schemas), 2) << "\n";
}

// Prints the generated part of docs/maskers.md, or renews it in a file.
absl::Status Markdown(const std::string& into) {
  const std::string generated = MaskersMarkdown(AllMaskers());
  if (into.empty()) {
    std::cout << generated;
    return absl::OkStatus();
  }
  const std::string path = UserPath(into);
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("--into: cannot read ", path));
  const std::string document(std::istreambuf_iterator<char>(in), {});
  const absl::StatusOr<std::string> renewed = ReplaceGenerated(document, generated);
  if (!renewed.ok()) return Annotate(renewed.status(), path);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << *renewed;
  out.close();
  return out ? absl::OkStatus()
             : absl::UnavailableError(absl::StrCat("--into: cannot write ", path));
}

}  // namespace

void AddMaskers(CLI::App& app, absl::Status* status) {
  CLI::App* command = app.add_subcommand("maskers", "List and describe the methods");
  command->require_subcommand(1);
  command->add_subcommand("list", "Every masker, one a line")->callback([] { List(); });
  auto name = std::make_shared<std::string>();
  CLI::App* describe = command->add_subcommand("describe", "The fields of one masker");
  describe->add_option("NAME", *name, "As in \"type\"")->required();
  describe->callback([name, status] { *status = Describe(*name); });
  command->add_subcommand("schema", "JSON Schema of a pipeline")->callback([] { Schema(); });
  auto into = std::make_shared<std::string>();
  CLI::App* markdown = command->add_subcommand("markdown", "The generated part of docs/maskers.md");
  markdown->add_option("--into", *into, "A document whose generated part is renewed");
  markdown->callback([into, status] { *status = Markdown(*into); });
}

}  // namespace sparse_attention
