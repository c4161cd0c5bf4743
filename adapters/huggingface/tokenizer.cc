#include "adapters/huggingface/tokenizer.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "adapters/huggingface/tokenizer_byte_level.h"
#include "adapters/huggingface/tokenizer_unicode.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

// The largest files in use have about 35 MB.
constexpr size_t kMaxFileBytes = size_t{256} << 20;

// The tokens to look for before normalisation, or after it, as they then read.
std::vector<AddedToken> SelectAddedTokens(const TokenizerSpec& spec, bool normalized) {
  std::vector<AddedToken> selected;
  // Special tokens go first: of equal contents the first counts.
  for (const bool special : {true, false}) {
    for (const AddedToken& token : spec.added_tokens) {
      if (token.normalized != normalized || token.special != special) continue;
      AddedToken& copy = selected.emplace_back(token);
      if (normalized && spec.normalize_nfc) {
        copy.content = NormalizeNfc(token.content).value_or(token.content);
      }
    }
  }
  return selected;
}

}  // namespace

struct Tokenizer::Scratch {
  PreTokenizer::Scratch pre_tokenizer;
  BpeModel::Scratch bpe;
  std::vector<AddedTokenMatcher::Segment> segments;
  std::vector<AddedTokenMatcher::Segment> normalized_segments;
  std::vector<absl::string_view> words;
};

Tokenizer::Tokenizer(const TokenizerSpec& spec, BpeModel bpe, PreTokenizer pre_tokenizer)
    : normalize_nfc_(spec.normalize_nfc),
      prefix_(spec.prefix),
      suffix_(spec.suffix),
      raw_added_tokens_(SelectAddedTokens(spec, /*normalized=*/false)),
      normalized_added_tokens_(SelectAddedTokens(spec, /*normalized=*/true)),
      bpe_(std::move(bpe)),
      pre_tokenizer_(std::move(pre_tokenizer)) {}

Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromFile(const std::string& path) {
  SA_ASSIGN_OR_RETURN(const std::string json, ReadBoundedFile(path, kMaxFileBytes));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Create(json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(absl::string_view json) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Create(json);
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), "tokenizer.json");
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(absl::string_view json) {
  SA_ASSIGN_OR_RETURN(const TokenizerSpec spec, ParseTokenizerJson(json));
  SA_ASSIGN_OR_RETURN(BpeModel bpe, BpeModel::Create(spec.vocab, spec.merges, spec.ignore_merges));
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(spec.pre_tokenizer);
  if (!pre_tokenizer.ok()) return Annotate(pre_tokenizer.status(), "pre_tokenizer");
  std::unique_ptr<Tokenizer> tokenizer(
      new Tokenizer(spec, std::move(bpe), *std::move(pre_tokenizer)));
  SA_RETURN_IF_ERROR(tokenizer->IndexTokens(spec));
  return tokenizer;
}

absl::Status Tokenizer::IndexTokens(const TokenizerSpec& spec) {
  ids_ = spec.vocab;
  tokens_.reserve(spec.vocab.size() + spec.added_tokens.size());
  for (const auto& [text, id] : spec.vocab) {
    tokens_.emplace(id, Token{text, BytesOfToken(text).value_or(text)});
    vocab_size_ = std::max(vocab_size_, id + 1);
  }
  for (size_t i = 0; i < spec.added_tokens.size(); ++i) {
    const AddedToken& added = spec.added_tokens[i];
    const std::string& text = added.content;
    const auto [token, inserted] =
        tokens_.emplace(added.id, Token{text, BytesOfToken(text).value_or(text)});
    if (!inserted && token->second.text != text) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens[", i, "].id must be unique (token \"", token->second.text,
                       "\" has the same id), got ", added.id));
    }
    token->second.special = added.special;
    ids_.emplace(text, added.id);
    vocab_size_ = std::max(vocab_size_, added.id + 1);
  }
  for (const std::vector<int32_t>* const side : {&prefix_, &suffix_}) {
    for (const int32_t id : *side) {
      if (!tokens_.contains(id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("post_processor: special_tokens must have ids of tokens, got ", id));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::AppendWords(absl::string_view text, Scratch& scratch,
                                    std::vector<int32_t>& ids) const {
  SA_RETURN_IF_ERROR(pre_tokenizer_.Split(text, scratch.pre_tokenizer, scratch.words));
  for (const absl::string_view word : scratch.words) bpe_.Encode(word, scratch.bpe, ids);
  return absl::OkStatus();
}

absl::Status Tokenizer::AppendIds(absl::string_view text, Scratch& scratch,
                                  std::vector<int32_t>& ids) const {
  scratch.segments.clear();
  raw_added_tokens_.Split(text, scratch.segments);
  for (const AddedTokenMatcher::Segment& segment : scratch.segments) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    std::optional<std::string> normalized;
    if (normalize_nfc_) normalized = NormalizeNfc(segment.text);
    scratch.normalized_segments.clear();
    normalized_added_tokens_.Split(
        normalized.has_value() ? absl::string_view(*normalized) : segment.text,
        scratch.normalized_segments);
    for (const AddedTokenMatcher::Segment& inner : scratch.normalized_segments) {
      if (inner.id >= 0) {
        ids.push_back(inner.id);
      } else {
        SA_RETURN_IF_ERROR(AppendWords(inner.text, scratch, ids));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                       bool add_special_tokens) const {
  if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("text must be shorter than 2 GiB, got ", text.size(), " bytes"));
  }
  if (const std::optional<size_t> invalid = FindInvalidUtf8(text); invalid.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text must be UTF-8, got an invalid sequence at byte ", *invalid));
  }
  std::unique_ptr<Scratch> scratch;
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_scratch_.empty()) {
      scratch = std::move(idle_scratch_.back());
      idle_scratch_.pop_back();
    }
  }
  if (scratch == nullptr) scratch = std::make_unique<Scratch>();
  const auto give_back = absl::MakeCleanup([&] {
    absl::MutexLock lock(&mutex_);
    idle_scratch_.push_back(std::move(scratch));
  });
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + prefix_.size() + suffix_.size());
  if (add_special_tokens) ids = prefix_;
  SA_RETURN_IF_ERROR(AppendIds(text, *scratch, ids));
  if (add_special_tokens) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

absl::StatusOr<const Tokenizer::Token*> Tokenizer::Find(int32_t id) const {
  const auto found = tokens_.find(id);
  if (found == tokens_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no token has id ", id, " (vocabulary size ", vocab_size_, ")"));
  }
  return &found->second;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  std::string bytes, text;
  for (size_t i = 0; i < ids.size(); ++i) {
    const absl::StatusOr<const Token*> token = Find(ids[i]);
    if (!token.ok()) return Annotate(token.status(), absl::StrCat("ids[", i, "]"));
    if (!(skip_special_tokens && (*token)->special)) bytes += (*token)->bytes;
  }
  MoveUtf8(bytes, /*flush=*/true, text);
  return text;
}

std::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<std::string> Tokenizer::IdToToken(int32_t id) const {
  SA_ASSIGN_OR_RETURN(const Token* const token, Find(id));
  return token->text;
}

absl::StatusOr<std::string> StreamingDecoder::Push(int32_t id) {
  SA_ASSIGN_OR_RETURN(const Tokenizer::Token* const token, tokenizer_.Find(id));
  if (!(skip_special_tokens_ && token->special)) pending_ += token->bytes;
  std::string text;
  MoveUtf8(pending_, /*flush=*/false, text);
  return text;
}

std::string StreamingDecoder::Flush() {
  std::string text;
  MoveUtf8(pending_, /*flush=*/true, text);
  return text;
}

}  // namespace sparse_attention
