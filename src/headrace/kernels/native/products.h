// Products of packed weights and quantised activations, written once for every vector instruction set: which row blocks
// meet which tokens, where the sums wait, and what happens to them at the end. `Isa` gives
//   V                     the float vectors; a tile of 16 rows is handled in 16 / V::kLanes parts
//   Tile<kBits, kMinimum> one part of one tile, unpacked; product(codes, scale, sum, start, acc) adds a group's product
//   kFewTokens            how many tokens' sums of a row block fit in the registers beside a tile
//   kShiftsCodes          whether 8-bit codes are shifted to 0..255 in a tile; then load_starts(...) gives what takes
//                         it back
//   Session               optional: what a thread needs while it computes a range, made with its number of tokens
//   add_tile, kManyTokens optional: adds the products of one tile and at least kManyTokens tokens to the tokens' sums,
//                         where an instruction set can do better than one token after the other
// Internal linkage for the reason given in vector_math.h.
#pragma once

#include "vector_math.h"

namespace headrace {
namespace {

// Tokens that share one unpacking of a weight tile: their activations and sums stay in the first-level cache.
constexpr int kTokenTile = 32;

// Sums of one row block for one tile of tokens.
using BlockSums = float[kTokenTile][kTileRows];

// The activations of some tokens; a value, so that the compiler may keep it in registers.
struct Tokens {
  const int8_t* codes;
  const float* scales;
  const float* sums;
  int64_t width;
  int64_t groups;
  int32_t count;
};

inline Tokens tokens_from(const Q8View& x, int32_t first, int32_t count) {
  const int64_t groups = x.width / kGroup;
  return {x.codes + first * static_cast<int64_t>(x.width),
          x.scales + first * groups,
          x.sums + first * groups,
          x.width,
          groups,
          count};
}

// Starting values of the integer sums for 16 groups, by token.
using Starts = int32_t[kTokenTile][16];

struct NoSession {
  explicit NoSession(int32_t) {}
};

template <class Isa>
struct SessionOf {
  using Type = NoSession;
};

template <class Isa>
  requires requires { typename Isa::Session; }
struct SessionOf<Isa> {
  using Type = typename Isa::Session;
};

// How far ahead of a weight stream to ask for bytes. Where memory bounds the product, the CPU's own prefetching follows
// the stream, and asking far ahead of it costs a tenth; where tokens keep the CPU busy, it covers memory's latency.
constexpr int kFewAhead = 320;
constexpr int kManyAhead = 2048;
constexpr int kFewStreamTokens = 2;
// A stream this short (an adapter's factor) ends before the CPU's own prefetching has got going.
constexpr int64_t kShortStreamBytes = 128 * 1024;

template <int kBytes>
inline void prefetch(const uint8_t* bytes) {
  for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(bytes + i);
}

// Few tokens and 4-bit codes: the sums live in registers. One row block after the other: memory gives most to a single
// stream (two side by side got 26 of 35 GB/s).
template <class Isa, bool kMinimum, int kCount>
void multiply_few(const MatrixView& matrix, const uint8_t* tiles, Tokens x, BlockSums& acc) {
  using V = typename Isa::V;
  constexpr int kParts = kTileRows / V::kLanes;
  typename V::F sums[kParts][kCount];
  for (int i = 0; i < kParts * kCount; ++i) (&sums[0][0])[i] = V::zero();
  for (int32_t g = 0; g < matrix.groups; ++g) {
    const uint8_t* bytes = tiles + static_cast<int64_t>(g) * matrix.tile_bytes;
    prefetch<64 * 4 + 64>(bytes + kFewAhead);
    for (int part = 0; part < kParts; ++part) {
      const typename Isa::template Tile<4, kMinimum> tile(bytes, part);
      for (int n = 0; n < kCount; ++n) {
        const int64_t at = n * x.groups + g;
        sums[part][n] = tile.product(x.codes + n * x.width + g * kGroup, x.scales[at], x.sums[at], 0, sums[part][n]);
      }
    }
  }
  for (int part = 0; part < kParts; ++part) {
    for (int n = 0; n < kCount; ++n) V::store(&acc[n][part * V::kLanes], sums[part][n]);
  }
}

// Many tokens: a tile is unpacked once for all of them, and the sums wait in the first-level cache.
template <class Isa, int kBits, bool kMinimum>
void multiply_many(const MatrixView& matrix, const uint8_t* tiles, Tokens x, BlockSums& acc) {
  using V = typename Isa::V;
  constexpr bool kStarts = kBits == 8 && Isa::kShiftsCodes;
  __builtin_memset(acc, 0, sizeof(float) * kTileRows * static_cast<size_t>(x.count));
  alignas(64) Starts starts;
  const bool is_short = int64_t{matrix.row_blocks} * matrix.groups * matrix.tile_bytes <= kShortStreamBytes;
  const int ahead = x.count <= kFewStreamTokens && !is_short ? kFewAhead : kManyAhead;
  for (int32_t g = 0; g < matrix.groups; ++g) {
    if constexpr (kStarts) {
      if (g % 16 == 0) Isa::load_starts(x, g, starts);
    }
    const uint8_t* bytes = tiles + static_cast<int64_t>(g) * matrix.tile_bytes;
    prefetch<64 * kBits + 64>(bytes + ahead);
    for (int part = 0; part < kTileRows / V::kLanes; ++part) {
      const typename Isa::template Tile<kBits, kMinimum> tile(bytes, part);
      const int8_t* codes = x.codes + g * kGroup;
      const float* scale = x.scales + g;
      const float* sum = x.sums + g;
      float* to = &acc[0][part * V::kLanes];
      for (int32_t n = 0; n < x.count; ++n) {
        V::store(to, tile.product(codes, *scale, *sum, kStarts ? starts[n][g % 16] : 0, V::load(to)));
        codes += x.width;
        scale += x.groups;
        sum += x.groups;
        to += kTileRows;
      }
    }
  }
}

// The same where the instruction set has a way of its own.
template <class Isa, int kBits, bool kMinimum>
void multiply_by_tiles(const MatrixView& matrix, const uint8_t* tiles, Tokens x, BlockSums& acc) {
  __builtin_memset(acc, 0, sizeof(float) * kTileRows * static_cast<size_t>(x.count));
  for (int32_t g = 0; g < matrix.groups; ++g) {
    const uint8_t* bytes = tiles + static_cast<int64_t>(g) * matrix.tile_bytes;
    prefetch<64 * kBits + 64>(bytes + kManyAhead);
    Isa::template add_tile<kBits, kMinimum>(bytes, x, g, &acc[0][0]);
  }
}

template <class Isa, int kBits, bool kMinimum>
void multiply_blocks(const MatrixView& matrix, int32_t block, int32_t num_blocks, Tokens x, BlockSums* acc) {
  const int64_t block_bytes = static_cast<int64_t>(matrix.groups) * matrix.tile_bytes;
  const uint8_t* tiles = matrix.tiles + block * block_bytes;
  if constexpr (kBits == 4) {
    if (x.count <= Isa::kFewTokens) {
      with_count<Isa::kFewTokens>(x.count, [&]<int N>() {
        for (int32_t b = 0; b < num_blocks; ++b) {
          multiply_few<Isa, kMinimum, N>(matrix, tiles + b * block_bytes, x, acc[b]);
        }
      });
      return;
    }
  }
  if constexpr (requires { Isa::template add_tile<kBits, kMinimum>(tiles, x, 0, &acc[0][0][0]); }) {
    if (x.count >= Isa::kManyTokens) {
      for (int32_t b = 0; b < num_blocks; ++b) {
        multiply_by_tiles<Isa, kBits, kMinimum>(matrix, tiles + b * block_bytes, x, acc[b]);
      }
      return;
    }
  }
  for (int32_t b = 0; b < num_blocks; ++b) {
    multiply_many<Isa, kBits, kMinimum>(matrix, tiles + b * block_bytes, x, acc[b]);
  }
}

// acc[b][n][r] = row r of block `block + b` times token `first + n`, for one or two blocks.
template <class Isa>
void multiply(const MatrixView& matrix, int32_t block, int32_t num_blocks, const Q8View& x, int32_t first,
              int32_t count, BlockSums* acc) {
  const Tokens tokens = tokens_from(x, first, count);
  if (matrix.bits == 4) {
    if (matrix.has_minimum) return multiply_blocks<Isa, 4, true>(matrix, block, num_blocks, tokens, acc);
    return multiply_blocks<Isa, 4, false>(matrix, block, num_blocks, tokens, acc);
  }
  if (matrix.has_minimum) return multiply_blocks<Isa, 8, true>(matrix, block, num_blocks, tokens, acc);
  return multiply_blocks<Isa, 8, false>(matrix, block, num_blocks, tokens, acc);
}

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
  [[maybe_unused]] const typename SessionOf<Isa>::Type session(task.num_tokens);
  alignas(64) BlockSums acc[2];
  for (int32_t first = 0; first < task.num_tokens; first += kTokenTile) {
    const int32_t count = smaller(kTokenTile, task.num_tokens - first);
    for (int32_t block = task.block_begin; block < task.block_end; block += 2) {
      const int32_t num_blocks = smaller(2, task.block_end - block);
      multiply<Isa>(task.matrix, block, num_blocks, task.x, first, count, acc);
      for (int32_t b = 0; b < num_blocks; ++b) {
        for (int32_t n = 0; n < count; ++n) {
          finish_row<typename Isa::V>(task, acc[b][n], first + n, (block + b) * kTileRows);
        }
      }
    }
  }
}

// One half of a pair: 16 gate and 16 up features.
template <class V, Activation kActivation>
inline void activate_half(const float* gates, const float* ups, float* values) {
  for (int i = 0; i < kTileRows; i += V::kLanes) {
    const typename V::F gate = activate<V, kActivation>(V::load(gates + i));
    V::store(values + i, V::mul(gate, V::load(ups + i)));
  }
}

template <class V, Activation kActivation>
inline void finish_pair(const GatedTask& task, const BlockSums* acc, int32_t n, int64_t token, int32_t pair) {
  alignas(64) float values[kGroup];
  for (int half = 0; half < 2; ++half) {
    activate_half<V, kActivation>(acc[half][n], acc[2 + half][n], values + half * kTileRows);
  }
  store_group<V>(task.out, token, static_cast<int64_t>(pair) * kGroup, values);
}

template <class V, Activation kActivation>
inline void activate_pairs(const float* x, int32_t num_pairs, const Output& out) {
  alignas(64) float values[kGroup];
  for (int32_t pair = 0; pair < num_pairs; ++pair, x += 2 * kGroup) {
    for (int half = 0; half < 2; ++half) {
      const float* gates = x + half * kTileRows;
      activate_half<V, kActivation>(gates, gates + kGroup, values + half * kTileRows);
    }
    store_group<V>(out, 0, static_cast<int64_t>(pair) * kGroup, values);
  }
}

// See Kernels::activate.
template <class V>
void activate_row(const float* x, int32_t num_pairs, Activation activation, const Output& out) {
  if (activation == Activation::kSilu) {
    activate_pairs<V, Activation::kSilu>(x, num_pairs, out);
  } else {
    activate_pairs<V, Activation::kGeluTanh>(x, num_pairs, out);
  }
}

template <class Isa, Activation kActivation>
void gated_pairs(const GatedTask& task) {
  [[maybe_unused]] const typename SessionOf<Isa>::Type session(task.num_tokens);
  alignas(64) BlockSums acc[4];
  for (int32_t first = 0; first < task.num_tokens; first += kTokenTile) {
    const int32_t count = smaller(kTokenTile, task.num_tokens - first);
    for (int32_t pair = task.pair_begin; pair < task.pair_end; ++pair) {
      multiply<Isa>(task.matrix, 4 * pair, 2, task.x, first, count, acc);
      multiply<Isa>(task.matrix, 4 * pair + 2, 2, task.x, first, count, acc + 2);
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

// A group of 32 features of one token: bias, activation, rotation, and where they go.
template <class V>
inline void finish_group(const ActivatedTask& task, const BlockSums* acc, int32_t n, int64_t token, int32_t group) {
  alignas(64) float values[kGroup];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < kTileRows; i += V::kLanes) {
      const int at = half * kTileRows + i;
      typename V::F value = V::load(&acc[half][n][i]);
      if (task.bias != nullptr) value = V::add(value, V::load(task.bias + group * kGroup + at));
      V::store(values + at, value);
    }
  }
  pointwise_row<V>(values, kGroup, task.activation, values);
  if (task.rotates) rotate_group<V>(values, values);
  store_group<V>(task.out, token, static_cast<int64_t>(group) * kGroup, values);
}

template <class Isa>
void activated_range(const ActivatedTask& task) {
  [[maybe_unused]] const typename SessionOf<Isa>::Type session(task.num_tokens);
  alignas(64) BlockSums acc[2];
  for (int32_t first = 0; first < task.num_tokens; first += kTokenTile) {
    const int32_t count = smaller(kTokenTile, task.num_tokens - first);
    for (int32_t group = task.group_begin; group < task.group_end; ++group) {
      multiply<Isa>(task.matrix, 2 * group, 2, task.x, first, count, acc);
      for (int32_t n = 0; n < count; ++n) finish_group<typename Isa::V>(task, acc, n, first + n, group);
    }
  }
}

}  // namespace
}  // namespace headrace
