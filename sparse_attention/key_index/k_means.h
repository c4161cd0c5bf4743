// k-means over many independent groups of vectors at once.
#ifndef SPARSE_ATTENTION_KEY_INDEX_K_MEANS_H_
#define SPARSE_ATTENTION_KEY_INDEX_K_MEANS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "sparse_attention/base/philox.h"

namespace sparse_attention {

struct KMeansOptions {
  int64_t clusters = 64;    // >= 1
  int64_t iterations = 10;  // >= 1
  // The Python hub's rule, for parity: it starts from vectors drawn by LibTorch's generator, group
  // by group; an empty cluster takes a random vector; it stops where the centres of every group
  // moved less than 0.01 in all; assignments are those before the last move of the centres.
  bool like_hub = false;
  // The draws of group g, for the k-means++ start of Arthur and Vassilvitskii, SODA 2007.
  std::function<PhiloxStream(int64_t group)> stream;
};

struct KMeansResult {
  at::Tensor centroids;    // float32 [groups, clusters, dim]
  at::Tensor assignments;  // int64 [groups, n]
};

// x float32 [groups, n, dim], n >= 1; `counted` bool [groups, n] or undefined: vectors that move
// centres. By our own rule: k-means++ start, Lloyd's iterations until nothing changes or
// `iterations` is reached, an empty cluster keeps its centre, assignments are to the final centres
// (the lowest index of equally near ones). A group's result does not depend on the other groups.
KMeansResult KMeans(const at::Tensor& x, const at::Tensor& counted, const KMeansOptions& options);

// The nearest of centroids [groups, clusters, dim] for each x [groups, n, dim], by Euclidean
// distance, the lowest index of equal ones: int64 [groups, n].
at::Tensor NearestCentroids(const at::Tensor& x, const at::Tensor& centroids);

}  // namespace sparse_attention

#endif  // SPARSE_ATTENTION_KEY_INDEX_K_MEANS_H_
