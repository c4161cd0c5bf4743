// ModelAdapter: a model and its sparse attention behind one call.
//
//   ModelHubAdapterInterface         text in, answers out
//   SparseAttentionAdapterInterface  the attention that a model is to call
//   ModelAdapter                     both, and the owner of model and attention
#ifndef ADAPTERS_MODEL_ADAPTER_H_
#define ADAPTERS_MODEL_ADAPTER_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "adapters/host_attention.h"
#include "adapters/request.h"
#include "metric_logging/metric_sink.h"

namespace sparse_attention {

class ModelHubAdapterInterface {
 public:
  virtual ~ModelHubAdapterInterface() = default;

  // Reads the context once and answers every question from that state, each as if it were the only
  // one. `sink` receives what the sparse pipeline measures.
  virtual absl::StatusOr<Response> ProcessRequest(const Request& request,
                                                  const GenerationOptions& options = {},
                                                  SparseMode mode = SparseMode::kQuestionAndAnswer,
                                                  MetricSink* sink = nullptr) const = 0;
};

class SparseAttentionAdapterInterface {
 public:
  virtual ~SparseAttentionAdapterInterface() = default;

  // The attention of one sequence; session and sink must outlive the function.
  virtual AttentionFunction CustomAttentionFunction(AttentionSession* session,
                                                    MetricSink* sink = nullptr) const = 0;
};

// A subclass owns the model and implements ProcessRequest.
class ModelAdapter : public ModelHubAdapterInterface, public SparseAttentionAdapterInterface {
 public:
  AttentionFunction CustomAttentionFunction(AttentionSession* session,
                                            MetricSink* sink = nullptr) const override {
    return attention_->Bind(session, sink);
  }
  const HostAttention& attention() const { return *attention_; }

 protected:
  explicit ModelAdapter(std::unique_ptr<const HostAttention> attention)
      : attention_(std::move(attention)) {}

 private:
  std::unique_ptr<const HostAttention> attention_;
};

}  // namespace sparse_attention

#endif  // ADAPTERS_MODEL_ADAPTER_H_
