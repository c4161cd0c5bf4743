// The CPU form of each masker of the efficient engine. LibTorch-free.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention {

// What `entry` of a pipeline does on the CPU. InvalidArgument: the entry is wrong, as for the
// research engine. NotFound: a file that it names, or a masker of its type. Unimplemented: the
// efficient engine cannot do what it asks for, and why.
absl::StatusOr<std::shared_ptr<const cpu::CpuMasker>> CpuTwin(const Json& entry);

// The "type" of an entry. InvalidArgument: it has none.
absl::StatusOr<std::string> MaskerTypeOf(const Json& entry);

bool HasCpuTwin(const std::string& type);
// Unimplemented: a masker that is known elsewhere has no CPU form.
absl::Status NoCpuTwin(absl::string_view type);

// Whether a type with a CPU form draws keys at random: nothing may follow it.
bool IsCpuSampler(absl::string_view type);
// Whether it reads every key to choose among them.
bool IsCpuOracle(absl::string_view type);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_
