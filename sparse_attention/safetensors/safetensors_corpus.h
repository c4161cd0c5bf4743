// Hand-made safetensors files with the verdict that each must get: by the unit test and by the
// comparison with the reference implementation.
#ifndef SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_CORPUS_H_
#define SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_CORPUS_H_

#include <string>
#include <vector>

namespace sparse_attention {

enum class SafetensorsVerdict {
  kAccept,
  kReject,
  kStricter,  // refused here, accepted by the reference: the exceptions listed in safetensors.h
};

struct SafetensorsCase {
  std::string name;
  SafetensorsVerdict verdict;
  std::string bytes;
  std::string message;  // part of the error, empty if accepted
};

const std::vector<SafetensorsCase>& SafetensorsCorpus();

// A file of this header, with its right length, and data.
std::string SafetensorsBytes(const std::string& header, const std::string& data = "");

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_SAFETENSORS_SAFETENSORS_CORPUS_H_
