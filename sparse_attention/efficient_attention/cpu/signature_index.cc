#include "sparse_attention/efficient_attention/cpu/signature_index.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "sparse_attention/efficient_attention/cpu/covering_index.h"
#include "sparse_attention/efficient_attention/cpu/row_reduce_of.h"
#include "sparse_attention/efficient_attention/kernels/cpu/common/aligned_buffer.h"
#include "sparse_attention/efficient_attention/kernels/cpu/score/bit_agreement.h"

namespace sparse_attention::cpu {
namespace {

// Whole numbers that order keys as the research engine's scores do.
class AgreementScorer final : public ItemScorer {
 public:
  // `own_keys`: every query head has signatures of its own, key_stride apart.
  AgreementScorer(const BitAgreementKernels& kernels, const BitAgreementProblem& problem,
                  bool own_keys, int64_t key_stride)
      : ItemScorer(MostAgreement(problem.bits, problem.rows, problem.reduce) <= 255
                       ? ScoreType::kUint8
                       : ScoreType::kUint16),
        kernels_(kernels),
        problem_(problem),
        own_keys_(own_keys),
        key_stride_(key_stride) {}

  void Score(int64_t begin, int64_t end, void* scores, int64_t stride) const override {
    if (type() == ScoreType::kUint8) {
      return ScoreAs(kernels_.score8, begin, end, static_cast<uint8_t*>(scores), stride);
    }
    ScoreAs(kernels_.score16, begin, end, static_cast<uint16_t*>(scores), stride);
  }

 private:
  template <typename T>
  void ScoreAs(void (*score)(const BitAgreementProblem&, int64_t, int64_t, T*, int64_t),
               int64_t begin, int64_t end, T* out, int64_t stride) const {
    if (!own_keys_) return score(problem_, begin, end, out, stride);
    BitAgreementProblem one = problem_;
    one.rows = 1;
    one.reduce = RowReduce::kNone;
    ScoreRowsApart(problem_.reduce, problem_.rows, begin, end, out, stride,
                   [&](int row, int64_t first, int64_t last, T* of_row) {
                     one.queries = problem_.queries + row * SignatureWords(problem_.bits);
                     one.keys = problem_.keys + row * key_stride_;
                     score(one, first, last, of_row, last - first);
                   });
  }

  const BitAgreementKernels kernels_;
  const BitAgreementProblem problem_;
  const bool own_keys_;
  const int64_t key_stride_;
};

class SignatureIndex final : public CoveringIndex {
 public:
  SignatureIndex(const StepPlan& plan, SignatureMlps mlps)
      : CoveringIndex(plan),
        mlps_(std::move(mlps)),
        query_mlp_{mlps_.query, mlps_.activation},
        key_mlp_{mlps_.key, mlps_.activation},
        words_(cpu::SignatureWords(static_cast<int>(key_mlp_.bits()))),
        capacity_(plan.capacity),
        isa_(plan.isa),
        kernels_(BitAgreementKernelsFor(plan.isa)),
        buffer_(static_cast<size_t>(plan.sequences * mlps_.key_heads * words_ * plan.capacity) *
                sizeof(uint32_t)) {}

  bool allocated() const { return buffer_.data() != nullptr; }
  int64_t bits() const { return key_mlp_.bits(); }
  int64_t bytes() const override { return static_cast<int64_t>(buffer_.size()); }

  int64_t ScoringBytes(int64_t keys) const override {
    return mlps_.key_heads * words_ * keys * int64_t{sizeof(uint32_t)};
  }
  size_t ScratchBytes() const override {
    return Arena::Bytes<AgreementScorer>(1) + Arena::Bytes<uint32_t>(shape_.group() * words_) +
           Arena::Bytes<float>(MlpScratchFloats(query_mlp_));
  }

  const ItemScorer* MakeScorer(const StepItem& item) const override {
    uint32_t* const queries = item.arena.Take<uint32_t>(item.rows() * words_);
    {
      ArenaScope scope(item.arena);
      float* const scratch = item.arena.Take<float>(MlpScratchFloats(query_mlp_));
      for (int row = 0; row < item.rows(); ++row) {
        const int64_t head = item.kv_head * item.rows() + row;
        const KeyRows q = {static_cast<const char*>(item.problem.q) + row * item.problem.q_stride,
                           shape_.element, item.problem.q_stride, 1};
        EncodeSignatures(query_mlp_, head, q, isa_, scratch,
                         reinterpret_cast<int32_t*>(queries + row * words_), words_);
      }
    }
    const bool own_keys = mlps_.key_heads != shape_.kv_heads;
    const int64_t set = own_keys ? item.kv_head * item.rows() : item.kv_head;
    BitAgreementProblem problem;
    problem.bits = static_cast<int32_t>(bits());
    problem.rows = item.rows();
    problem.queries = queries;
    problem.keys = KeysOfSet(item.sequence, set);
    problem.word_stride = capacity_;
    problem.reduce = ReduceOf(item.plan);
    return new (item.arena.Take<AgreementScorer>(1))
        AgreementScorer(kernels_, problem, own_keys, words_ * capacity_);
  }

 private:
  void ReserveThreads(int threads) override {
    scratch_.resize(static_cast<size_t>(threads));
    for (std::vector<float>& scratch : scratch_) {
      scratch.resize(static_cast<size_t>(MlpScratchFloats(key_mlp_) + kRowWords));
    }
  }

  void Extend(int64_t sequence, const SequenceKv& kv, int64_t covered, Workers& workers) override {
    const int64_t heads_of_set = mlps_.key_heads / shape_.kv_heads;
    ForEachPiece(mlps_.key_heads, covered, kv.length, workers,
                 [&](int64_t set, int64_t begin, int64_t end, int thread) {
                   Encode(sequence, set, KeysOf(kv, set / heads_of_set), begin, end,
                          scratch_[static_cast<size_t>(thread)].data());
                 });
  }

  void Encode(int64_t sequence, int64_t set, const HeadKeys& keys, int64_t begin, int64_t end,
              float* scratch) {
    uint32_t* const out = KeysOfSet(sequence, set);
    ForEachRun(keys, begin, end, [&](const KeyRows& rows, int64_t first) {
      if (words_ == 1) {
        return EncodeSignatures(key_mlp_, set, rows, isa_, scratch,
                                reinterpret_cast<int32_t*>(out + first), 1);
      }
      // Words of a key lie apart in the index.
      int32_t* const words = reinterpret_cast<int32_t*>(scratch + MlpScratchFloats(key_mlp_));
      const int64_t at_once = kRowWords / words_;
      for (int64_t row = 0; row < rows.rows; row += at_once) {
        const int64_t count = std::min(at_once, rows.rows - row);
        EncodeSignatures(key_mlp_, set, rows.Part(row, count), isa_, scratch, words, words_);
        for (int64_t j = 0; j < count; ++j) {
          for (int64_t w = 0; w < words_; ++w) {
            out[w * capacity_ + first + row + j] = static_cast<uint32_t>(words[j * words_ + w]);
          }
        }
      }
    });
  }

  uint32_t* KeysOfSet(int64_t sequence, int64_t set) {
    return buffer_.as<uint32_t>() + (sequence * mlps_.key_heads + set) * words_ * capacity_;
  }
  const uint32_t* KeysOfSet(int64_t sequence, int64_t set) const {
    return buffer_.as<uint32_t>() + (sequence * mlps_.key_heads + set) * words_ * capacity_;
  }

  static constexpr int64_t kRowWords = 4096;  // of keys with several words, before they are spread

  const SignatureMlps mlps_;
  const Mlp query_mlp_, key_mlp_;
  const int64_t words_, capacity_;
  const Isa isa_;
  const BitAgreementKernels kernels_;
  AlignedBuffer buffer_;                     // [sequences, sets, words, capacity]
  std::vector<std::vector<float>> scratch_;  // by thread
};

}  // namespace

absl::StatusOr<std::unique_ptr<KeyIndex>> HashAttentionSelector::NewIndex(
    const StepPlan& plan) const {
  SA_ASSIGN_OR_RETURN(SignatureMlps mlps, mlps_(plan.shape));
  auto index = std::make_unique<SignatureIndex>(plan, std::move(mlps));
  if (index->bits() > kMaxSignatureBits) {
    return absl::UnimplementedError(absl::StrCat("the efficient engine supports signatures up to ",
                                                 kMaxSignatureBits, " bits, got ", index->bits()));
  }
  return IfAllocated(std::move(index), plan, "signatures");
}

}  // namespace sparse_attention::cpu
