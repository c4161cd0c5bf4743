// The tokenizer of a checkpoint: text to token ids and back, read from the checkpoint's
// tokenizer.json.
//
// Ids and decoded text are the `tokenizers` Python library's (0.23), for byte-level BPE: normalise,
// cut out added tokens, cut words, merge byte pairs. tokenizer_json.h says what is supported;
// everything else is refused on loading.
#ifndef ADAPTERS_HUGGINGFACE_TOKENIZER_H_
#define ADAPTERS_HUGGINGFACE_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "adapters/huggingface/tokenizer_added_tokens.h"
#include "adapters/huggingface/tokenizer_bpe.h"
#include "adapters/huggingface/tokenizer_json.h"
#include "adapters/huggingface/tokenizer_pre_tokenizer.h"

namespace sparse_attention {

// Immutable; every method may be called from several threads at once.
class Tokenizer {
 public:
  // NOT_FOUND if there is no such file. INVALID_ARGUMENT if it is broken, UNIMPLEMENTED if it asks
  // for something that is not supported; both name the field and its value after the path
  // (FromJson: after "tokenizer.json").
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromFile(const std::string& path);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(absl::string_view json);

  ~Tokenizer();

  // Added tokens are found in `text` whether special or not. `add_special_tokens` also puts the
  // file's template around it, such as a begin-of-text token. INVALID_ARGUMENT names the byte where
  // `text` stops being UTF-8, and refuses 2 GiB and more; RESOURCE_EXHAUSTED if a split pattern
  // gives up.
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              bool add_special_tokens = false) const;

  // Bytes that are no UTF-8 become U+FFFD. INVALID_ARGUMENT names the position of an id that no
  // token has.
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids,
                                     bool skip_special_tokens = true) const;

  // The largest id plus one: how many rows an embedding needs.
  int32_t vocab_size() const { return vocab_size_; }

  // Tokens as the file writes them, in the byte-level alphabet except for added tokens.
  std::optional<int32_t> TokenToId(absl::string_view token) const;
  absl::StatusOr<std::string> IdToToken(int32_t id) const;

 private:
  friend class StreamingDecoder;
  struct Token {
    std::string text;   // As in the file.
    std::string bytes;  // As in decoded text.
    bool special = false;
  };
  struct Scratch;

  Tokenizer(const TokenizerSpec& spec, BpeModel bpe, PreTokenizer pre_tokenizer);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(absl::string_view json);
  absl::Status IndexTokens(const TokenizerSpec& spec);

  absl::StatusOr<const Token*> Find(int32_t id) const;
  absl::Status AppendIds(absl::string_view text, Scratch& scratch, std::vector<int32_t>& ids) const;
  absl::Status AppendWords(absl::string_view text, Scratch& scratch,
                           std::vector<int32_t>& ids) const;

  const bool normalize_nfc_;
  const std::vector<int32_t> prefix_;
  const std::vector<int32_t> suffix_;
  const AddedTokenMatcher raw_added_tokens_;         // Looked for in the text as given,
  const AddedTokenMatcher normalized_added_tokens_;  // and after normalisation.
  const BpeModel bpe_;
  const PreTokenizer pre_tokenizer_;
  TokenIds ids_;
  absl::flat_hash_map<int32_t, Token> tokens_;
  int32_t vocab_size_ = 0;

  // As many as calls ran at once; a call takes one and gives it back.
  mutable absl::Mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> idle_scratch_;
};

// Turns ids into text one at a time: what Push and Flush return, put together, is what Decode
// returns. Bytes of a character that is not complete are held back. For one thread; `tokenizer`
// must outlive it.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that this id completes, often empty. INVALID_ARGUMENT if no token has the id, which
  // changes nothing.
  absl::StatusOr<std::string> Push(int32_t id);

  // U+FFFD if a character stayed incomplete, else nothing. Push may go on with a new text.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_tokens_;
  std::string pending_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_HUGGINGFACE_TOKENIZER_H_
