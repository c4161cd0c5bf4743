// Encodes and decodes texts, for the comparison with the `tokenizers` Python library.
//
//   tokenizer_dump TOKENIZER_JSON [--special] < TEXTS
//
// Reads records (u32 length, little-endian, then UTF-8 text); writes per record u32 count, i32 ids,
// u32 length, the ids decoded with special tokens. `--special` adds the special tokens of the
// file's template. The speed of encoding goes to standard error. Exits with 1, and a message, if a
// text is refused or streaming gives another text than Decode.
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "adapters/huggingface/tokenizer.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

void WriteRecord(const void* data, uint32_t count, size_t element_bytes) {
  std::cout.write(reinterpret_cast<const char*>(&count), sizeof(count));
  std::cout.write(static_cast<const char*>(data),
                  static_cast<std::streamsize>(count * element_bytes));
}

absl::StatusOr<std::string> DecodeStreaming(const Tokenizer& tokenizer,
                                            const std::vector<int32_t>& ids) {
  StreamingDecoder decoder(tokenizer, /*skip_special_tokens=*/false);
  std::string text;
  for (const int32_t id : ids) {
    SA_ASSIGN_OR_RETURN(const std::string part, decoder.Push(id));
    text += part;
  }
  return text + decoder.Flush();
}

absl::Status Run(const std::string& path, bool add_special_tokens) {
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::FromFile(path));
  std::clock_t encoding = 0;  // Processor time: other work on the machine does not count.
  uint64_t bytes = 0;
  uint32_t length = 0;
  while (std::cin.read(reinterpret_cast<char*>(&length), sizeof(length))) {
    std::string text(length, '\0');
    std::cin.read(text.data(), length);
    const std::clock_t start = std::clock();
    SA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                        tokenizer->Encode(text, add_special_tokens));
    encoding += std::clock() - start;
    bytes += length;
    WriteRecord(ids.data(), static_cast<uint32_t>(ids.size()), sizeof(int32_t));
    SA_ASSIGN_OR_RETURN(const std::string decoded,
                        tokenizer->Decode(ids, /*skip_special_tokens=*/false));
    SA_ASSIGN_OR_RETURN(const std::string streamed, DecodeStreaming(*tokenizer, ids));
    if (streamed != decoded) {
      return absl::InternalError(
          absl::StrCat("streaming gives \"", streamed, "\", Decode \"", decoded, "\""));
    }
    WriteRecord(decoded.data(), static_cast<uint32_t>(decoded.size()), 1);
  }
  std::cerr << bytes << " bytes, "
            << static_cast<double>(bytes) * CLOCKS_PER_SEC / 1e6 / static_cast<double>(encoding)
            << " MB/s\n";
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparse_attention

int main(int argc, char** argv) {
  const bool special = argc == 3 && absl::string_view(argv[2]) == "--special";
  if (argc != 2 && !special) {
    std::fputs("usage: tokenizer_dump TOKENIZER_JSON [--special] < TEXTS\n", stderr);
    return 2;
  }
  std::ios::sync_with_stdio(false);
  const absl::Status status = sparse_attention::Run(argv[1], special);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
