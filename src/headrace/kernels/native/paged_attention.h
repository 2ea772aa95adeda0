// Attention over pages for every vector instruction set: the query heads of one KV head times several tokens are the
// rows of one small matrix product, so that a page of fp16 keys and values is widened once for all of them. A row's
// result depends on its own position and keys only: pages in order inside a span, spans merged in order, and everything
// in a row's arithmetic is independent of which rows share its registers. Internal linkage for the reason given in
// vector_math.h.
#pragma once

#include "vector_math.h"

namespace headrace {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// The state of all query rows of one task, carved out of the caller's scratch. `width` is head_dim padded to 32.
struct QueryRows {
  int32_t count;
  int32_t width;
  float* q;              // [count][width], times scale
  float* sum;            // [count][width], weighted values of the current span
  float* whole;          // [count][width], of the spans before
  float* weights;        // [count][32], scores of the current page, then probabilities
  float* maximum;        // [count], largest score in the span
  float* total;          // [count], sum of the span's probabilities relative to `maximum`
  float* correction;     // [count], what the current page's new maximum does to older sums
  float* whole_maximum;  // [count]
  float* whole_total;    // [count]
  float* keys;           // [head_dim][32], one page widened
  float* values;         // [32][width]
};

inline float* take(float*& scratch, int64_t floats) {
  float* begin = scratch;
  scratch += (floats + 15) / 16 * 16;
  return begin;
}

inline QueryRows lay_out(const AttentionTask& task) {
  float* scratch = task.scratch + (-(reinterpret_cast<uintptr_t>(task.scratch) / sizeof(float)) & 15u);
  QueryRows rows{};
  rows.count = task.num_tokens * task.heads_per_kv;
  rows.width = (task.head_dim + kGroup - 1) / kGroup * kGroup;
  const int64_t square = static_cast<int64_t>(rows.count) * rows.width;
  rows.q = take(scratch, square);
  rows.sum = take(scratch, square);
  rows.whole = take(scratch, square);
  rows.weights = take(scratch, static_cast<int64_t>(rows.count) * kPageTokens);
  rows.maximum = take(scratch, rows.count);
  rows.total = take(scratch, rows.count);
  rows.correction = take(scratch, rows.count);
  rows.whole_maximum = take(scratch, rows.count);
  rows.whole_total = take(scratch, rows.count);
  rows.keys = take(scratch, static_cast<int64_t>(task.head_dim) * kPageTokens);
  rows.values = take(scratch, static_cast<int64_t>(rows.width) * kPageTokens);
  return rows;
}

inline void load_queries(const AttentionTask& task, const QueryRows& rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    const int32_t head = task.kv_head * task.heads_per_kv + r % task.heads_per_kv;
    const float* from = task.q + r / task.heads_per_kv * task.q_stride + static_cast<int64_t>(head) * task.head_dim;
    float* to = rows.q + static_cast<int64_t>(r) * rows.width;
    for (int32_t d = 0; d < task.head_dim; ++d) to[d] = from[d] * task.scale;
  }
}

// First and past-the-last key position that the token sees. Both grow with the token.
struct KeyRange {
  int32_t begin;
  int32_t end;
};

inline KeyRange visible_keys(const AttentionTask& task, int32_t token) {
  if (task.mode == 2) return {0, task.num_keys};
  const int32_t end = task.position + token + 1;
  return {task.mode == 1 ? larger(0, end - task.window) : 0, end};
}

// weights[r][j] = q[r] . key j, for N rows and kVectors vectors of keys. T: fp16 bits or float.
template <class V, int N, int kVectors, class T>
inline void score(const float* q, int32_t width, int32_t head_dim, const T* keys, float* weights) {
  typename V::F acc[N][kVectors];
  for (int r = 0; r < N; ++r) {
    for (int v = 0; v < kVectors; ++v) acc[r][v] = V::zero();
  }
  for (int32_t d = 0; d < head_dim; ++d) {
    typename V::F key[kVectors];
    for (int v = 0; v < kVectors; ++v) key[v] = V::load(keys + d * kPageTokens + v * V::kLanes);
    for (int r = 0; r < N; ++r) {
      const typename V::F factor = V::set(q[r * width + d]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::fma(factor, key[v], acc[r][v]);
    }
  }
  for (int r = 0; r < N; ++r) {
    for (int v = 0; v < kVectors; ++v) V::store(weights + r * kPageTokens + v * V::kLanes, acc[r][v]);
  }
}

// sum[r] = sum[r] * correction[r] + weights[r] . values, for N rows and kVectors vectors of features.
template <class V, int N, int kVectors, class T>
inline void weigh(const float* weights, const float* correction, const T* values, int64_t stride, int32_t width,
                  float* sum) {
  typename V::F acc[N][kVectors];
  for (int r = 0; r < N; ++r) {
    const typename V::F factor = V::set(correction[r]);
    for (int v = 0; v < kVectors; ++v) acc[r][v] = V::mul(V::load(sum + r * width + v * V::kLanes), factor);
  }
  for (int j = 0; j < kPageTokens; ++j) {
    typename V::F value[kVectors];
    for (int v = 0; v < kVectors; ++v) value[v] = V::load(values + j * stride + v * V::kLanes);
    for (int r = 0; r < N; ++r) {
      const typename V::F factor = V::set(weights[r * kPageTokens + j]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::fma(factor, value[v], acc[r][v]);
    }
  }
  for (int r = 0; r < N; ++r) {
    for (int v = 0; v < kVectors; ++v) V::store(sum + r * width + v * V::kLanes, acc[r][v]);
  }
}

// Turns one row's scores of a page into probabilities relative to the span's new maximum.
template <class V>
inline void soften(const AttentionTask& task, const QueryRows& rows, int32_t row, int32_t first_key) {
  constexpr int kVectors = kPageTokens / V::kLanes;
  const KeyRange range = visible_keys(task, row / task.heads_per_kv);
  const bool is_partial = range.begin > first_key || range.end < first_key + kPageTokens;
  float* weights = rows.weights + static_cast<int64_t>(row) * kPageTokens;
  typename V::F scores[kVectors];
  typename V::F largest = V::set(rows.maximum[row]);
  for (int v = 0; v < kVectors; ++v) {
    scores[v] = V::load(weights + v * V::kLanes);
    if (task.softcap != 0.0f) {
      const typename V::F cap = V::set(task.softcap);
      scores[v] = V::mul(cap, hyperbolic_tangent<V>(V::div(scores[v], cap)));
    }
    if (is_partial) scores[v] = V::only_keys(scores[v], first_key + v * V::kLanes, range.begin, range.end);
    largest = V::max(largest, scores[v]);
  }
  const float maximum = V::largest(largest);
  typename V::F total = V::zero();
  for (int v = 0; v < kVectors; ++v) {
    const typename V::F probability = exponential<V>(V::sub(scores[v], V::set(maximum)));
    V::store(weights + v * V::kLanes, probability);
    total = V::add(total, probability);
  }
  const float correction = exponential_of<V>(rows.maximum[row] - maximum);
  rows.correction[row] = correction;
  rows.maximum[row] = maximum;
  rows.total[row] = __builtin_fmaf(rows.total[row], correction, V::total(total));
}

// One page for the rows begin..end. T: fp16 bits as stored, or floats widened before.
template <class V, class T>
inline void attend_rows(const AttentionTask& task, const QueryRows& rows, int32_t begin, int32_t end, int32_t page,
                        const T* keys, const T* values, int64_t value_stride) {
  constexpr int kScoreStep = V::kScoreVectors * V::kLanes;
  constexpr int kValueStep = V::kValueVectors * V::kLanes;
  for (int32_t first = begin; first < end; first += V::kRowBlock) {
    const int32_t count = smaller(V::kRowBlock, end - first);
    const int64_t offset = static_cast<int64_t>(first) * rows.width;
    float* weights = rows.weights + static_cast<int64_t>(first) * kPageTokens;
    with_count<V::kRowBlock>(count, [&]<int N>() {
      for (int j = 0; j < kPageTokens; j += kScoreStep) {
        score<V, N, V::kScoreVectors>(rows.q + offset, rows.width, task.head_dim, keys + j, weights + j);
      }
    });
    for (int32_t row = first; row < first + count; ++row) soften<V>(task, rows, row, page * kPageTokens);
    with_count<V::kRowBlock>(count, [&]<int N>() {
      for (int32_t d = 0; d < rows.width; d += kValueStep) {
        weigh<V, N, V::kValueVectors>(weights, rows.correction + first, values + d, value_stride, rows.width,
                                      rows.sum + offset + d);
      }
    });
  }
}

template <class V>
void widen_page(const AttentionTask& task, const QueryRows& rows, const uint16_t* keys, const uint16_t* values) {
  for (int32_t i = 0; i < task.head_dim * kPageTokens; i += V::kLanes) V::store(rows.keys + i, V::load(keys + i));
  for (int32_t j = 0; j < kPageTokens; ++j) {
    float* to = rows.values + static_cast<int64_t>(j) * rows.width;
    V::widen_padded(values + static_cast<int64_t>(j) * task.head_dim, task.head_dim, to, rows.width);
  }
}

template <class V>
void attend_page(const AttentionTask& task, const QueryRows& rows, int32_t page) {
  // The tokens that see the page are neighbours, because both ends of what a token sees grow with it.
  const int32_t first_key = page * kPageTokens;
  int32_t begin = 0;
  while (begin < task.num_tokens && visible_keys(task, begin).end <= first_key) ++begin;
  int32_t end = task.num_tokens;
  while (end > begin && visible_keys(task, end - 1).begin >= first_key + kPageTokens) --end;
  if (begin == end) return;
  begin *= task.heads_per_kv;
  end *= task.heads_per_kv;

  const PagesView& pages = task.pages;
  const uint16_t* keys = pages.pool + pages.page_table[page] * pages.page_stride + pages.layer_offset +
                         static_cast<int64_t>(task.kv_head) * pages.head_stride;
  const uint16_t* values = keys + static_cast<int64_t>(task.head_dim) * kPageTokens;
  if (end - begin <= V::kRowBlock && rows.width == task.head_dim) {
    attend_rows<V>(task, rows, begin, end, page, keys, values, task.head_dim);
  } else {
    widen_page<V>(task, rows, keys, values);
    attend_rows<V>(task, rows, begin, end, page, rows.keys, rows.values, rows.width);
  }
}

inline void start(const QueryRows& rows, float* maximum, float* total, float* sum) {
  for (int32_t r = 0; r < rows.count; ++r) {
    maximum[r] = kMinusInfinity;
    total[r] = 0.0f;
  }
  __builtin_memset(sum, 0, sizeof(float) * static_cast<size_t>(rows.count) * static_cast<size_t>(rows.width));
}

template <class V>
void merge_span(const QueryRows& rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    if (rows.total[r] == 0.0f) continue;  // this row sees nothing of the span
    const float before = rows.whole_maximum[r];
    const float maximum = before > rows.maximum[r] ? before : rows.maximum[r];
    const float keep = exponential_of<V>(before - maximum);
    const float add = exponential_of<V>(rows.maximum[r] - maximum);
    rows.whole_maximum[r] = maximum;
    rows.whole_total[r] = __builtin_fmaf(rows.whole_total[r], keep, rows.total[r] * add);
    float* whole = rows.whole + static_cast<int64_t>(r) * rows.width;
    const float* sum = rows.sum + static_cast<int64_t>(r) * rows.width;
    for (int32_t d = 0; d < rows.width; d += V::kLanes) {
      const typename V::F part = V::mul(V::load(sum + d), V::set(add));
      V::store(whole + d, V::fma(V::load(whole + d), V::set(keep), part));
    }
  }
}

template <class V>
void store_rows(const AttentionTask& task, const QueryRows& rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    const int64_t token = r / task.heads_per_kv;
    const int64_t head = task.kv_head * task.heads_per_kv + r % task.heads_per_kv;
    float* whole = rows.whole + static_cast<int64_t>(r) * rows.width;
    const float inverse = 1.0f / rows.whole_total[r];
    for (int32_t d = 0; d < rows.width; d += V::kLanes)
      V::store(whole + d, V::mul(V::load(whole + d), V::set(inverse)));
    const int64_t feature = head * task.head_dim;
    if (rows.width == task.head_dim) {
      for (int32_t d = 0; d < task.head_dim; d += kGroup) store_group<V>(task.out, token, feature + d, whole + d);
    } else {
      float* to = task.out.f32 + token * task.out.stride + feature;
      for (int32_t d = 0; d < task.head_dim; ++d) to[d] = whole[d];
    }
  }
}

template <class V>
void attention_range(const AttentionTask& task) {
  const QueryRows rows = lay_out(task);
  load_queries(task, rows);
  start(rows, rows.whole_maximum, rows.whole_total, rows.whole);
  const int32_t first_key = visible_keys(task, 0).begin;
  const int32_t end_key = visible_keys(task, task.num_tokens - 1).end;
  for (int32_t span = first_key / kSpanTokens * kSpanTokens; span < end_key; span += kSpanTokens) {
    start(rows, rows.maximum, rows.total, rows.sum);
    const int32_t first_page = larger(span, first_key) / kPageTokens;
    const int32_t end_page = (smaller(span + kSpanTokens, end_key) + kPageTokens - 1) / kPageTokens;
    for (int32_t page = first_page; page < end_page; ++page) attend_page<V>(task, rows, page);
    merge_span<V>(rows);
  }
  store_rows<V>(task, rows);
}

}  // namespace
}  // namespace headrace
