// CostRule: when reading all rows in order is faster than gathering those that are wanted.
#ifndef SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_
#define SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_

namespace sparse_attention::cpu {

// A gather of scattered rows reaches a share of the bandwidth of a stream; above that share of rows
// the stream wins, though it reads rows that nobody wants.
struct CostRule {
  double gather_share = 0.44;
};

}  // namespace sparse_attention::cpu

#endif  // SPARSE_ATTENTION_EFFICIENT_ATTENTION_CPU_COST_RULE_H_
