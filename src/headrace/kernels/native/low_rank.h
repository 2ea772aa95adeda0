// The second product of an adapter, written once for every vector instruction set: codes of 32 outputs at a time, two
// ranks side by side, times a token's few values in 16 bits; sums of a group of ranks are exact integers. `V` names the
// instruction set. Knows no adapter and no plan. Internal linkage for the reason given in vector_math.h.
#pragma once

#include "vector_math.h"

namespace headrace {
namespace {

// How far ahead of the codes to ask for bytes: factors are short streams, which the CPU's own prefetching is late for.
constexpr int kLowRankAhead = 2048;

// Tokens whose values are rounded once for all blocks; and those that share one widening of the codes: as many as the
// registers hold sums for.
constexpr int kLowRankTile = 32;
template <class V>
constexpr int kLowRankTokens = V::kLanes == 16 ? 4 : 2;

constexpr float kTopInner = 32767.0f;

// Values of some tokens in 16 bits, zeros up to a whole group.
struct InnerCodes {
  alignas(64) int16_t codes[kLowRankTile][kMostRank];
  float scales[kLowRankTile][kMostRank / kGroup];
};

template <class V>
inline void round_inner(const float* u, int32_t rank, int16_t* codes, float* scales) {
  for (int32_t begin = 0; begin < rank; begin += kGroup) {
    alignas(64) float values[kGroup] = {};
    const int32_t count = smaller(kGroup, rank - begin);
    for (int32_t i = 0; i < count; ++i) values[i] = u[begin + i];
    typename V::F magnitude = V::abs(V::load(values));
    for (int i = V::kLanes; i < kGroup; i += V::kLanes) magnitude = V::max(magnitude, V::abs(V::load(values + i)));
    const float amax = V::largest(magnitude);
    const bool is_zero = amax < kSmallestMagnitude;
    const typename V::F inverse = V::set(is_zero ? 0.0f : kTopInner / amax);
    for (int i = 0; i < kGroup; i += V::kLanes) {
      // What is not a number becomes the smallest one, so that it can be converted.
      const typename V::F rounded = V::round(V::mul(V::load(values + i), inverse));
      V::store(values + i, V::min(V::max(rounded, V::set(-kTopInner)), V::set(kTopInner)));
    }
    for (int i = 0; i < kGroup; ++i) codes[begin + i] = static_cast<int16_t>(values[i]);
    scales[begin / kGroup] = is_zero ? 0.0f : amax / kTopInner;
  }
}

inline int32_t pair_at(const int16_t* codes) {
  int32_t pair;
  __builtin_memcpy(&pair, codes, sizeof pair);
  return pair;
}

// out += factor * totals, for the real outputs of a block.
template <class V>
inline void add_totals(const typename V::F* totals, float factor, int32_t num_rows, float* out) {
  // A block with padding takes the same way over memory of its own, so that an output's bits do not depend on it.
  alignas(64) float padded[kLowRankBlock] = {};
  float* to = out;
  if (num_rows < kLowRankBlock) {
    __builtin_memcpy(padded, out, sizeof(float) * static_cast<size_t>(num_rows));
    to = padded;
  }
  for (int v = 0; v < kLowRankBlock / V::kLanes; ++v) {
    V::store(to + v * V::kLanes, V::fma(totals[v], V::set(factor), V::load(to + v * V::kLanes)));
  }
  if (to == padded) __builtin_memcpy(out, padded, sizeof(float) * static_cast<size_t>(num_rows));
}

template <class V, int kCount>
inline void add_low_rank_block(const LowRankTask& task, const InnerCodes& inner, int32_t block, int32_t tile,
                               int32_t first) {
  constexpr int kVectors = kLowRankBlock / V::kLanes;
  const LowRankView& b = task.b;
  const uint8_t* bytes = b.blocks + static_cast<int64_t>(block) * b.block_bytes;
  const auto* codes = reinterpret_cast<const int8_t*>(bytes);
  const int32_t num_pairs = (b.rank + 1) / 2;
  const auto* scales = reinterpret_cast<const uint16_t*>(bytes + int64_t{num_pairs} * 2 * kLowRankBlock);
  typename V::F totals[kCount][kVectors];
  for (int i = 0; i < kCount * kVectors; ++i) (&totals[0][0])[i] = V::zero();
  for (int32_t begin = 0; begin < num_pairs; begin += kGroup / 2, scales += kLowRankBlock) {
    const int32_t end = smaller(begin + kGroup / 2, num_pairs);
    typename V::I sums[kCount][kVectors];
    for (int i = 0; i < kCount * kVectors; ++i) (&sums[0][0])[i] = V::zero_integers();
    for (int32_t j = begin; j < end; ++j, codes += 2 * kLowRankBlock) {
      __builtin_prefetch(codes + kLowRankAhead);
      for (int v = 0; v < kVectors; ++v) {
        const auto wide = V::widen(codes + 2 * v * V::kLanes);
        for (int n = 0; n < kCount; ++n) {
          sums[n][v] = V::add_pairs(sums[n][v], wide, pair_at(inner.codes[first + n] + 2 * j));
        }
      }
    }
    for (int n = 0; n < kCount; ++n) {
      const typename V::F inner_scale = V::set(inner.scales[first + n][2 * begin / kGroup]);
      for (int v = 0; v < kVectors; ++v) {
        const typename V::F scale = V::mul(V::load(scales + v * V::kLanes), inner_scale);
        totals[n][v] = V::fma(V::floats(sums[n][v]), scale, totals[n][v]);
      }
    }
  }
  const int32_t num_rows = smaller(kLowRankBlock, b.rows - block * kLowRankBlock);
  for (int n = 0; n < kCount; ++n) {
    float* out = task.out + (tile + first + n) * task.stride + block * task.block_step;
    add_totals<V>(totals[n], b.factor, num_rows, out);
  }
}

template <class V>
void add_low_rank_range(const LowRankTask& task) {
  constexpr int kMost = kLowRankTokens<V>;
  InnerCodes inner;
  for (int32_t tile = 0; tile < task.num_tokens; tile += kLowRankTile) {
    const int32_t count = smaller(kLowRankTile, task.num_tokens - tile);
    for (int32_t n = 0; n < count; ++n) {
      round_inner<V>(task.u + (tile + n) * task.u_stride, task.b.rank, inner.codes[n], inner.scales[n]);
    }
    for (int32_t block = task.block_begin; block < task.block_end; ++block) {
      int32_t first = 0;
      for (; first + kMost <= count; first += kMost) add_low_rank_block<V, kMost>(task, inner, block, tile, first);
      if (first == count) continue;
      with_count<kMost - 1>(count - first, [&]<int N>() { add_low_rank_block<V, N>(task, inner, block, tile, first); });
    }
  }
}

}  // namespace
}  // namespace headrace
