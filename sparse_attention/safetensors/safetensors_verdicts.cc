// What the reader says about files, for the comparison with the reference implementation.
//
//   safetensors_verdicts corpus         writes the hand-made cases: per case a JSON line {"name",
//   "verdict", "hex"} safetensors_verdicts check < FILES  reads records (u64 length, little-endian,
//   then a file), writes per record a
//                                       JSON line: {"error"} or {"tensors": {name: [dtype, shape,
//                                       data in hex]}, "metadata": {...}, "again": the file as the
//                                       writer would write it, in hex}
#include <cstdint>
#include <cstdio>
#include <iostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/safetensors/safetensors.h"
#include "sparse_attention/safetensors/safetensors_corpus.h"
#include "sparse_attention/safetensors/safetensors_writer.h"

namespace sparse_attention {
namespace {

std::string VerdictName(SafetensorsVerdict verdict) {
  switch (verdict) {
    case SafetensorsVerdict::kAccept:
      return "accept";
    case SafetensorsVerdict::kReject:
      return "reject";
    case SafetensorsVerdict::kStricter:
      return "stricter";
  }
  return "";
}

void WriteCorpus() {
  for (const SafetensorsCase& test_case : SafetensorsCorpus()) {
    const nlohmann::json line = {{"name", test_case.name},
                                 {"verdict", VerdictName(test_case.verdict)},
                                 {"hex", absl::BytesToHexString(test_case.bytes)}};
    std::cout << line.dump() << "\n";
  }
}

nlohmann::json Describe(const std::string& bytes) {
  const absl::StatusOr<SafetensorsFile> file = SafetensorsFile::FromBytes(bytes);
  if (!file.ok()) return {{"error", std::string(file.status().message())}};
  nlohmann::json tensors = nlohmann::json::object();
  for (const TensorView& view : file->tensors()) {
    const absl::string_view data(reinterpret_cast<const char*>(view.data), view.bytes);
    tensors[view.name] = nlohmann::json::array(
        {std::string(DtypeName(view.dtype)), view.shape, absl::BytesToHexString(data)});
  }
  const absl::StatusOr<std::string> again = SerializeSafetensors(file->tensors(), file->metadata());
  return {{"tensors", tensors},
          {"metadata", file->metadata()},
          {"again", again.ok() ? absl::BytesToHexString(*again) : again.status().ToString()}};
}

void CheckInput() {
  uint64_t length;
  while (std::cin.read(reinterpret_cast<char*>(&length), sizeof(length))) {
    std::string bytes(length, '\0');
    std::cin.read(bytes.data(), static_cast<std::streamsize>(length));
    std::cout << Describe(bytes).dump() << "\n";
  }
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  const std::string command = argc == 2 ? argv[1] : "";
  if (command == "corpus") {
    sparse_attention::WriteCorpus();
  } else if (command == "check") {
    sparse_attention::CheckInput();
  } else {
    std::fputs("usage: safetensors_verdicts corpus|check\n", stderr);
    return 2;
  }
  return 0;
}
