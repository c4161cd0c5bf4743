// The kernels of the C API.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "sparse_attention/c_api/boundary.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/attention.h"
#include "sparse_attention/efficient_attention/kernels/cpu/attention/weighted_list.h"
#include "sparse_attention/efficient_attention/kernels/cpu/select/top_k_list.h"

namespace sparse_attention::c_api {
namespace {

constexpr int64_t kMostKeys = std::numeric_limits<int32_t>::max();

absl::StatusOr<cpu::Isa> DefaultIsa() {
  static const auto* const isa = new absl::StatusOr<cpu::Isa>(IsaOf(nullptr));
  return *isa;
}

absl::StatusOr<cpu::AttentionKernels> Kernels() {
  SA_ASSIGN_OR_RETURN(const cpu::Isa isa, DefaultIsa());
  return cpu::AttentionKernelsFor(isa);
}

absl::Status CheckRows(int32_t rows, int32_t value_dim, const char* path) {
  SA_RETURN_IF_ERROR(CheckInteger(rows, 1, cpu::kMaxRows, Path(path, "rows")));
  return CheckInteger(value_dim, 1, cpu::kMaxDim, Path(path, "value_dim"));
}

absl::StatusOr<cpu::RunningState> StateOf(const sah_state* state, int32_t rows, int32_t value_dim,
                                          const char* path) {
  SA_RETURN_IF_ERROR(CheckPointer(state, path));
  SA_RETURN_IF_ERROR(CheckPointer(state->max, Path(path, ".max")));
  SA_RETURN_IF_ERROR(CheckPointer(state->sum, Path(path, ".sum")));
  SA_RETURN_IF_ERROR(CheckPointer(state->out, Path(path, ".out")));
  // A single row has no next one.
  SA_RETURN_IF_ERROR(CheckInteger(state->out_stride, rows > 1 ? value_dim : 0, int64_t{1} << 48,
                                  Path(path, ".out_stride")));
  return cpu::RunningState{state->max, state->sum, state->out, state->out_stride};
}

struct Problem {
  cpu::AttentionProblem attention;
  int64_t keys;
};

absl::StatusOr<Problem> ProblemOf(const sah_attention* given) {
  SA_ASSIGN_OR_RETURN(sah_attention in, ReadStruct(given, "attention"));
  SA_ASSIGN_OR_RETURN(const cpu::Element element, ElementOf(in.dtype, "attention.dtype"));
  SA_RETURN_IF_ERROR(CheckInteger(in.dim, 1, cpu::kMaxDim, "attention.dim"));
  if (in.value_dim == 0) in.value_dim = in.dim;
  SA_RETURN_IF_ERROR(CheckRows(in.rows, in.value_dim, "attention."));
  SA_RETURN_IF_ERROR(CheckInteger(in.keys, 0, kMostKeys, "attention.keys"));
  const int64_t bytes = cpu::ElementBytes(element);
  SA_RETURN_IF_ERROR(CheckElements(in.q, element, "attention.q"));
  SA_RETURN_IF_ERROR(CheckStride(in.q_stride, element, 0, "attention.q_stride"));
  SA_RETURN_IF_ERROR(CheckSpan({{in.rows, in.q_stride}}, "attention.q"));
  const Paging paging = {in.page_size, in.pages};
  SA_RETURN_IF_ERROR(CheckPaging(paging, "attention"));
  if (paging.paged()) {
    SA_RETURN_IF_ERROR(CheckPointer(in.block_table, "attention.block_table"));
    SA_RETURN_IF_ERROR(CheckTable(in.block_table, in.keys, paging, "attention.block_table"));
  }
  Problem problem = {};
  problem.keys = in.keys;
  cpu::AttentionProblem& attention = problem.attention;
  attention.element = element;
  attention.dim = in.dim;
  attention.value_dim = in.value_dim;
  attention.rows = in.rows;
  attention.q = in.q;
  attention.q_stride = in.q_stride;
  struct Side {
    const char* name;
    const void* data;
    int64_t row_stride, page_stride, row_bytes;
    cpu::RowView* view;
  };
  for (const Side& side :
       {Side{"attention.k", in.k, in.k_row_stride, in.k_page_stride, in.dim * bytes, &attention.k},
        {"attention.v", in.v, in.v_row_stride, in.v_page_stride, in.value_dim * bytes,
         &attention.v}}) {
    SA_RETURN_IF_ERROR(CheckElements(side.data, element, side.name));
    SA_RETURN_IF_ERROR(
        CheckStride(side.row_stride, element, side.row_bytes, Path(side.name, "_row_stride")));
    side.view->base = static_cast<const char*>(side.data);
    side.view->row_stride = side.row_stride;
    if (!paging.paged()) {
      SA_RETURN_IF_ERROR(CheckSpan({{in.keys, side.row_stride}}, side.name));
      continue;
    }
    SA_RETURN_IF_ERROR(CheckStride(side.page_stride, element, 0, Path(side.name, "_page_stride")));
    SA_RETURN_IF_ERROR(CheckSpan(
        {{std::min(in.page_size, in.keys), side.row_stride}, {in.pages, side.page_stride}},
        side.name));
    side.view->pages = in.block_table;
    side.view->page_shift = paging.shift();
    side.view->page_stride = side.page_stride;
  }
  SA_RETURN_IF_ERROR(CheckFactor(in.scale, "attention.scale"));
  SA_RETURN_IF_ERROR(CheckFactor(in.softcap, "attention.softcap"));
  attention.scale = ScaleOr(in.scale, in.dim);
  attention.softcap = in.softcap;
  return problem;
}

absl::Status AttendRange(const sah_attention* given, int64_t begin, int64_t end,
                         const int64_t* row_begin, const int64_t* row_end,
                         const sah_state* given_state) {
  SA_ASSIGN_OR_RETURN(const Problem problem, ProblemOf(given));
  const int32_t rows = problem.attention.rows;
  SA_ASSIGN_OR_RETURN(const cpu::RunningState state,
                      StateOf(given_state, rows, problem.attention.value_dim, "state"));
  SA_RETURN_IF_ERROR(CheckInteger(begin, 0, problem.keys, "begin"));
  SA_RETURN_IF_ERROR(CheckInteger(end, begin, problem.keys, "end"));
  SA_RETURN_IF_ERROR(CheckOptional(row_begin, "row_begin"));
  SA_RETURN_IF_ERROR(CheckOptional(row_end, "row_end"));
  SA_ASSIGN_OR_RETURN(const cpu::AttentionKernels kernels, Kernels());
  int64_t first[cpu::kMaxRows], last[cpu::kMaxRows];
  for (int32_t r = 0; r < rows; ++r) {
    first[r] = row_begin == nullptr ? begin : std::clamp(row_begin[r], begin, end);
    last[r] = row_end == nullptr ? end : std::clamp(row_end[r], begin, end);
  }
  kernels.attend_range(problem.attention, begin, end, row_begin == nullptr ? nullptr : first,
                       row_end == nullptr ? nullptr : last, state);
  return absl::OkStatus();
}

absl::Status CheckList(const sah_key_list& list, const Problem& problem) {
  SA_RETURN_IF_ERROR(CheckInteger(list.count, 0, int64_t{1} << 40, "list.count"));
  if (list.count == 0) return absl::OkStatus();
  SA_RETURN_IF_ERROR(CheckPointer(list.keys, "list.keys"));
  SA_RETURN_IF_ERROR(CheckOptional(list.members, "list.members"));
  SA_RETURN_IF_ERROR(CheckOptional(list.inverse_probabilities, "list.inverse_probabilities"));
  const uint32_t keys = static_cast<uint32_t>(problem.keys);
  const uint32_t* const end = list.keys + list.count;
  const uint32_t* const wrong =
      std::find_if(list.keys, end, [keys](uint32_t key) { return key >= keys; });
  if (wrong != end) {
    return RuleError(absl::StrCat("list.keys[", wrong - list.keys, "]"),
                     absl::StrCat("must be below attention.keys, ", keys), absl::StrCat(*wrong));
  }
  if (list.inverse_probabilities == nullptr) return absl::OkStatus();
  const int64_t stride = list.inverse_probability_stride;
  if (stride != 0) {
    SA_RETURN_IF_ERROR(CheckInteger(stride, problem.attention.rows > 1 ? list.count : 0,
                                    int64_t{1} << 48, "list.inverse_probability_stride"));
  }
  for (int32_t r = 0; r < (stride == 0 ? 1 : problem.attention.rows); ++r) {
    for (int64_t i = 0; i < list.count; ++i) {
      const float weight = list.inverse_probabilities[r * stride + i];
      if (std::isfinite(weight) && weight > 0) continue;
      return RuleError(absl::StrCat("list.inverse_probabilities[", r, "][", i, "]"),
                       "must be > 0 and finite", absl::StrCat(weight));
    }
  }
  return absl::OkStatus();
}

absl::Status AttendList(const sah_attention* given, const sah_key_list* given_list,
                        const sah_state* given_state) {
  SA_ASSIGN_OR_RETURN(const Problem problem, ProblemOf(given));
  const int32_t rows = problem.attention.rows;
  SA_ASSIGN_OR_RETURN(const cpu::RunningState state,
                      StateOf(given_state, rows, problem.attention.value_dim, "state"));
  SA_ASSIGN_OR_RETURN(const sah_key_list list, ReadStruct(given_list, "list"));
  SA_RETURN_IF_ERROR(CheckList(list, problem));
  SA_ASSIGN_OR_RETURN(const cpu::AttentionKernels kernels, Kernels());
  cpu::AttendWeightedList(kernels, problem.attention,
                          {list.keys, list.count, list.members, list.inverse_probabilities,
                           list.inverse_probability_stride},
                          state);
  return absl::OkStatus();
}

absl::Status TopK(const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
                  uint32_t* selected, int64_t* count) {
  SA_RETURN_IF_ERROR(CheckInteger(n, 0, kMostKeys, "n"));
  SA_RETURN_IF_ERROR(CheckInteger(k, 0, std::numeric_limits<int64_t>::max(), "k"));
  SA_RETURN_IF_ERROR(CheckPointer(count, "count"));
  SA_RETURN_IF_ERROR(CheckOptional(excluded, "excluded"));
  k = std::min(k, n);
  if (k == 0) {
    *count = 0;
    return absl::OkStatus();
  }
  SA_RETURN_IF_ERROR(CheckPointer(scores, "scores"));
  SA_RETURN_IF_ERROR(CheckPointer(selected, "selected"));
  SA_ASSIGN_OR_RETURN(const cpu::Isa isa, DefaultIsa());
  cpu::TopKList top_k(isa, n);
  if (!top_k.ok()) return absl::ResourceExhaustedError("no memory for sah_top_k");
  *count = top_k.Select(scores, n, k, excluded, selected);
  return absl::OkStatus();
}

}  // namespace
}  // namespace sparse_attention::c_api

namespace c_api = sparse_attention::c_api;
namespace cpu = sparse_attention::cpu;

extern "C" {

sah_status sah_state_init(int32_t rows, int32_t value_dim, const sah_state* state) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckRows(rows, value_dim, ""));
    SA_ASSIGN_OR_RETURN(const cpu::RunningState running,
                        c_api::StateOf(state, rows, value_dim, "state"));
    cpu::InitState(rows, value_dim, running);
    return absl::OkStatus();
  });
}

sah_status sah_attend_range(const sah_attention* attention, int64_t begin, int64_t end,
                            const int64_t* row_begin, const int64_t* row_end,
                            const sah_state* state) {
  return c_api::Guarded(
      [&] { return c_api::AttendRange(attention, begin, end, row_begin, row_end, state); });
}

sah_status sah_attend_list(const sah_attention* attention, const sah_key_list* list,
                           const sah_state* state) {
  return c_api::Guarded([&] { return c_api::AttendList(attention, list, state); });
}

sah_status sah_state_merge(int32_t rows, int32_t value_dim, const sah_state* from,
                           const sah_state* into) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckRows(rows, value_dim, ""));
    SA_ASSIGN_OR_RETURN(const cpu::RunningState source,
                        c_api::StateOf(from, rows, value_dim, "from"));
    SA_ASSIGN_OR_RETURN(const cpu::RunningState target,
                        c_api::StateOf(into, rows, value_dim, "into"));
    SA_ASSIGN_OR_RETURN(const cpu::AttentionKernels kernels, c_api::Kernels());
    kernels.merge(rows, value_dim, source, target);
    return absl::OkStatus();
  });
}

sah_status sah_state_finish(int32_t rows, int32_t value_dim, const sah_state* state,
                            const float* sinks, int32_t dtype, void* out, int64_t out_stride,
                            float* lse) {
  return c_api::Guarded([&]() -> absl::Status {
    SA_RETURN_IF_ERROR(c_api::CheckRows(rows, value_dim, ""));
    SA_ASSIGN_OR_RETURN(const cpu::RunningState running,
                        c_api::StateOf(state, rows, value_dim, "state"));
    SA_RETURN_IF_ERROR(c_api::CheckOptional(sinks, "sinks"));
    SA_ASSIGN_OR_RETURN(const cpu::Element element, c_api::ElementOf(dtype, "dtype"));
    SA_RETURN_IF_ERROR(c_api::CheckElements(out, element, "out"));
    const int64_t least = rows > 1 ? value_dim * cpu::ElementBytes(element) : 0;
    SA_RETURN_IF_ERROR(c_api::CheckStride(out_stride, element, least, "out_stride"));
    SA_RETURN_IF_ERROR(c_api::CheckSpan({{rows, out_stride}}, "out"));
    SA_RETURN_IF_ERROR(c_api::CheckOptional(lse, "lse"));
    SA_ASSIGN_OR_RETURN(const cpu::AttentionKernels kernels, c_api::Kernels());
    kernels.finish(rows, value_dim, running, sinks, element, out, out_stride, lse);
    return absl::OkStatus();
  });
}

sah_status sah_top_k(const float* scores, int64_t n, int64_t k, const uint64_t* excluded,
                     uint32_t* selected, int64_t* count) {
  return c_api::Guarded([&] { return c_api::TopK(scores, n, k, excluded, selected, count); });
}

}  // extern "C"
