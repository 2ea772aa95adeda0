// Products of attention with fp16 pages for every vector instruction set. With many rows a page is widened once for all
// of them, with few it is widened on the fly. Internal linkage for the reason given in vector_math.h.
#pragma once

#include "query_rows.h"
#include "span_softmax.h"
#include "vector_math.h"

namespace headrace {
namespace {

inline void load_floats(const AttentionTask& task, const QueryRows& rows, float factor) {
  for (int32_t r = 0; r < rows.count; ++r) {
    const float* from = query_of(task, rows, r);
    float* to = rows.q + static_cast<int64_t>(r) * rows.width;
    for (int32_t d = 0; d < task.head_dim; ++d) to[d] = from[d] * factor;
  }
}

// Turns one row's scores of a span into probabilities relative to the span's maximum.
template <class V>
void soften_half(const AttentionTask& task, const QueryRows& rows, int32_t row, const QueryPlace& place, int32_t span) {
  constexpr int kVectors = kPageTokens / V::kLanes;
  float* scores = rows.scores + static_cast<int64_t>(row) * kSpanTokens;
  const float maximum = largest_score<V>(task, scores, place, span);
  typename V::F totals[kVectors];
  for (int v = 0; v < kVectors; ++v) totals[v] = V::zero();
  for (int32_t i = place.page_begin * kPageTokens - span; i < place.page_end * kPageTokens - span; i += kPageTokens) {
    for (int v = 0; v < kVectors; ++v) {
      float* at = scores + i + v * V::kLanes;
      const typename V::F probability = power_of_two<V>(V::sub(V::load(at), V::set(maximum)));
      V::store(at, probability);
      totals[v] = V::add(totals[v], probability);
    }
  }
  for (int v = 1; v < kVectors; ++v) totals[0] = V::add(totals[0], totals[v]);
  rows.maximum[row] = maximum;
  rows.total[row] = V::total(totals[0]);
}

// scores[r][j] = q[r] . key j, for N rows and kVectors vectors of keys. T: fp16 bits or float.
template <class V, int N, int kVectors, class T>
inline void score(const float* q, int32_t width, int32_t head_dim, const T* keys, float* scores) {
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
    for (int v = 0; v < kVectors; ++v) V::store(scores + r * kSpanTokens + v * V::kLanes, acc[r][v]);
  }
}

// sum[r] += weights[r] . values, for N rows, kVectors vectors of features and the 32 tokens of a page.
template <class V, int N, int kVectors, class T>
inline void weigh(const float* weights, const T* values, int64_t stride, int32_t width, float* sum) {
  typename V::F acc[N][kVectors];
  for (int r = 0; r < N; ++r) {
    for (int v = 0; v < kVectors; ++v) acc[r][v] = V::load(sum + r * width + v * V::kLanes);
  }
  for (int j = 0; j < kPageTokens; ++j) {
    typename V::F value[kVectors];
    for (int v = 0; v < kVectors; ++v) value[v] = V::load(values + j * stride + v * V::kLanes);
    for (int r = 0; r < N; ++r) {
      const typename V::F factor = V::set(weights[r * kSpanTokens + j]);
      for (int v = 0; v < kVectors; ++v) acc[r][v] = V::fma(factor, value[v], acc[r][v]);
    }
  }
  for (int r = 0; r < N; ++r) {
    for (int v = 0; v < kVectors; ++v) V::store(sum + r * width + v * V::kLanes, acc[r][v]);
  }
}

// The run's rows, against one page of keys; T: fp16 bits as stored, or floats widened before.
template <class V, class T>
inline void score_rows(const QueryRows& rows, const Run& run, int32_t head_dim, const T* keys, int32_t key) {
  constexpr int kStep = V::kScoreVectors * V::kLanes;
  for (int32_t first = run.row_begin; first < run.row_end; first += V::kRowBlock) {
    const float* q = rows.q + static_cast<int64_t>(first) * rows.width;
    float* scores = rows.scores + static_cast<int64_t>(first) * kSpanTokens + key;
    with_count<V::kRowBlock>(smaller(V::kRowBlock, run.row_end - first), [&]<int N>() {
      for (int j = 0; j < kPageTokens; j += kStep) {
        score<V, N, V::kScoreVectors>(q, rows.width, head_dim, keys + j, scores + j);
      }
    });
  }
}

template <class V, class T>
inline void weigh_rows(const QueryRows& rows, const Run& run, const T* values, int64_t stride, int32_t key) {
  constexpr int kStep = V::kValueVectors * V::kLanes;
  for (int32_t first = run.row_begin; first < run.row_end; first += V::kRowBlock) {
    const float* weights = rows.scores + static_cast<int64_t>(first) * kSpanTokens + key;
    float* sum = rows.sum + static_cast<int64_t>(first) * rows.width;
    with_count<V::kRowBlock>(smaller(V::kRowBlock, run.row_end - first), [&]<int N>() {
      for (int32_t d = 0; d < rows.width; d += kStep) {
        weigh<V, N, V::kValueVectors>(weights, values + d, stride, rows.width, sum + d);
      }
    });
  }
}

template <class V>
void score_half_pages(const AttentionTask& task, const QueryRows& rows, const Run& run, int32_t span) {
  for (int32_t page = run.page_begin; page < run.page_end; ++page) {
    const auto* keys = reinterpret_cast<const uint16_t*>(plane_of(task, run.page_table[page]));
    const int32_t key = page * kPageTokens - span;
    if (run.row_end - run.row_begin <= V::kRowBlock) {
      score_rows<V>(rows, run, task.head_dim, keys, key);
    } else {
      for (int32_t i = 0; i < task.head_dim * kPageTokens; i += V::kLanes) V::store(rows.keys + i, V::load(keys + i));
      score_rows<V>(rows, run, task.head_dim, static_cast<const float*>(rows.keys), key);
    }
  }
}

template <class V>
void weigh_half_pages(const AttentionTask& task, const QueryRows& rows, const Run& run, int32_t span) {
  const int32_t head_dim = task.head_dim;
  for (int32_t page = run.page_begin; page < run.page_end; ++page) {
    const auto* keys = reinterpret_cast<const uint16_t*>(plane_of(task, run.page_table[page]));
    const uint16_t* values = keys + static_cast<int64_t>(head_dim) * kPageTokens;
    const int32_t key = page * kPageTokens - span;
    if (run.row_end - run.row_begin <= V::kRowBlock && rows.width == head_dim) {
      weigh_rows<V>(rows, run, values, head_dim, key);
    } else {
      for (int32_t j = 0; j < kPageTokens; ++j) {
        float* to = rows.values + static_cast<int64_t>(j) * rows.width;
        V::widen_padded(values + static_cast<int64_t>(j) * head_dim, head_dim, to, rows.width);
      }
      weigh_rows<V>(rows, run, static_cast<const float*>(rows.values), rows.width, key);
    }
  }
}

}  // namespace
}  // namespace headrace
