// `sah`: the command line of Sparse Attention Hub.
#include <c10/core/InferenceMode.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <system_error>

#include "tools/sah/command_line.h"

int main(int argc, char** argv) {
  // `bazel run` starts programs elsewhere; paths inside configs, too, are those of where it was
  // typed.
  if (const char* typed_in = std::getenv("BUILD_WORKING_DIRECTORY"); typed_in != nullptr) {
    std::error_code ignored;  // then paths are relative to where we are
    std::filesystem::current_path(typed_in, ignored);
  }
  CLI::App app("Sparse attention for long contexts: evaluate, generate, calibrate, inspect", "sah");
  app.set_version_flag("--version", std::string("sah ") + sparse_attention::kVersion);
  app.require_subcommand(1);
  absl::Status status;
  sparse_attention::AddEvaluate(app, &status);
  sparse_attention::AddGenerate(app, &status);
  sparse_attention::AddCalibrate(app, &status);
  sparse_attention::AddRecall(app, &status);
  sparse_attention::AddMaskers(app, &status);
  sparse_attention::AddDoctor(app, &status);
  const c10::InferenceMode no_gradients;
  CLI11_PARSE(app, argc, argv);
  if (!status.ok()) {
    std::cerr << "sah: " << status.message() << "\n";
    return 1;
  }
  return 0;
}
