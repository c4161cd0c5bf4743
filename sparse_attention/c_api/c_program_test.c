/* A program in C99 against the shared library alone: a layer with a dense and a sparse pipeline,
 * the kernels, and errors. Exits with the number of failures. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sparse_attention/c_api/sparse_attention.h"

enum { kHeads = 4, kKvHeads = 2, kDim = 32, kKeys = 200, kPage = 16, kPages = 13 };

static int failures = 0;

#define CHECK(condition)                                                                        \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      printf("line %d: %s is false; last error: %s\n", __LINE__, #condition, sah_last_error()); \
      ++failures;                                                                               \
    }                                                                                           \
  } while (0)

/* A linear congruential generator: the same numbers everywhere, about uniform in [-1, 1). */
static float Draw(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return (float)((double)(state >> 8) / 8388608.0 - 1.0);
}

static float k[kPages * kPage * kKvHeads * kDim], v[kPages * kPage * kKvHeads * kDim];
static float q[kHeads * kDim];
static int32_t table[kPages];

static const float* Row(const float* pool, int key, int kv_head) {
  const int slot = table[key / kPage] * kPage + key % kPage;
  return pool + (slot * kKvHeads + kv_head) * kDim;
}

/* Softmax attention of one head over keys [begin, kKeys) in double. */
static void Reference(int head, int begin, double* out) {
  double logits[kKeys], sum = 0;
  const int kv_head = head / (kHeads / kKvHeads);
  int j, c;
  for (c = 0; c < kDim; ++c) out[c] = 0;
  for (j = begin; j < kKeys; ++j) {
    logits[j] = 0;
    for (c = 0; c < kDim; ++c) logits[j] += (double)q[head * kDim + c] * Row(k, j, kv_head)[c];
    logits[j] = exp(logits[j] / sqrt((double)kDim));
    sum += logits[j];
  }
  for (j = begin; j < kKeys; ++j) {
    for (c = 0; c < kDim; ++c) out[c] += logits[j] / sum * Row(v, j, kv_head)[c];
  }
}

static void ExpectReference(const float* out, int head, int begin) {
  double expected[kDim];
  int c;
  Reference(head, begin, expected);
  for (c = 0; c < kDim; ++c) CHECK(fabs(out[c] - expected[c]) < 1e-5);
}

/* Runs a step; the first key that heads see is `begin`, or -1: not compared. */
static void RunLayer(const char* json, int begin, int64_t most_selected) {
  sah_engine* engine = NULL;
  sah_layer* layer = NULL;
  sah_engine_options engine_options;
  sah_layer_options options;
  sah_kv_cache cache;
  sah_step step;
  const int32_t length = kKeys;
  float out[kHeads * kDim], lse[kHeads];
  sah_row_report reports[kHeads];
  int head;

  memset(&engine_options, 0, sizeof(engine_options));
  engine_options.struct_size = sizeof(engine_options);
  engine_options.threads = 2;
  CHECK(sah_engine_create(json, &engine_options, &engine) == SAH_OK);

  memset(&options, 0, sizeof(options));
  options.struct_size = sizeof(options);
  options.dtype = SAH_FLOAT32;
  options.dim = kDim;
  options.query_heads = kHeads;
  options.kv_heads = kKvHeads;
  options.sequences = 1;
  options.capacity = 1000;
  CHECK(sah_layer_create(engine, &options, &layer) == SAH_OK);
  sah_engine_destroy(engine);

  memset(&cache, 0, sizeof(cache));
  cache.struct_size = sizeof(cache);
  cache.k = k;
  cache.v = v;
  cache.k_head_stride = cache.v_head_stride = kDim * (int64_t)sizeof(float);
  cache.k_row_stride = cache.v_row_stride = kKvHeads * cache.k_head_stride;
  cache.k_block_stride = cache.v_block_stride = kPage * cache.k_row_stride;
  cache.page_size = kPage;
  cache.pages = kPages;
  cache.block_tables = table;
  cache.block_table_stride = kPages;
  cache.lengths = &length;
  CHECK(sah_layer_append(layer, &cache) == SAH_OK);

  memset(&step, 0, sizeof(step));
  step.struct_size = sizeof(step);
  step.q = q;
  step.q_head_stride = step.out_head_stride = kDim * (int64_t)sizeof(float);
  step.queries = 1;
  step.out = out;
  step.lse = lse;
  step.reports = reports;
  CHECK(sah_layer_run(layer, &cache, &step) == SAH_OK);
  for (head = 0; head < kHeads; ++head) {
    if (begin >= 0) ExpectReference(out + head * kDim, head, begin);
    CHECK(reports[head].visible == kKeys);
    CHECK(reports[head].selected <= most_selected && reports[head].selected > 0);
    CHECK(isfinite(lse[head]));
  }
  CHECK(sah_layer_truncate(layer, 0, 0) == SAH_OK);
  CHECK(sah_layer_run(layer, &cache, &step) == SAH_FAILED_PRECONDITION);
  CHECK(strstr(sah_last_error(), "cache.lengths[0]") != NULL);
  sah_layer_destroy(layer);
}

static void RunKernels(void) {
  float max[1], sum[1], acc[kDim], out[kDim];
  uint32_t rest[kKeys], best[3];
  float scores[5] = {1, 5, 3, 5, 2};
  int64_t count = 0;
  sah_state state;
  sah_attention attention;
  sah_key_list list;
  int j;

  state.max = max;
  state.sum = sum;
  state.out = acc;
  state.out_stride = kDim;
  memset(&attention, 0, sizeof(attention));
  attention.struct_size = sizeof(attention);
  attention.dtype = SAH_FLOAT32;
  attention.rows = 1;
  attention.dim = kDim;
  attention.q = q;
  attention.k = k;
  attention.v = v;
  attention.k_row_stride = attention.v_row_stride = kKvHeads * kDim * (int64_t)sizeof(float);
  attention.keys = kKeys;
  attention.page_size = kPage;
  attention.pages = kPages;
  attention.k_page_stride = attention.v_page_stride = kPage * attention.k_row_stride;
  attention.block_table = table;
  for (j = 100; j < kKeys; ++j) rest[j - 100] = (uint32_t)j;
  memset(&list, 0, sizeof(list));
  list.struct_size = sizeof(list);
  list.keys = rest;
  list.count = kKeys - 100;
  CHECK(sah_state_init(1, kDim, &state) == SAH_OK);
  CHECK(sah_attend_range(&attention, 0, 100, NULL, NULL, &state) == SAH_OK);
  CHECK(sah_attend_list(&attention, &list, &state) == SAH_OK);
  CHECK(sah_state_finish(1, kDim, &state, NULL, SAH_FLOAT32, out, 0, NULL) == SAH_OK);
  ExpectReference(out, 0, 0);

  CHECK(sah_top_k(scores, 5, 3, NULL, best, &count) == SAH_OK);
  CHECK(count == 3 && best[0] == 1 && best[1] == 2 && best[2] == 3);
}

int main(void) {
  sah_engine* engine = NULL;
  const char* isa = NULL;
  int i;
  CHECK(sah_api_version() == SAH_API_VERSION);
  CHECK(sah_default_isa(&isa) == SAH_OK && isa != NULL);
  printf("%s, %s\n", sah_version(), isa);

  for (i = 0; i < kPages; ++i) table[i] = kPages - 1 - i;
  for (i = 0; i < kPages * kPage * kKvHeads * kDim; ++i) {
    k[i] = Draw();
    v[i] = Draw();
  }
  for (i = 0; i < kHeads * kDim; ++i) q[i] = 3 * Draw();

  RunLayer("{\"type\": \"efficient\", \"maskers\": []}", 0, kKeys);
  RunLayer("{\"type\": \"efficient\", \"maskers\": [{\"type\": \"local\", \"window_size\": 50}]}",
           kKeys - 50, 50);
  RunLayer(
      "{\"type\": \"efficient\", \"maskers\": ["
      "{\"type\": \"quest_top_k\", \"heavy_size\": 64, \"page_size\": 16}]}",
      -1, 64);
  RunKernels();

  CHECK(sah_engine_create("{\"type\": \"efficient\", \"maskers\": [{\"type\": \"sinks\"}]}", NULL,
                          &engine) == SAH_NOT_FOUND);
  CHECK(engine == NULL);
  CHECK(strstr(sah_last_error(), "pipeline.maskers[0]") != NULL);
  CHECK(strcmp(sah_status_name(SAH_NOT_FOUND), "SAH_NOT_FOUND") == 0);
  printf("%d failures\n", failures);
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
