// What the subcommands of `sah` share: paths, presets and output.
#ifndef TOOLS_SAH_COMMAND_LINE_H_
#define TOOLS_SAH_COMMAND_LINE_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "adapters/huggingface/huggingface_adapter.h"
#include "evaluation/runner.h"

namespace sparse_attention {

inline constexpr char kVersion[] = "0.1.0";

// `path` as the user meant it: relative to the folder where the command was typed, which `bazel
// run` leaves in BUILD_WORKING_DIRECTORY.
std::string UserPath(const std::string& path);

// A file that comes with the program ("configs/dense.json"), in the runfiles of `bazel run` or
// beside the program. NotFound lists where it was looked for.
absl::StatusOr<std::string> ShippedFile(const std::string& path);

// A JSON file, or the name of a preset in configs/, in the engine that `engine` names: "research",
// "efficient", or "" for the pipeline's own.
// NotFound names the nearest preset.
absl::StatusOr<NamedPipeline> LoadPipeline(const std::string& file_or_preset,
                                           const std::string& engine);
// --engine, for LoadPipeline: a string, or several of them.
void AddEngineOption(CLI::App* command, std::string* engine);
void AddEngineOption(CLI::App* command, std::vector<std::string>* engines);
std::vector<std::string> PresetNames();

// The first `count` tokens of a text file, begin-of-text included. NotFound: it cannot be read;
// InvalidArgument: it is empty, not UTF-8 or too short, or `count` is not in [1, the model's
// max_position_embeddings].
absl::StatusOr<std::vector<int32_t>> FirstTokens(const HuggingFaceAdapter& adapter,
                                                 const std::string& path, int64_t count);

// Standard error is a terminal.
bool IsTerminal();

// Each adds its subcommand to `app`. A subcommand puts its outcome into `status` when it runs.
void AddEvaluate(CLI::App& app, absl::Status* status);
void AddGenerate(CLI::App& app, absl::Status* status);
void AddCalibrate(CLI::App& app, absl::Status* status);
void AddRecall(CLI::App& app, absl::Status* status);
void AddMaskers(CLI::App& app, absl::Status* status);
void AddDoctor(CLI::App& app, absl::Status* status);

}  // namespace sparse_attention

#endif  // TOOLS_SAH_COMMAND_LINE_H_
