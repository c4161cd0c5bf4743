#include "sparse_attention/research_attention/maskers/registry.h"

#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "sparse_attention/config/field.h"

namespace sparse_attention {

#define SA_MASKER(name) const MaskerDescriptor& name##Descriptor();
#include "sparse_attention/research_attention/maskers/maskers.inc"
#undef SA_MASKER

namespace {

struct Registry {
  std::mutex mutex;
  std::vector<const MaskerDescriptor*> maskers = {
#define SA_MASKER(name) &name##Descriptor(),
#include "sparse_attention/research_attention/maskers/maskers.inc"
#undef SA_MASKER
  };
};

Registry& GlobalRegistry() {
  static Registry* const registry = new Registry;
  return *registry;
}

}  // namespace

std::vector<const MaskerDescriptor*> AllMaskers() {
  Registry& registry = GlobalRegistry();
  const std::lock_guard lock(registry.mutex);
  return registry.maskers;
}

absl::StatusOr<const MaskerDescriptor*> FindMasker(absl::string_view name) {
  std::vector<std::string> names;
  for (const MaskerDescriptor* descriptor : AllMaskers()) {
    if (descriptor->name == name) return descriptor;
    names.emplace_back(descriptor->name);
  }
  return absl::NotFoundError(absl::StrCat("there is no masker \"", name, "\" (did you mean \"",
                                          NearestName(name, names),
                                          "\"? maskers: ", absl::StrJoin(names, ", "), ")"));
}

absl::Status RegisterMasker(const MaskerDescriptor& descriptor) {
  Registry& registry = GlobalRegistry();
  const std::lock_guard lock(registry.mutex);
  for (const MaskerDescriptor* existing : registry.maskers) {
    if (absl::string_view(existing->name) == descriptor.name) {
      return absl::AlreadyExistsError(
          absl::StrCat("a masker \"", descriptor.name, "\" is registered already"));
    }
  }
  registry.maskers.push_back(&descriptor);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Masker>> MaskerFromJson(const Json& json,
                                                       const MaskerOptions& options) {
  if (!json.is_object() || !json.contains("type") || !json["type"].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a masker must be an object with a string \"type\", got ", JsonExcerpt(json)));
  }
  SA_ASSIGN_OR_RETURN(const MaskerDescriptor* descriptor,
                      FindMasker(json["type"].get<std::string>()));
  return descriptor->create(json, options);
}

}  // namespace sparse_attention
