/* Sparse attention on the CPU for engines of any language: plain pointers and structs, C99.
 *
 * The shared library libsparse_attention.so needs neither LibTorch nor Python. It offers
 *   - layers: a JSON pipeline (sink, local, HashAttention, Quest, vAttention, ...) over keys and
 *     values that lie in the host's own cache, contiguous or in pages with int32 block tables;
 *   - kernels, for hosts with a selection of their own: attention over ranges and lists of keys,
 *     merging of partial results, exact top-k.
 *
 * A decoding step of a layer:
 *   sah_engine_create(json, NULL, &engine);        once for a model
 *   sah_layer_create(engine, &options, &layer);    once for each of its layers
 *   ... the host appends the step's keys and values to its cache ...
 *   sah_layer_append(layer, &cache);               the indexes take in what is new
 *   sah_layer_run(layer, &cache, &step);           selects, attends, writes the outputs
 *
 * Conventions
 *   - Structs begin with struct_size, which the caller sets to sizeof(the struct): later headers
 *     may add members at the end. A member that is 0 has its default; unused ones must be 0.
 *   - Strides and sizes are in bytes, lengths and pages in keys (tokens). The elements of a row lie
 *     side by side; rows start at multiples of the element's size, no more is asked.
 *   - Arrays are row-major in the order of the brackets.
 *   - Nothing is copied or kept of what a pointer leads to, unless a function says so.
 *
 * Errors
 *   - Functions return SAH_OK or another sah_status; then nothing was written to outputs, and
 *     sah_last_error() names the field, the rule and the value.
 *   - Bad values of any kind are answered so; what cannot be checked is that memory is as large as
 *     sizes and strides say. No exception leaves the library.
 *
 * Threads
 *   Calls on layers of one engine take turns: they share its threads and scratch memory. Different
 *   engines, and the kernels, which run in the calling thread, are independent of one another.
 *   Destroying an object while another thread uses it is an error that is not noticed.
 */
#ifndef SPARSE_ATTENTION_C_API_SPARSE_ATTENTION_H_
#define SPARSE_ATTENTION_C_API_SPARSE_ATTENTION_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SAH_API __attribute__((visibility("default")))
#else
#define SAH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version and errors ---------------------------------------------------------------------- */

/* Grows when a program compiled against an earlier header could no longer run. */
#define SAH_API_VERSION 1

typedef enum sah_status {
  SAH_OK = 0,
  SAH_INVALID_ARGUMENT = 1, /* a value breaks a rule */
  SAH_NOT_FOUND = 2,        /* no such file, no such method */
  SAH_UNSUPPORTED = 3,      /* valid, but beyond this library; the text says what is supported */
  SAH_OUT_OF_MEMORY = 4,
  SAH_FAILED_PRECONDITION = 5, /* another call must come first */
  SAH_INTERNAL = 6             /* a defect of this library */
} sah_status;

/* SAH_API_VERSION of the library that runs; compare it with the header's. */
SAH_API int32_t sah_api_version(void);
/* "0.1.0", static. */
SAH_API const char* sah_version(void);
/* "SAH_OK" and so on, static; "unknown sah_status" for other numbers. */
SAH_API const char* sah_status_name(sah_status status);
/* Text of the latest call that failed in the calling thread, "" before the first; at most 2,047
 * bytes. Valid until the next call that fails in this thread. */
SAH_API const char* sah_last_error(void);

/* ---- Machine --------------------------------------------------------------------------------- */

/* The instruction set that is used where none is named: the most that this machine runs, or what
 * the environment variable SA_ISA names. "generic", "avx2", "avx512", "avx512_bf16".
 * SAH_INVALID_ARGUMENT: SA_ISA names one that is unknown or not supported here. `name` receives a
 * static text. */
SAH_API sah_status sah_default_isa(const char** name);

/* Element types of queries, keys, values and outputs. */
typedef enum sah_dtype {
  SAH_FLOAT32 = 0,
  SAH_FLOAT16 = 1, /* IEEE 754 binary16 */
  SAH_BFLOAT16 = 2
} sah_dtype;

/* ---- Engine: a pipeline, its weights, and threads -------------------------------------------- */

typedef struct sah_engine sah_engine;

typedef struct sah_engine_options {
  size_t struct_size;
  int32_t threads; /* that compute, the caller's among them, up to 1024; 0: one a processor.
                      The results are the same for any number, bit for bit. */
  const char* isa; /* as sah_default_isa() has them; NULL: the default */
  const char* model_folder; /* stands for "{model}/" where names of files begin so; or NULL */
} sah_engine_options;

/* Reads a pipeline, such as
 *   {"type": "efficient", "seed": 42, "selection": "kv_group",
 *    "maskers": [{"type": "sink", "sink_size": 128}, {"type": "local", "window_size": 128},
 *                {"type": "quest_top_k", "heavy_size": 0.05, "page_size": 16}]}
 * (a NUL-terminated text; docs/maskers.md has every method and field) and loads the files that it
 * names. `options` may be NULL. `*engine` receives the engine, which the caller destroys; NULL
 * after an error. SAH_INVALID_ARGUMENT: the text; SAH_NOT_FOUND: a method or a file;
 * SAH_UNSUPPORTED: the efficient engine cannot do it. Texts name the place: "pipeline.maskers[2]:
 * ...". */
SAH_API sah_status sah_engine_create(const char* json, const sah_engine_options* options,
                                     sah_engine** engine);
/* Layers of the engine may outlive it. NULL is allowed. */
SAH_API void sah_engine_destroy(sah_engine* engine);

typedef struct sah_engine_info {
  size_t struct_size;
  int32_t threads;
  const char* isa;       /* static */
  int64_t scratch_bytes; /* held for steps, of all threads together */
} sah_engine_info;

/* Fills `info`, whose struct_size the caller sets. */
SAH_API sah_status sah_engine_get_info(const sah_engine* engine, sah_engine_info* info);

/* ---- Layer: the indexes over the keys of one layer, and its steps ---------------------------- */

typedef struct sah_layer sah_layer;

typedef struct sah_layer_options {
  size_t struct_size;
  int32_t dtype;       /* sah_dtype */
  int32_t dim;         /* of queries and keys, 1 to 256 */
  int32_t value_dim;   /* of values and outputs, 1 to 256; 0: dim */
  int32_t query_heads; /* a multiple of kv_heads, up to 16 times as many */
  int32_t kv_heads;    /* 1 to 65536 */
  int32_t layer;       /* its number: pipelines have rules by layer, files weights by layer */
  int32_t sequences;   /* slots for sequences that are decoded side by side, 1 to 65536 */
  int32_t capacity;    /* keys of a sequence at most */
} sah_layer_options;

/* Plans a layer: memory for its indexes, and the engine's scratch memory, is allocated here, so
 * that steps allocate nothing. The caller destroys `*layer`; NULL after an error. */
SAH_API sah_status sah_layer_create(sah_engine* engine, const sah_layer_options* options,
                                    sah_layer** layer);
/* NULL is allowed. */
SAH_API void sah_layer_destroy(sah_layer* layer);

/* The keys and values of all sequences of a layer, in memory of the host.
 *
 * Row j of KV head h of sequence s lies at
 *   contiguous  k + s * k_block_stride + h * k_head_stride + j * k_row_stride
 *   paged       k + p * k_block_stride + h * k_head_stride + j % page_size * k_row_stride,
 *               p = block_tables[s * block_table_stride + j / page_size]
 * and values alike. (Pools of vLLM, [pages, page_size, KV heads, dim]: k_head_stride is a row's
 * bytes, k_row_stride KV heads times that, k_block_stride page_size times that.) */
typedef struct sah_kv_cache {
  size_t struct_size;
  const void* k;
  const void* v;
  int64_t k_row_stride, k_head_stride, k_block_stride;
  int64_t v_row_stride, v_head_stride, v_block_stride;
  int64_t page_size;           /* a power of two; 0: contiguous */
  int64_t pages;               /* of the pool; entries of block tables are below it */
  const int32_t* block_tables; /* [sequences, block_table_stride]; entries beyond the length are not
                                  read. Must stay as they are during the call. */
  int64_t block_table_stride;  /* entries a sequence */
  const int32_t* lengths; /* [sequences]: keys, those of the step's own queries included; 0: the
                             slot takes no part in the call */
  const int32_t* padding; /* [sequences]: leading keys that are never seen (left padding); or
                             NULL: none */
} sah_kv_cache;

/* The indexes take in the keys beyond those that they cover; values too, where a method looks at
 * their norms. To be called whenever keys were appended, before the next step. Keys that are
 * covered must stay as they are; where they do not, tell it with sah_layer_truncate first.
 * SAH_OUT_OF_MEMORY: the indexes have forgotten the keys of all sequences. */
SAH_API sah_status sah_layer_append(sah_layer* layer, const sah_kv_cache* cache);

/* The indexes forget the keys of a sequence from `length` on: after a cut, or with 0 before the
 * slot is given to another sequence. A length beyond what is covered changes nothing. */
SAH_API sah_status sah_layer_truncate(sah_layer* layer, int32_t sequence, int32_t length);

/* What a step did for one sequence, query head and query. */
typedef struct sah_row_report {
  int64_t visible;       /* keys that the query sees */
  int64_t selected;      /* keys attended to */
  int64_t rows_read;     /* keys of the KV head that were read for the query heads of its group */
  int64_t sample_budget; /* keys drawn by an adaptive sampler */
  int32_t promised;      /* 1: an adaptive sampler promised a bound on the error */
  int32_t guarantee_met; /* then 1: the sample supports the promise */
} sah_row_report;

/* One step. Query i of a sequence has the position length - queries + i and sees the keys up to it,
 * but for padding and what lies before the sliding window. */
typedef struct sah_step {
  size_t struct_size;
  const void* q; /* [sequences, query heads, queries, dim] by the strides below */
  int64_t q_sequence_stride, q_head_stride, q_query_stride;
  int64_t queries;          /* of every sequence, at least 1 */
  float scale;              /* of q.k; 0: 1 / sqrt(dim) */
  float softcap;            /* softcap * tanh(x / softcap) of the scaled logits; 0: none */
  int64_t sliding_window;   /* keys that a query sees, its own included; 0: all */
  const float* sink_logits; /* [query heads]: exp of it joins the denominator; or NULL */
  void* out; /* [sequences, query heads, queries, value_dim] of dtype; must not overlap inputs */
  int64_t out_sequence_stride, out_head_stride, out_query_stride;
  float* lse;              /* [sequences, query heads, queries]: natural log of the sum of
                              exponentials; or NULL */
  sah_row_report* reports; /* [sequences, query heads, queries]; or NULL */
} sah_step;

/* Selects keys and attends to them. The indexes must cover exactly the keys of `cache`
 * (SAH_FAILED_PRECONDITION otherwise). A slot of length 0 gets outputs 0 and lse -infinity. */
SAH_API sah_status sah_layer_run(sah_layer* layer, const sah_kv_cache* cache, const sah_step* step);

typedef struct sah_layer_info {
  size_t struct_size;
  int64_t index_bytes; /* held by the indexes, beside the cache */
  int32_t dense;       /* 1: no query head of the layer has a masker */
} sah_layer_info;

/* Fills `info`, whose struct_size the caller sets. */
SAH_API sah_status sah_layer_get_info(const sah_layer* layer, sah_layer_info* info);

/* `*share` receives the bytes that a query of a sequence of `keys` keys reads to choose among them,
 * over those of its keys and values. */
SAH_API sah_status sah_layer_scoring_share(const sah_layer* layer, int32_t keys, double* share);

/* ---- Kernels --------------------------------------------------------------------------------- */

/* A few query rows, and the keys and values of one sequence and KV head: row j of the keys lies at
 * k + j * k_row_stride, or, with pages, at
 * k + block_table[j / page_size] * k_page_stride + j % page_size * k_row_stride. */
typedef struct sah_attention {
  size_t struct_size;
  int32_t dtype;          /* sah_dtype of q, k and v */
  int32_t rows;           /* queries that share the KV head, 1 to 16 */
  int32_t dim, value_dim; /* 1 to 256; value_dim 0: dim */
  const void* q;          /* [rows, dim], q_stride bytes from row to row */
  int64_t q_stride;
  const void* k;
  const void* v;
  int64_t k_row_stride, v_row_stride;
  int64_t keys;      /* that there are */
  int64_t page_size; /* a power of two; 0: contiguous */
  int64_t pages;     /* of the pool */
  int64_t k_page_stride, v_page_stride;
  const int32_t* block_table; /* [keys / page_size, rounded up] */
  float scale;                /* of q.k; 0: 1 / sqrt(dim) */
  float softcap;              /* 0: none */
} sah_attention;

/* A softmax in the making, in memory of the caller: max[r] is row r's largest logit, sum[r] the sum
 * of exp(logit - max[r]), out[r] that of exp(logit - max[r]) times values. A finished result (out,
 * lse) of anyone is the state max = lse, sum = 1, out = out. */
typedef struct sah_state {
  float* max;         /* [rows] */
  float* sum;         /* [rows] */
  float* out;         /* [rows, value_dim] */
  int64_t out_stride; /* floats from row to row, at least value_dim */
} sah_state;

/* A state without keys. */
SAH_API sah_status sah_state_init(int32_t rows, int32_t value_dim, const sah_state* state);

/* Adds keys [begin, end). Row r attends to [row_begin[r], row_end[r]) of them; NULL: no bound on
 * that side. Dense decoding is sah_state_init, this over all keys, sah_state_finish. */
SAH_API sah_status sah_attend_range(const sah_attention* attention, int64_t begin, int64_t end,
                                    const int64_t* row_begin, const int64_t* row_end,
                                    const sah_state* state);

typedef struct sah_key_list {
  size_t struct_size;
  const uint32_t* keys; /* [count], each below attention.keys; ascending is fastest. A key that is
                           listed twice counts twice. */
  int64_t count;
  const uint16_t* members; /* [count], bit r: row r attends to the key; NULL: every row does */
  const float* inverse_probabilities; /* [rows, count], > 0 and finite: a sampled key counts so many
                                         times; NULL: once */
  int64_t inverse_probability_stride; /* floats from row to row; 0: the same for all rows */
} sah_key_list;

/* Adds listed keys. Only listed rows of memory are read. */
SAH_API sah_status sah_attend_list(const sah_attention* attention, const sah_key_list* list,
                                   const sah_state* state);

/* Adds `from` to `into`: parts of a sequence, wherever they were computed. Associative and
 * commutative up to rounding; a state without keys changes nothing. */
SAH_API sah_status sah_state_merge(int32_t rows, int32_t value_dim, const sah_state* from,
                                   const sah_state* into);

/* Writes out [rows, value_dim] of `dtype`, out_stride bytes from row to row, and lse [rows] unless
 * NULL. sinks [rows]: exp of it joins the denominator; or NULL. A row without keys gets 0 and
 * -infinity. The state stays as it is. */
SAH_API sah_status sah_state_finish(int32_t rows, int32_t value_dim, const sah_state* state,
                                    const float* sinks, int32_t dtype, void* out,
                                    int64_t out_stride, float* lse);

/* The k highest of scores[n], k clipped to what there is, as ascending indices in selected[k];
 * `*count` receives how many. Of equal scores the lowest index wins, NaN counts as +infinity.
 * `excluded`: a bitmap, bit j % 64 of word j / 64, of scores that take no part, or NULL. Allocates
 * about 0.9 bytes a score for the time of the call. 0 <= n < 2^31. */
SAH_API sah_status sah_top_k(const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
                             uint32_t* selected, int64_t* count);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* SPARSE_ATTENTION_C_API_SPARSE_ATTENTION_H_ */
