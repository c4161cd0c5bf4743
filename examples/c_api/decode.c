/* A decoding loop with a paged cache of the host's own: see README.md. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SAH_IN_REPOSITORY
#include "sparse_attention/c_api/sparse_attention.h"
#else
#include "sparse_attention.h"
#endif

enum { kQueryHeads = 8, kKvHeads = 2, kDim = 64, kPrompt = 4096, kSteps = 4, kPage = 16 };
enum { kCapacity = kPrompt + kSteps, kPages = (kCapacity + kPage - 1) / kPage };
enum { kRow = kKvHeads * kDim }; /* elements of a token */

static void Check(sah_status status, const char* what) {
  if (status == SAH_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, sah_status_name(status), sah_last_error());
  exit(EXIT_FAILURE);
}

/* About normal: a sum of uniform numbers. */
static float Draw(void) {
  static uint32_t state = 1;
  double sum = 0;
  int i;
  for (i = 0; i < 4; ++i) {
    state = state * 1664525u + 1013904223u;
    sum += (state >> 8) / 16777216.0 - 0.5;
  }
  return (float)(sum * 1.7);
}

static sah_layer* MakeLayer(const char* json) {
  sah_engine* engine;
  sah_layer* layer;
  sah_layer_options options = {0};
  Check(sah_engine_create(json, NULL, &engine), "sah_engine_create");
  options.struct_size = sizeof(options);
  options.dtype = SAH_FLOAT32;
  options.dim = kDim;
  options.query_heads = kQueryHeads;
  options.kv_heads = kKvHeads;
  options.sequences = 1;
  options.capacity = kCapacity;
  Check(sah_layer_create(engine, &options, &layer), "sah_layer_create");
  sah_engine_destroy(engine); /* the layer keeps what it needs */
  return layer;
}

int main(void) {
  sah_layer* sparse = MakeLayer(
      "{\"type\": \"efficient\", \"selection\": \"kv_group\", \"maskers\": ["
      "{\"type\": \"sink\", \"sink_size\": 16}, {\"type\": \"local\", \"window_size\": 64},"
      "{\"type\": \"quest_top_k\", \"heavy_size\": 0.1, \"page_size\": 16}]}");
  sah_layer* dense = MakeLayer("{\"type\": \"efficient\", \"maskers\": []}");
  float* k = malloc(sizeof(float) * kPages * kPage * kRow);
  float* v = malloc(sizeof(float) * kPages * kPage * kRow);
  float q[kQueryHeads * kDim], out[kQueryHeads * kDim], exact[kQueryHeads * kDim];
  sah_row_report reports[kQueryHeads];
  float key[kRow] = {0}; /* of the latest token: neighbours are alike, as in models */
  int32_t block_table[kPages], length = 0;
  sah_kv_cache cache = {0};
  sah_step step = {0};
  int i, t;
  if (k == NULL || v == NULL) return EXIT_FAILURE;

  /* The pool is [pages, page size, KV heads, dim]; the sequence takes its pages backwards. */
  for (i = 0; i < kPages; ++i) block_table[i] = kPages - 1 - i;
  cache.struct_size = sizeof(cache);
  cache.k = k;
  cache.v = v;
  cache.k_head_stride = cache.v_head_stride = kDim * (int64_t)sizeof(float);
  cache.k_row_stride = cache.v_row_stride = kRow * (int64_t)sizeof(float);
  cache.k_block_stride = cache.v_block_stride = kPage * cache.k_row_stride;
  cache.page_size = kPage;
  cache.pages = kPages;
  cache.block_tables = block_table;
  cache.block_table_stride = kPages;
  cache.lengths = &length;

  step.struct_size = sizeof(step);
  step.q = q;
  step.q_head_stride = step.out_head_stride = kDim * (int64_t)sizeof(float);
  step.queries = 1;
  step.reports = reports;

  while (length < kCapacity) {
    /* The prompt at once, then a token at a time. */
    const int tokens = length == 0 ? kPrompt : 1;
    double error = 0, norm = 0;
    for (t = 0; t < tokens; ++t, ++length) {
      const int slot = block_table[length / kPage] * kPage + length % kPage;
      for (i = 0; i < kRow; ++i) {
        key[i] = 0.97f * key[i] + 0.24f * Draw();
        k[slot * kRow + i] = key[i];
        v[slot * kRow + i] = Draw();
      }
    }
    /* Every query head looks for a key of long ago. */
    for (i = 0; i < kQueryHeads * kDim; ++i) {
      const int head = i / kDim, past = (length + 400 * head) % kPrompt;
      const int slot = block_table[past / kPage] * kPage + past % kPage;
      const int kv_head = head / (kQueryHeads / kKvHeads);
      q[i] = k[slot * kRow + kv_head * kDim + i % kDim] + 0.5f * Draw();
    }
    Check(sah_layer_append(sparse, &cache), "sah_layer_append");
    Check(sah_layer_append(dense, &cache), "sah_layer_append");
    step.out = exact;
    Check(sah_layer_run(dense, &cache, &step), "sah_layer_run");
    step.out = out;
    Check(sah_layer_run(sparse, &cache, &step), "sah_layer_run");
    for (i = 0; i < kQueryHeads * kDim; ++i) {
      error += (out[i] - exact[i]) * (out[i] - exact[i]);
      norm += exact[i] * exact[i];
    }
    printf("%d keys: %d read of each KV head, relative error %.2f\n", (int)length,
           (int)reports[0].rows_read, sqrt(error / norm));
  }
  sah_layer_destroy(sparse);
  sah_layer_destroy(dense);
  free(k);
  free(v);
  return EXIT_SUCCESS;
}
