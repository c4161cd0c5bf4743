#include "sparse_attention/key_index/channel_file.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"

namespace sparse_attention {
namespace {

namespace fs = std::filesystem;

// 126 layers of 128 heads of 128 channels, three times, take 25 MB; parsed, a file takes up to ten
// times its size.
constexpr uintmax_t kMaxFileBytes = uintmax_t{64} << 20;

std::string KeyOf(int64_t layer, ChannelSelection selection) {
  return absl::StrCat("model.layers.", layer, ".self_attn.", EnumName(selection));
}

std::string HeadOf(absl::string_view key, size_t head) { return absl::StrCat(key, "[", head, "]"); }

// A value with its place and rule: "<place> must be <rule>, got <value>".
absl::Status MustBe(absl::string_view place, absl::string_view rule, absl::string_view value) {
  return absl::InvalidArgumentError(absl::StrCat(place, " must be ", rule, ", got ", value));
}

absl::Status CheckPermutations(absl::string_view key, const ChannelLists& heads) {
  for (size_t h = 0; h < heads.size(); ++h) {
    const int64_t dim = static_cast<int64_t>(heads[0].size());
    if (heads[h].size() != heads[0].size()) {
      return MustBe(absl::StrCat("Channel data for ", HeadOf(key, h)),
                    absl::StrCat("as long as that of head 0, ", dim),
                    absl::StrCat(heads[h].size()));
    }
    std::vector<bool> seen(heads[h].size());
    for (const int64_t channel : heads[h]) {
      const bool in_range = channel >= 0 && channel < dim;
      if (!in_range || seen[channel]) {
        return MustBe(absl::StrCat("Channel indices for ", HeadOf(key, h)),
                      absl::StrCat("distinct integers in [0, ", dim, ")"),
                      absl::StrCat(channel, in_range ? " twice" : ""));
      }
      seen[channel] = true;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int64_t>> ReadHead(const std::string& place, const Json& json) {
  if (!json.is_array()) {
    return MustBe(absl::StrCat("Channel data for ", place), "a list", JsonExcerpt(json));
  }
  std::vector<int64_t> channels;
  channels.reserve(json.size());
  for (const Json& channel : json) {
    if (!channel.is_number_integer()) {
      return MustBe(absl::StrCat("Channel indices for ", place), "integers", JsonExcerpt(channel));
    }
    // What exceeds int64 becomes negative and is refused as out of range.
    channels.push_back(channel.get<int64_t>());
  }
  return channels;
}

absl::StatusOr<ChannelLists> ReadMember(const std::string& key, const Json& json) {
  if (!json.is_array()) {
    return MustBe(absl::StrCat("Channel data for ", key), "a list", JsonExcerpt(json));
  }
  ChannelLists heads;
  for (const Json& head : json) {
    SA_ASSIGN_OR_RETURN(std::vector<int64_t> channels, ReadHead(HeadOf(key, heads.size()), head));
    heads.push_back(std::move(channels));
  }
  SA_RETURN_IF_ERROR(CheckPermutations(key, heads));
  return heads;
}

}  // namespace

absl::StatusOr<ChannelFile> ChannelFile::FromJson(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Channel file must contain a JSON object, got ", JsonExcerpt(json)));
  }
  ChannelFile file;
  for (const auto& [key, value] : json.items()) {
    SA_ASSIGN_OR_RETURN(ChannelLists heads, ReadMember(key, value));
    file.members_.emplace_back(key, std::move(heads));
  }
  return file;
}

std::string ChannelFile::ToText() const {
  std::string text = "{";
  for (const auto& [key, heads] : members_) {
    absl::StrAppend(&text, text.size() > 1 ? ",\n" : "\n", DumpJson(key), ": ", DumpJson(heads));
  }
  return text + "\n}\n";
}

absl::StatusOr<ChannelLists> ChannelFile::Layer(int64_t layer, ChannelSelection selection) const {
  const std::string key = KeyOf(layer, selection);
  const auto member = std::find_if(members_.begin(), members_.end(),
                                   [&key](const auto& entry) { return entry.first == key; });
  if (member == members_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("No sorted channels found for ", key));
  }
  if (member->second.empty() || member->second[0].empty()) {
    return absl::InvalidArgumentError(absl::StrCat("Empty channel data for ", key));
  }
  return member->second;
}

absl::Status ChannelFile::Set(int64_t layer, ChannelSelection selection, ChannelLists channels) {
  const std::string key = KeyOf(layer, selection);
  SA_RETURN_IF_ERROR(CheckPermutations(key, channels));
  for (auto& [name, heads] : members_) {
    if (name == key) {
      heads = std::move(channels);
      return absl::OkStatus();
    }
  }
  members_.emplace_back(key, std::move(channels));
  return absl::OkStatus();
}

absl::StatusOr<ChannelFile> ReadChannelFile(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    return absl::InvalidArgumentError(absl::StrCat("Channel file not found: ", path));
  }
  if (!fs::is_regular_file(status) || fs::file_size(path, error) > kMaxFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Channel file must be a regular file of at most ", kMaxFileBytes >> 20, " MiB: ", path));
  }
  const absl::StatusOr<Json> json = ReadJsonFile(path);
  if (!json.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("Invalid JSON in channel file: ", json.status().message()));
  }
  absl::StatusOr<ChannelFile> file = ChannelFile::FromJson(*json);
  if (!file.ok()) return Annotate(file.status(), path);
  return file;
}

absl::Status WriteChannelFile(const std::string& path, const ChannelFile& file) {
  const std::string temporary = absl::StrCat(path, ".partial");
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << file.ToText();
  out.close();
  if (!out || std::rename(temporary.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(temporary.c_str());
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot write: ", reason));
  }
  return absl::OkStatus();
}

}  // namespace sparse_attention
