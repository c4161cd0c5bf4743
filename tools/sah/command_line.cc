#include "tools/sah/command_line.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {
namespace {

namespace fs = std::filesystem;

constexpr char kWorkspace[] = "sparse_attention_hub";

// Folders that may hold configs/ and evaluation/: runfiles, then the program's folder and those
// above it.
std::vector<fs::path> Roots() {
  std::vector<fs::path> roots;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (const char* runfiles = std::getenv("RUNFILES_DIR"))
    roots.push_back(fs::path(runfiles) / kWorkspace);
  roots.push_back(fs::current_path(error));
  roots.push_back(fs::path(program.string() + ".runfiles") / kWorkspace);
  for (fs::path folder = program.parent_path(); folder.has_relative_path();
       folder = folder.parent_path()) {
    roots.push_back(folder);
  }
  return roots;
}

}  // namespace

std::string UserPath(const std::string& path) {
  const char* typed_in = std::getenv("BUILD_WORKING_DIRECTORY");
  if (typed_in == nullptr || fs::path(path).is_absolute()) return path;
  return (fs::path(typed_in) / path).lexically_normal();
}

absl::StatusOr<std::string> ShippedFile(const std::string& path) {
  std::error_code error;
  std::vector<std::string> tried;
  for (const fs::path& root : Roots()) {
    if (fs::exists(root / path, error)) return (root / path).string();
    tried.push_back((root / path).string());
  }
  return absl::NotFoundError(
      absl::StrCat(path, " was not found; looked for ", absl::StrJoin(tried, ", ")));
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  const absl::StatusOr<std::string> folder = ShippedFile("configs");
  if (!folder.ok()) return names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(*folder, error)) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<NamedPipeline> LoadPipeline(const std::string& file_or_preset,
                                           const std::string& engine) {
  std::error_code error;
  NamedPipeline pipeline;
  std::string path = UserPath(file_or_preset);
  if (!fs::is_regular_file(path, error)) {
    const std::vector<std::string> presets = PresetNames();
    if (std::find(presets.begin(), presets.end(), file_or_preset) == presets.end()) {
      return absl::NotFoundError(absl::StrCat("config \"", file_or_preset, "\" is neither a file (",
                                              path, ") nor a preset (did you mean \"",
                                              NearestName(file_or_preset, presets),
                                              "\"? presets: ", absl::StrJoin(presets, ", "), ")"));
    }
    SA_ASSIGN_OR_RETURN(path, ShippedFile(absl::StrCat("configs/", file_or_preset, ".json")));
  }
  SA_ASSIGN_OR_RETURN(pipeline.config, PipelineFromFile(path));
  pipeline.name =
      pipeline.config.name.empty() ? fs::path(path).stem().string() : pipeline.config.name;
  if (engine.empty()) return pipeline;
  const EngineType type =
      engine == EnumName(EngineType::kEfficient) ? EngineType::kEfficient : EngineType::kResearch;
  pipeline.config.type = type;
  return pipeline;
}

namespace {

constexpr char kEngineHelp[] =
    "research or efficient, instead of what the config says: the exact definition, or kernels that "
    "read only the selected keys";

CLI::IsMember Engines() {
  return CLI::IsMember({EnumName(EngineType::kResearch), EnumName(EngineType::kEfficient)});
}

}  // namespace

void AddEngineOption(CLI::App* command, std::string* engine) {
  command->add_option("--engine", *engine, kEngineHelp)->check(Engines());
}

void AddEngineOption(CLI::App* command, std::vector<std::string>* engines) {
  command
      ->add_option("--engine", *engines,
                   absl::StrCat(kEngineHelp, "; both, comma-separated: a row each"))
      ->delimiter(',')
      ->check(Engines());
}

absl::StatusOr<std::vector<int32_t>> FirstTokens(const HuggingFaceAdapter& adapter,
                                                 const std::string& path, int64_t count) {
  const int64_t positions = adapter.model().config().max_position_embeddings;
  if (count < 1 || count > positions) {
    return absl::InvalidArgumentError(absl::StrCat("--tokens must be in [1, ", positions,
                                                   "], the model's max_position_embeddings, got ",
                                                   count));
  }
  std::ifstream file(path, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) return absl::NotFoundError(absl::StrCat("--text: cannot read ", path));
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat("--text: ", path, " is empty"));
  absl::StatusOr<std::vector<int32_t>> tokens = adapter.EncodeContext(text);
  if (!tokens.ok()) return Annotate(tokens.status(), path);
  if (static_cast<int64_t>(tokens->size()) < count) {
    return absl::InvalidArgumentError(absl::StrCat("--text: ", path, " has ", tokens->size(),
                                                   " tokens, --tokens asks for ", count));
  }
  tokens->resize(count);
  return tokens;
}

bool IsTerminal() { return isatty(STDERR_FILENO) != 0; }

}  // namespace sparse_attention
