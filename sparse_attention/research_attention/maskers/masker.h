// Masker: one step of a pipeline. It looks at the queries and keys and adds the keys that its
// method keeps to the mask of the maskers before it.
//
// A method is one subclass with one private function, Select; AddMask, which everybody calls,
// checks the inputs and leaves a full mask alone. Maskers are const and thread-safe. What a method
// remembers between steps (page bounds, codebooks, signatures) lives in a MaskerState that the
// caller's AttentionSession owns.
//
// A new method is x.h, x.cc, x_test.cc, one sa_masker() in BUILD and one line in maskers.inc; copy
// `sink`.
#ifndef SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_H_
#define SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "metric_logging/metric.h"
#include "sparse_attention/attention/attention_inputs.h"
#include "sparse_attention/base/status.h"
#include "sparse_attention/config/field.h"
#include "sparse_attention/config/pipeline_config.h"
#include "sparse_attention/key_index/named_tensor.h"
#include "sparse_attention/mask/mask.h"

namespace sparse_attention {

class Masker;

// What a whole pipeline decides for its maskers.
struct MaskerOptions {
  uint64_t seed = 42;
  Selection selection = Selection::kQueryHead;
  GroupReduce group_reduce = GroupReduce::kMax;
};

enum class MaskerKind {
  kFixed,     // keeps keys for certain
  kSampling,  // keeps some keys by chance; a pipeline holds at most one
};

// What reading keys to choose among them costs in one step, beside the keys that attention then
// reads.
enum class ScoringReads {
  kNothing,  // positions only
  kAllKeys,  // every key: an oracle
  kIndex,    // an index of its own; see Masker::IndexBytes
};

// What a method says of itself. The texts are Markdown for docs/maskers.md.
struct MaskerTraits {
  MaskerKind kind = MaskerKind::kFixed;
  const char* summary = "";      // one line, what it keeps
  const char* source = "";       // paper or origin
  const char* when_to_use = "";  // one or two sentences
  const char* memory = "none";   // what its index takes, a key and KV head where it grows with keys
  const char* reads = "nothing";  // what a step reads to choose, beside the keys it then attends to
  ScoringReads scoring_reads = ScoringReads::kNothing;
  bool only_adds = true;  // false: may clear keys that the previous mask held
  // False: what a query keeps may depend on the other queries of its step.
  bool queries_apart = true;
  // False: what an index holds of a key may depend on the other keys, visible or not: pages,
  // codebooks, centres.
  bool keys_apart = true;
};

// Everything the outside knows of a method without creating it.
struct MaskerDescriptor : MaskerTraits {
  const char* name;  // the "type" in JSON
  absl::StatusOr<std::unique_ptr<Masker>> (*create)(const Json&, const MaskerOptions&);
  absl::Status (*check)(const Json&);  // the fields alone; files that they name are not opened
  std::vector<FieldDoc> (*fields)();
  Json (*schema)();
};

// A value for every row of a step, [batch, heads, queries], that a masker wants logged.
struct RowMetric {
  const Metric* metric;
  at::Tensor values;
};

// What a masker remembers for one sequence and layer. Subclasses add what their method needs.
class MaskerState {
 public:
  virtual ~MaskerState() = default;
  // The sequence is cut back to the keys of the latest Prepare; what only later steps told is
  // forgotten. Indexes need not do anything: they notice at the next step.
  virtual void Rewind() {}
  // What it holds, for those who look into a session; empty before the first step. The names are
  // those of key_index.
  virtual NamedTensors Tensors() const { return {}; }
  std::vector<RowMetric> step_metrics;  // of the latest step
};

class Masker {
 public:
  Masker(const MaskerDescriptor& descriptor, const MaskerOptions& options)
      : descriptor_(descriptor), options_(options) {}
  virtual ~Masker() = default;
  Masker(const Masker&) = delete;
  Masker& operator=(const Masker&) = delete;

  // `previous` united with the keys that this method selects. A full `previous` is returned as it
  // is; weights that it holds never fall, unless the descriptor says so. `state` may be null where
  // the method needs none. Keys that are not visible to a query are never newly selected by a
  // method that scores keys. InvalidArgument: ValidateInputs fails, or `previous` has another shape
  // or device.
  absl::StatusOr<Mask> AddMask(const AttentionInputs& inputs, const Mask& previous,
                               MaskerState* state) const;

  // Builds what the method remembers of the keys of `inputs`, whose queries may be none, as the
  // prefix of what follows. Without it the first AddMask does so with the keys that it gets. Errors
  // as AddMask.
  absl::Status Prepare(const AttentionInputs& inputs, MaskerState* state) const;

  virtual std::unique_ptr<MaskerState> NewState() const { return std::make_unique<MaskerState>(); }
  // The config as JSON, defaults included.
  virtual Json ToJson() const = 0;
  // Bytes that scoring reads in one step for methods with ScoringReads::kIndex, all KV heads and
  // the batch together.
  virtual int64_t IndexBytes(const AttentionInputs&) const { return 0; }

  const MaskerDescriptor& descriptor() const { return descriptor_; }
  const MaskerOptions& options() const { return options_; }

 private:
  // Assumes valid inputs and a previous mask that is not full. May throw LibTorch's exceptions.
  virtual absl::StatusOr<Mask> Select(const AttentionInputs& inputs, const Mask& previous,
                                      MaskerState* state) const = 0;

  // A step whose keys are all held already, for methods that remember its queries. May throw
  // LibTorch's exceptions.
  virtual absl::Status ObserveFull(const AttentionInputs&, MaskerState*) const {
    return absl::OkStatus();
  }

  // Assumes valid inputs. May throw LibTorch's exceptions.
  virtual absl::Status PrepareState(const AttentionInputs&, MaskerState*) const {
    return absl::OkStatus();
  }

  const MaskerDescriptor& descriptor_;
  const MaskerOptions options_;
};

// The descriptor functions of a masker class `M` with `M::Config` and a constructor (Config,
// MaskerOptions).
template <typename M>
absl::StatusOr<std::unique_ptr<Masker>> CreateMasker(const Json& json,
                                                     const MaskerOptions& options) {
  SA_ASSIGN_OR_RETURN(typename M::Config config, ConfigFromJson<typename M::Config>(json));
  return std::make_unique<M>(config, options);
}

// With a function of its own where a config is not all that a masker is made of.
template <typename M>
MaskerDescriptor MakeDescriptor(
    const MaskerTraits& traits,
    absl::StatusOr<std::unique_ptr<Masker>> (*create)(const Json&, const MaskerOptions&)) {
  using Config = typename M::Config;
  return {traits,
          Config::kName,
          create,
          [](const Json& json) { return ConfigFromJson<Config>(json).status(); },
          &DocumentFields<Config>,
          &ConfigSchema<Config>};
}

template <typename M>
MaskerDescriptor MakeDescriptor(const MaskerTraits& traits) {
  return MakeDescriptor<M>(traits, &CreateMasker<M>);
}

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_RESEARCH_ATTENTION_MASKERS_MASKER_H_
