// The second product of an adapter, written once for every vector instruction set: codes of 32 outputs at a time, times
// a token's few values. `V` names the instruction set. Knows no adapter and no plan.
// Internal linkage for the reason given in vector_math.h.
#pragma once

#include "vector_math.h"

namespace headrace {
namespace {

// How far ahead of the codes to ask for bytes: factors are short streams, which the CPU's own prefetching is late for.
constexpr int kLowRankAhead = 2048;

// Tokens that share one widening of the codes: as many as the registers hold sums for.
template <class V>
constexpr int kLowRankTokens = V::kLanes == 16 ? 4 : 2;

template <class V, int kCount>
inline void add_low_rank_block(const LowRankTask& task, int32_t block, int32_t first) {
  constexpr int kVectors = kLowRankBlock / V::kLanes;
  const LowRankView& b = task.b;
  const uint8_t* bytes = b.blocks + static_cast<int64_t>(block) * b.block_bytes;
  const auto* codes = reinterpret_cast<const int8_t*>(bytes);
  const auto* scales = reinterpret_cast<const uint16_t*>(bytes + static_cast<int64_t>(b.rank) * kLowRankBlock);
  const float* u = task.u + first * task.u_stride;
  typename V::F totals[kCount][kVectors];
  for (int i = 0; i < kCount * kVectors; ++i) (&totals[0][0])[i] = V::zero();
  for (int32_t begin = 0; begin < b.rank; begin += kGroup, scales += kLowRankBlock) {
    const int32_t end = smaller(begin + kGroup, b.rank);
    typename V::F sums[kCount][kVectors];
    for (int i = 0; i < kCount * kVectors; ++i) (&sums[0][0])[i] = V::zero();
    for (int32_t j = begin; j < end; ++j, codes += kLowRankBlock) {
      if (j % 2 == 0) __builtin_prefetch(codes + kLowRankAhead);
      for (int v = 0; v < kVectors; ++v) {
        const typename V::F code = V::load(codes + v * V::kLanes);
        for (int n = 0; n < kCount; ++n) sums[n][v] = V::fma(code, V::set(u[n * task.u_stride + j]), sums[n][v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const typename V::F scale = V::load(scales + v * V::kLanes);
      for (int n = 0; n < kCount; ++n) totals[n][v] = V::fma(sums[n][v], scale, totals[n][v]);
    }
  }
  const typename V::F factor = V::set(b.factor);
  const int32_t num_rows = smaller(kLowRankBlock, b.rows - block * kLowRankBlock);
  for (int n = 0; n < kCount; ++n) {
    float* out = task.out + (first + n) * task.stride + block * task.block_step;
    // A block with padding takes the same way over memory of its own, so that an output's bits do not depend on it.
    alignas(64) float padded[kLowRankBlock];
    float* to = out;
    if (num_rows < kLowRankBlock) {
      __builtin_memcpy(padded, out, sizeof(float) * static_cast<size_t>(num_rows));
      for (int32_t i = num_rows; i < kLowRankBlock; ++i) padded[i] = 0.0f;
      to = padded;
    }
    for (int v = 0; v < kVectors; ++v) {
      V::store(to + v * V::kLanes, V::fma(totals[n][v], factor, V::load(to + v * V::kLanes)));
    }
    if (to == padded) __builtin_memcpy(out, padded, sizeof(float) * static_cast<size_t>(num_rows));
  }
}

template <class V>
void add_low_rank_range(const LowRankTask& task) {
  constexpr int kMost = kLowRankTokens<V>;
  for (int32_t block = task.block_begin; block < task.block_end; ++block) {
    int32_t first = 0;
    for (; first + kMost <= task.num_tokens; first += kMost) add_low_rank_block<V, kMost>(task, block, first);
    if (first == task.num_tokens) continue;
    with_count<kMost - 1>(task.num_tokens - first, [&]<int N>() { add_low_rank_block<V, N>(task, block, first); });
  }
}

}  // namespace
}  // namespace headrace
