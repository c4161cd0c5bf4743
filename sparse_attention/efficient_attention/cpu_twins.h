// The CPU form of each masker of the efficient engine.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_

#include <memory>

#include "sparse_attention/base/status.h"
#include "sparse_attention/config/json.h"
#include "sparse_attention/efficient_attention/cpu/cpu_masker.h"

namespace sparse_attention {

// What `entry` of a pipeline does on the CPU. InvalidArgument or NotFound: the entry is wrong, as
// for the research engine. Unimplemented: there is no efficient form of it, and why.
absl::StatusOr<std::shared_ptr<const cpu::CpuMasker>> CpuTwin(const Json& entry);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_TWINS_H_
