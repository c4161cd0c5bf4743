#include "adapters/huggingface/tokenizer_json.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "adapters/huggingface/checkpoint_json.h"
#include "adapters/huggingface/tokenizer_json_pipeline.h"
#include "nlohmann/json.hpp"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

using internal_tokenizer_json::BoolOr;
using internal_tokenizer_json::kMaxId;
using internal_tokenizer_json::NotSupported;
using internal_tokenizer_json::Required;
using Json = nlohmann::json;

absl::Status ParseVocab(const JsonFields& model, TokenizerSpec& spec) {
  const Json* const vocab = model.Find("vocab");
  if (vocab == nullptr) return model.Missing("vocab");
  if (!vocab->is_object()) return model.Wrong("vocab", "must be an object", *vocab);
  spec.vocab.reserve(vocab->size());
  absl::flat_hash_map<int32_t, const std::string*> by_id;
  for (auto entry = vocab->begin(); entry != vocab->end(); ++entry) {
    const std::string name = absl::StrCat("vocab[", JsonExcerpt(entry.key()), "]");
    if (!entry->is_number_integer()) return model.Wrong(name, "must be an integer", *entry);
    if (*entry < 0 || *entry > kMaxId) {
      return model.Wrong(name, absl::StrCat("must be from 0 to ", kMaxId), *entry);
    }
    const auto id = entry->get<int32_t>();
    const auto [other, inserted] = by_id.emplace(id, &entry.key());
    if (!inserted) {
      return model.Wrong(
          name, absl::StrCat("must be unique (", JsonExcerpt(*other->second), " has the same id)"),
          *entry);
    }
    spec.vocab.emplace(entry.key(), id);
  }
  return absl::OkStatus();
}

absl::Status ParseMerges(const JsonFields& model, TokenizerSpec& spec) {
  const Json* const merges = model.Find("merges");
  if (merges == nullptr) return model.Missing("merges");
  if (!merges->is_array()) return model.Wrong("merges", "must be a list", *merges);
  spec.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    const Json& merge = (*merges)[i];
    std::string left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      if (absl::StartsWith(text, "#version")) continue;
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    }
    if (left.empty() || right.empty()) {
      return model.Wrong(absl::StrCat("merges[", i, "]"),
                         "must be a pair of tokens, [\"a\", \"b\"] or \"a b\"", merge);
    }
    spec.merges.emplace_back(std::move(left), std::move(right));
  }
  return absl::OkStatus();
}

absl::Status ParseModel(const Json& root, TokenizerSpec& spec) {
  const JsonFields root_fields(root, "");
  const Json* const json = root_fields.Find("model");
  if (json == nullptr) return root_fields.Missing("model");
  if (!json->is_object()) return root_fields.Wrong("model", "must be an object", *json);
  const JsonFields model(*json, "model.");
  SA_ASSIGN_OR_RETURN(const std::optional<std::string> type, model.String("type"));
  // Old files do not name the type; only BPE has merges.
  if (type.has_value() ? *type != "BPE" : model.Find("merges") == nullptr) {
    return NotSupported(
        type.has_value() ? absl::StrCat("model type \"", *type, "\"") : "model without type",
        "BPE with byte-level pre-tokenisation");
  }
  SA_ASSIGN_OR_RETURN(const std::optional<double> dropout, model.Number("dropout", 0, 1));
  if (dropout.value_or(0) != 0) {
    return NotSupported(absl::StrCat("model.dropout ", *dropout), "null");
  }
  for (const char* const name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    SA_ASSIGN_OR_RETURN(const std::optional<std::string> affix, model.String(name));
    if (!affix.value_or("").empty()) {
      return NotSupported(absl::StrCat("model.", name, " \"", *affix, "\""), "null, \"\"");
    }
  }
  // `unk_token`, `fuse_unk` and `byte_fallback` say what to do with characters that have no token.
  // There are none: BpeModel::Create demands a token for every byte.
  SA_ASSIGN_OR_RETURN(spec.ignore_merges, BoolOr(model, "ignore_merges", false));
  SA_RETURN_IF_ERROR(ParseVocab(model, spec));
  return ParseMerges(model, spec);
}

// Ids are what the `tokenizers` library gives the tokens on loading: the vocabulary's where the
// token is in it, else counted on from the vocabulary's size. It overrides other ids with a
// warning; here they are an error.
absl::Status ParseAddedTokens(const Json& root, TokenizerSpec& spec) {
  const Json* const tokens = JsonFields(root, "").Find("added_tokens");
  if (tokens == nullptr) return absl::OkStatus();
  if (!tokens->is_array())
    return JsonFields(root, "").Wrong("added_tokens", "must be a list", *tokens);
  int64_t next_id = static_cast<int64_t>(spec.vocab.size());
  absl::flat_hash_map<std::string, size_t> seen;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const Json& json = (*tokens)[i];
    const std::string path = absl::StrCat("added_tokens[", i, "]");
    if (!json.is_object()) {
      return JsonFields(root, "").Wrong(path, "must be an object", json);
    }
    const JsonFields fields(json, absl::StrCat(path, "."));
    AddedToken token;
    SA_ASSIGN_OR_RETURN(token.content, Required(fields.String("content"), fields, "content"));
    if (token.content.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ".content must not be empty"));
    }
    if (!seen.emplace(token.content, i).second) {
      return fields.Wrong(
          "content", absl::StrCat("must be unique (see added_tokens[", seen[token.content], "])"),
          json["content"]);
    }
    SA_ASSIGN_OR_RETURN(const int64_t id, Required(fields.Int("id", 0, kMaxId), fields, "id"));
    const auto in_vocab = spec.vocab.find(token.content);
    const int64_t expected = in_vocab == spec.vocab.end() ? next_id : in_vocab->second;
    if (id != expected) {
      return fields.Wrong("id",
                          absl::StrCat("of ", JsonExcerpt(token.content), " must be ", expected,
                                       in_vocab == spec.vocab.end()
                                           ? ", the next free id (ids with gaps are not supported)"
                                           : ", its id in model.vocab"),
                          json["id"]);
    }
    next_id = std::max(next_id, id + 1);
    token.id = static_cast<int32_t>(id);
    SA_ASSIGN_OR_RETURN(token.special, BoolOr(fields, "special", false));
    SA_ASSIGN_OR_RETURN(token.normalized, BoolOr(fields, "normalized", !token.special));
    SA_ASSIGN_OR_RETURN(token.single_word, BoolOr(fields, "single_word", false));
    SA_ASSIGN_OR_RETURN(token.lstrip, BoolOr(fields, "lstrip", false));
    SA_ASSIGN_OR_RETURN(token.rstrip, BoolOr(fields, "rstrip", false));
    spec.added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json) {
  SA_ASSIGN_OR_RETURN(const Json root, ParseJsonObject(json));
  TokenizerSpec spec;
  SA_RETURN_IF_ERROR(ParseModel(root, spec));
  SA_RETURN_IF_ERROR(ParseAddedTokens(root, spec));
  SA_RETURN_IF_ERROR(internal_tokenizer_json::ParseNormalizer(root, spec));
  SA_RETURN_IF_ERROR(internal_tokenizer_json::ParsePreTokenizer(root, spec));
  SA_RETURN_IF_ERROR(internal_tokenizer_json::ParsePostProcessor(root, spec));
  SA_RETURN_IF_ERROR(internal_tokenizer_json::CheckDecoder(root));
  return spec;
}

}  // namespace sparse_attention
