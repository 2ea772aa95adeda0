// Drivers around a variant's `multiply`: which row blocks meet which tokens, and what happens to the sums.
// `Isa` gives the vectors (`Isa::V`) and
//   multiply(matrix, block, num_blocks, x, first, count, acc): acc[b][n][16] = row block `block + b` times token `first + n`.
// Internal linkage for the reason given in vector_math.h.
#pragma once

#include "vector_math.h"

namespace headrace {
namespace {

// Tokens that share one unpacking of a weight tile: their activations and sums stay in the first-level cache.
constexpr int kTokenTile = 32;

// Sums of one row block for one tile of tokens.
using BlockSums = float[kTokenTile][kTileRows];

template <class V>
inline void finish_row(const LinearTask& task, const float* acc, int64_t token, int32_t first_row) {
  float* out = task.out + token * task.stride + first_row;
  const int32_t num_rows = smaller(kTileRows, task.matrix.rows - first_row);
  if (num_rows == kTileRows) {
    for (int i = 0; i < kTileRows; i += V::kLanes) {
      typename V::F value = V::load(acc + i);
      if (task.bias != nullptr) value = V::add(value, V::load(task.bias + first_row + i));
      if (task.accumulate) value = V::add(V::load(out + i), value);
      V::store(out + i, value);
    }
    return;
  }
  for (int32_t r = 0; r < num_rows; ++r) {
    const float value = task.bias != nullptr ? acc[r] + task.bias[first_row + r] : acc[r];
    out[r] = task.accumulate ? out[r] + value : value;
  }
}

template <class Isa>
void linear_range(const LinearTask& task) {
  alignas(64) BlockSums acc[2];
  for (int32_t first = 0; first < task.num_tokens; first += kTokenTile) {
    const int32_t count = smaller(kTokenTile, task.num_tokens - first);
    for (int32_t block = task.block_begin; block < task.block_end; block += 2) {
      const int32_t num_blocks = smaller(2, task.block_end - block);
      Isa::multiply(task.matrix, block, num_blocks, task.x, first, count, acc);
      for (int32_t b = 0; b < num_blocks; ++b) {
        for (int32_t n = 0; n < count; ++n) {
          finish_row<typename Isa::V>(task, acc[b][n], first + n, (block + b) * kTileRows);
        }
      }
    }
  }
}

template <class V, Activation kActivation>
inline void finish_pair(const GatedTask& task, const BlockSums* acc, int32_t n, int64_t token, int32_t pair) {
  alignas(64) float values[kGroup];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < kTileRows; i += V::kLanes) {
      const typename V::F gate = activate<V, kActivation>(V::load(&acc[half][n][i]));
      V::store(values + half * kTileRows + i, V::mul(gate, V::load(&acc[2 + half][n][i])));
    }
  }
  store_group<V>(task.out, token, static_cast<int64_t>(pair) * kGroup, values);
}

template <class Isa, Activation kActivation>
void gated_pairs(const GatedTask& task) {
  alignas(64) BlockSums acc[4];
  for (int32_t first = 0; first < task.num_tokens; first += kTokenTile) {
    const int32_t count = smaller(kTokenTile, task.num_tokens - first);
    for (int32_t pair = task.pair_begin; pair < task.pair_end; ++pair) {
      Isa::multiply(task.matrix, 4 * pair, 2, task.x, first, count, acc);
      Isa::multiply(task.matrix, 4 * pair + 2, 2, task.x, first, count, acc + 2);
      for (int32_t n = 0; n < count; ++n) {
        finish_pair<typename Isa::V, kActivation>(task, acc, n, first + n, pair);
      }
    }
  }
}

template <class Isa>
void gated_range(const GatedTask& task) {
  if (task.activation == Activation::kSilu) {
    gated_pairs<Isa, Activation::kSilu>(task);
  } else {
    gated_pairs<Isa, Activation::kGeluTanh>(task);
  }
}

}  // namespace
}  // namespace headrace
