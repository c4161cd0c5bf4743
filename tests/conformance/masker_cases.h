// What the conformance tests run on: every masker that the registry lists, each with the config
// that its own schema suggests and with those of a table here. A new masker is therefore tested
// without an entry in the table, unless a required field is one that a schema cannot suggest.
#ifndef TESTS_CONFORMANCE_MASKER_CASES_H_
#define TESTS_CONFORMANCE_MASKER_CASES_H_

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "sparse_attention/config/json.h"
#include "sparse_attention/research_attention/maskers/masker.h"

namespace sparse_attention {

struct MaskerCase {
  std::string name;  // "oracle_top_k_0", for the test's name
  const MaskerDescriptor* descriptor;
  Json config;  // with "type"

  // The Python hub's sampling rule draws from one generator in the order of the rows, ignores what
  // is visible and held, and so keeps none of the promises about batches, chunks and groups.
  bool like_hub() const { return config.value("estimator", "") == "hub"; }
  // Chooses among keys by what they hold, or by chance: such a method sees visible keys alone and
  // leaves the weights of others as they are.
  bool chooses() const {
    return !like_hub() && (descriptor->scoring_reads != ScoringReads::kNothing ||
                           descriptor->kind == MaskerKind::kSampling);
  }
  std::unique_ptr<Masker> Make(const MaskerOptions& options = {}) const;
};

std::vector<MaskerCase> AllMaskerCases();
inline void PrintTo(const MaskerCase& c, std::ostream* out) { *out << DumpJson(c.config); }

}  // namespace sparse_attention

#endif  // TESTS_CONFORMANCE_MASKER_CASES_H_
