// What attention does with the scores of a span before they become weights: cap, mask, maximum. Knows no storage
// format. Internal linkage for the reason given in vector_math.h.
#pragma once

#include "query_rows.h"
#include "vector_math.h"

namespace headrace {
namespace {

// Caps and masks one row's scores of the pages it sees; returns the largest, in powers of two. `scores` begins at the
// span.
template <class V>
float largest_score(const AttentionTask& task, float* scores, const QueryPlace& place, int32_t span) {
  constexpr int kVectors = kPageTokens / V::kLanes;
  const int32_t begin = place.page_begin * kPageTokens - span;
  const int32_t end = place.page_end * kPageTokens - span;
  if (task.softcap != 0.0f) {
    const typename V::F cap = V::set(task.softcap);
    const typename V::F factor = V::set(task.softcap * kLog2E);
    for (int32_t i = begin; i < end; i += V::kLanes) {
      V::store(scores + i, V::mul(factor, hyperbolic_tangent<V>(V::div(V::load(scores + i), cap))));
    }
  }
  const int32_t edges[2] = {begin, end - kPageTokens};
  for (const int32_t edge : edges) {
    if (place.key_begin <= span + edge && place.key_end >= span + edge + kPageTokens) continue;
    for (int32_t i = edge; i < edge + kPageTokens; i += V::kLanes) {
      V::store(scores + i, V::only_keys(V::load(scores + i), span + i, place.key_begin, place.key_end));
    }
  }
  typename V::F largest[kVectors];
  for (int v = 0; v < kVectors; ++v) largest[v] = V::set(kMinusInfinity);
  for (int32_t i = begin; i < end; i += kPageTokens) {
    for (int v = 0; v < kVectors; ++v) largest[v] = V::max(V::load(scores + i + v * V::kLanes), largest[v]);
  }
  for (int v = 1; v < kVectors; ++v) largest[0] = V::max(largest[0], largest[v]);
  return V::largest(largest[0]);
}

}  // namespace
}  // namespace headrace
