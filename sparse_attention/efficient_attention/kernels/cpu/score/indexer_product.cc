#include "sparse_attention/efficient_attention/kernels/cpu/score/indexer_product.h"

namespace sparse_attention::cpu {

IndexerKernels IndexerKernelsFor(Isa isa) { return SA_CHOOSE_ISA(isa, MakeIndexerKernels()); }

}  // namespace sparse_attention::cpu
