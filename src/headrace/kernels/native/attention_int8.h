// Products of attention with int8 pages for every vector instruction set: queries quantised per row, scores and values
// as integer dot products, so that a row's numbers do not depend on the order of anything. A weight of a value is the
// probability times the value's scale, as 15-bit fixed point relative to the largest scale the row sees in the span;
// the products of a span then fit 32 bits. The integer products themselves are each V's own (vectors_*.h). Internal
// linkage for the reason given in vector_math.h.
#pragma once

#include "query_rows.h"
#include "span_softmax.h"
#include "vector_math.h"

namespace headrace {
namespace {

// Weights of one page and row, in the form V's products want; they overwrite the row's scores from the front.
constexpr int kWeightBytes = 64;
constexpr int64_t kRowBytes = kSpanTokens * static_cast<int64_t>(sizeof(float));

inline const float* key_scales_of(const AttentionTask& task, const uint8_t* plane) {
  return reinterpret_cast<const float*>(plane + int64_t{2} * task.head_dim * kPageTokens);
}

template <class V>
void load_codes(const AttentionTask& task, const QueryRows& rows, float factor) {
  alignas(64) int8_t codes[kMostHeadDim];
  for (int32_t r = 0; r < rows.count; ++r) {
    float scale;
    rows.starts[r] = -128 * quantize_head_row<V>(query_of(task, rows, r), task.head_dim, codes, &scale);
    rows.factors[r] = scale * factor;
    V::store_query(codes, task.head_dim, rows.q + static_cast<int64_t>(r) * rows.width);
  }
}

// The run's rows against its pages of keys.
template <class V>
void score_int8_pages(const AttentionTask& task, const QueryRows& rows, const Run& run, int32_t span) {
  for (int32_t page = run.page_begin; page < run.page_end; ++page) {
    const uint8_t* keys = plane_of(task, run.page_table[page]);
    for (int32_t first = run.row_begin; first < run.row_end; first += V::kScoreRows) {
      const CodeRows block{
          .q = rows.q + static_cast<int64_t>(first) * rows.width,
          .width = rows.width,
          .starts = rows.starts + first,
          .factors = rows.factors + first,
          .scores = rows.scores + static_cast<int64_t>(first) * kSpanTokens + page * kPageTokens - span};
      with_count<V::kScoreRows>(smaller(V::kScoreRows, run.row_end - first), [&]<int N>() {
        V::template score_codes<N>(block, keys, task.head_dim, key_scales_of(task, keys));
      });
    }
  }
}

// Turns one row's scores of a span into weights; `factors` becomes what a sum of weighted codes has to be multiplied
// by.
template <class V>
void soften_int8(const AttentionTask& task, const QueryRows& rows, int32_t row, const QueryPlace& place, int32_t span) {
  constexpr int kVectors = kPageTokens / V::kLanes;
  float* scores = rows.scores + static_cast<int64_t>(row) * kSpanTokens;
  const float maximum = largest_score<V>(task, scores, place, span);
  typename V::F largest[kVectors];
  for (int v = 0; v < kVectors; ++v) largest[v] = V::zero();
  for (int32_t page = place.page_begin; page < place.page_end; ++page) {
    const float* scales = key_scales_of(task, plane_of(task, place.page_table[page])) + kPageTokens;
    const int32_t key = page * kPageTokens;
    const bool is_whole = place.key_begin <= key && place.key_end >= key + kPageTokens;
    for (int v = 0; v < kVectors; ++v) {
      typename V::F scale = V::load(scales + v * V::kLanes);
      if (!is_whole) scale = V::only_keys(scale, key + v * V::kLanes, place.key_begin, place.key_end);
      largest[v] = V::max(scale, largest[v]);
    }
  }
  for (int v = 1; v < kVectors; ++v) largest[0] = V::max(largest[0], largest[v]);
  const float scale = V::largest(largest[0]);
  const bool is_zero = scale < kSmallestScale;
  const typename V::F to_weight = V::set(is_zero ? 0.0f : kWeightOne / scale);
  typename V::F totals[kVectors];
  for (int v = 0; v < kVectors; ++v) totals[v] = V::zero();
  auto* weights = reinterpret_cast<uint8_t*>(scores);
  for (int32_t page = place.page_begin; page < place.page_end; ++page) {
    const float* scales = key_scales_of(task, plane_of(task, place.page_table[page])) + kPageTokens;
    const float* from = scores + page * kPageTokens - span;
    typename V::F weight[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const typename V::F probability = power_of_two<V>(V::sub(V::load(from + v * V::kLanes), V::set(maximum)));
      totals[v] = V::add(totals[v], probability);
      weight[v] = V::mul(probability, V::mul(V::load(scales + v * V::kLanes), to_weight));
    }
    V::store_weights(weight, weights + (page - span / kPageTokens) * kWeightBytes);
  }
  for (int v = 1; v < kVectors; ++v) totals[0] = V::add(totals[0], totals[v]);
  rows.maximum[row] = maximum;
  rows.total[row] = V::total(totals[0]);
  rows.value_factors[row] = is_zero ? 0.0f : scale / kWeightOne;
}

// Adds the run's pages of values, weighted, to the rows' integer sums.
template <class V>
void weigh_int8_pages(const AttentionTask& task, const QueryRows& rows, const Run& run, int32_t span) {
  auto* sums = reinterpret_cast<int32_t*>(rows.sum);
  const auto* weights = reinterpret_cast<const uint8_t*>(rows.scores);
  for (int32_t first = run.row_begin; first < run.row_end; first += V::kWeighRows) {
    with_count<V::kWeighRows>(smaller(V::kWeighRows, run.row_end - first), [&]<int N>() {
      const auto block = [&]<int kFeatures>(int32_t d) {
        const ValuePages pages{.values = plane_of(task, 0) + static_cast<int64_t>(task.head_dim) * kPageTokens + 4 * d,
                               .page_stride = task.pages.page_stride,
                               .quad_stride = int64_t{4} * task.head_dim,
                               .page_table = run.page_table,
                               .begin = run.page_begin,
                               .end = run.page_end};
        V::template weigh_codes<N, kFeatures>(
            pages, weights + first * kRowBytes + (run.page_begin - span / kPageTokens) * kWeightBytes,
            sums + static_cast<int64_t>(first) * rows.width + d, rows.width);
      };
      int32_t d = 0;
      for (; d + V::kWeighFeatures <= task.head_dim; d += V::kWeighFeatures) {
        block.template operator()<V::kWeighFeatures>(d);
      }
      if constexpr (V::kWeighFeatures > kGroup) {
        for (; d < task.head_dim; d += kGroup) block.template operator()<kGroup>(d);
      }
    });
  }
}

// The rows' integer sums as floats.
template <class V>
void finish_int8_sums(const QueryRows& rows) {
  for (int32_t r = 0; r < rows.count; ++r) {
    if (rows.total[r] == 0.0f) continue;
    float* sum = rows.sum + static_cast<int64_t>(r) * rows.width;
    const typename V::F factor = V::set(rows.value_factors[r]);
    for (int32_t d = 0; d < rows.width; d += V::kLanes) {
      V::store(sum + d, V::mul(V::load_integers(reinterpret_cast<const int32_t*>(sum + d)), factor));
    }
  }
}

}  // namespace
}  // namespace headrace
