// Attention over pages for every vector instruction set: the query heads of one KV head times several tokens are the
// rows of small matrix products, so that a page of keys or values is read once for all rows that share it. A span of
// 512 keys is done in two passes: the scores of the whole span, then its maximum and the probabilities, then the
// weighted values; spans are merged in order. A row's result depends on its own position and keys only: everything in a
// row's arithmetic is independent of which rows share its registers. What depends on the kind of pages is in
// attention_half.h and attention_int8.h. Internal linkage for the reason given in vector_math.h.
#pragma once

#include "attention_half.h"
#include "attention_int8.h"
#include "query_rows.h"
#include "vector_math.h"

namespace headrace {
namespace {

template <class V>
void load_queries(const AttentionTask& task, const QueryRows& rows) {
  // Scores are powers of two instead of e, unless a cap has to be applied to them first.
  const float factor = task.softcap == 0.0f ? task.scale * kLog2E : task.scale;
  if (task.pages.kind == KvKind::kInt8) return load_codes<V>(task, rows, factor);
  load_floats(task, rows, factor);
}

// All rows over the keys span .. span + kSpanTokens; a total of 0 says that a row sees none of them.
template <class V>
void attend_span(const AttentionTask& task, const QueryRows& rows, int32_t span) {
  const bool is_int8 = task.pages.kind == KvKind::kInt8;
  enter_span(rows, span);
  __builtin_memset(rows.sum, 0, sizeof(float) * static_cast<size_t>(rows.count) * static_cast<size_t>(rows.width));
  for_each_run(rows, span, [&](const Run& run) {
    is_int8 ? score_int8_pages<V>(task, rows, run, span) : score_half_pages<V>(task, rows, run, span);
  });
  for (int32_t r = 0; r < rows.count; ++r) {
    const QueryPlace& place = rows.places[r / rows.heads];
    if (place.page_begin == place.page_end) {
      rows.maximum[r] = kMinusInfinity;
      rows.total[r] = 0.0f;
    } else {
      is_int8 ? soften_int8<V>(task, rows, r, place, span) : soften_half<V>(task, rows, r, place, span);
    }
  }
  for_each_run(rows, span, [&](const Run& run) {
    is_int8 ? weigh_int8_pages<V>(task, rows, run, span) : weigh_half_pages<V>(task, rows, run, span);
  });
  if (is_int8) finish_int8_sums<V>(rows);
}

// One row of some spans: weighted values relative to 2^maximum, and the sum of the weights.
struct PartialRow {
  float* sum;
  float maximum;
  float total;
};

template <class V>
void merge_row(const PartialRow& part, int32_t width, PartialRow& whole) {
  if (part.total == 0.0f) return;
  const float before = whole.maximum;
  const float maximum = before > part.maximum ? before : part.maximum;
  const float keep = V::first(power_of_two<V>(V::set(before - maximum)));
  const float add = V::first(power_of_two<V>(V::set(part.maximum - maximum)));
  whole.maximum = maximum;
  whole.total = __builtin_fmaf(whole.total, keep, part.total * add);
  for (int32_t d = 0; d < width; d += V::kLanes) {
    const typename V::F added = V::mul(V::load(part.sum + d), V::set(add));
    V::store(whole.sum + d, V::fma(V::load(whole.sum + d), V::set(keep), added));
  }
}

// Divides by the total and writes one row of the member's output.
template <class V>
void store_row(const AttentionRows& member, int64_t token, int64_t head, int32_t head_dim, const PartialRow& whole) {
  const int32_t width = (head_dim + kGroup - 1) / kGroup * kGroup;
  const float inverse = 1.0f / whole.total;
  for (int32_t d = 0; d < width; d += V::kLanes)
    V::store(whole.sum + d, V::mul(V::load(whole.sum + d), V::set(inverse)));
  const int64_t feature = head * head_dim;
  if (width == head_dim) {
    for (int32_t d = 0; d < head_dim; d += kGroup) store_group<V>(member.out, token, feature + d, whole.sum + d);
  } else {
    float* to = member.out.f32 + token * member.out.stride + feature;
    for (int32_t d = 0; d < head_dim; ++d) to[d] = whole.sum[d];
  }
}

template <class V>
void attend_whole(const AttentionTask& task, const QueryRows& rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    rows.whole_maximum[r] = kMinusInfinity;
    rows.whole_total[r] = 0.0f;
  }
  __builtin_memset(rows.whole, 0, sizeof(float) * static_cast<size_t>(rows.count) * static_cast<size_t>(rows.width));
  const KeyRange keys = all_keys(rows);
  for (int32_t span = keys.begin / kSpanTokens * kSpanTokens; span < keys.end; span += kSpanTokens) {
    attend_span<V>(task, rows, span);
    for (int32_t r = 0; r < rows.count; ++r) {
      const int64_t offset = static_cast<int64_t>(r) * rows.width;
      PartialRow whole{rows.whole + offset, rows.whole_maximum[r], rows.whole_total[r]};
      merge_row<V>({rows.sum + offset, rows.maximum[r], rows.total[r]}, rows.width, whole);
      rows.whole_maximum[r] = whole.maximum;
      rows.whole_total[r] = whole.total;
    }
  }
  for (int32_t r = 0; r < rows.count; ++r) {
    const QueryPlace& place = rows.places[r / rows.heads];
    const int64_t head = task.kv_head * task.heads_per_kv + r % rows.heads;
    store_row<V>(task.members[place.member], place.token, head, task.head_dim,
                 {rows.whole + static_cast<int64_t>(r) * rows.width, rows.whole_maximum[r], rows.whole_total[r]});
  }
}

template <class V>
void attend_spans(const AttentionTask& task, const QueryRows& rows) {
  float* to = task.partials;
  for (int32_t span = task.span_begin; span < task.span_end; ++span) {
    attend_span<V>(task, rows, span * kSpanTokens);
    for (int32_t r = 0; r < rows.count; ++r, to += rows.width + 2) {
      const float* sum = rows.sum + static_cast<int64_t>(r) * rows.width;
      for (int32_t d = 0; d < rows.width; d += V::kLanes) V::store(to + d, V::load(sum + d));
      to[rows.width] = rows.maximum[r];
      to[rows.width + 1] = rows.total[r];
    }
  }
}

template <class V>
void attention_range(const AttentionTask& task) {
  const QueryRows rows = lay_out(task);
  load_queries<V>(task, rows);
  if (task.partials != nullptr) return attend_spans<V>(task, rows);
  attend_whole<V>(task, rows);
}

template <class V>
void merge_attention_rows(const AttentionMergeTask& task) {
  const int32_t width = (task.head_dim + kGroup - 1) / kGroup * kGroup;
  const int64_t size = width + 2;
  int64_t num_rows = 0;
  for (int32_t m = 0; m < task.num_members; ++m) num_rows += task.members[m].num_tokens;
  num_rows *= task.heads_per_kv;
  int64_t row = 0;
  for (int32_t m = 0; m < task.num_members; ++m) {
    for (int32_t i = 0; i < task.members[m].num_tokens * task.heads_per_kv; ++i, ++row) {
      PartialRow whole{task.scratch, kMinusInfinity, 0.0f};
      __builtin_memset(whole.sum, 0, sizeof(float) * static_cast<size_t>(width));
      for (int32_t span = 0; span < task.num_spans; ++span) {
        const float* from = task.partials + (span * num_rows + row) * size;
        merge_row<V>({const_cast<float*>(from), from[width], from[width + 1]}, width, whole);
      }
      const int32_t head = task.kv_head * task.heads_per_kv + i % task.heads_per_kv;
      store_row<V>(task.members[m], i / task.heads_per_kv, head, task.head_dim, whole);
    }
  }
}

}  // namespace
}  // namespace headrace
