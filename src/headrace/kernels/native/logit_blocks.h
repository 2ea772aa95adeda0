// Arithmetic on blocks of 64 logits, as vectors of four that give the same bits on every CPU: the largest, sums of
// exponentials. And where a sampler gets its logits from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "noise.h"

namespace headrace {

inline constexpr int32_t kBlock = kNoiseBlock;
inline constexpr int32_t kQuadTokens = kBlock * kBlockQuad;  // logits come in whole quads of blocks
inline constexpr int32_t kMostRowsPerTask = 64;
inline constexpr int32_t kRowsPerTile = 32;  // the most rows of one tile
inline constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// Row i of a tile of logits at logits + i * stride.
struct LogitTile {
  const float* logits;
  int64_t stride;
};

// Logits by tiles, found or computed on the way. A soft cap or a head's own bias belongs to whoever makes the tile.
class LogitSource {
 public:
  virtual ~LogitSource() = default;
  // Rows [first_row, first_row + num_rows), at most kRowsPerTile, and the tokens of quads [quad_begin, quad_end), at
  // most kRowsPerTile / num_rows of them (but at least one). Valid until this thread asks again. Must not throw.
  virtual LogitTile tile(int32_t first_row, int32_t num_rows, int32_t quad_begin, int32_t quad_end,
                         int thread) const = 0;
  // Rows that are cheaper together than one by one.
  virtual int32_t rows_per_task() const { return kMostRowsPerTask; }
  // A rough price of one quad for so many rows, in nanoseconds of one thread.
  virtual double quad_ns(int32_t num_rows) const = 0;
};

// Four floats as the compiler's own vector type: the same results on every CPU, one operation per instruction.
using Floats = float __attribute__((vector_size(16)));
using Ints = int32_t __attribute__((vector_size(16)));
inline constexpr int32_t kLanes = 4;

inline Floats load(const float* values) {
  Floats result;
  std::memcpy(&result, values, sizeof result);
  return result;
}

inline Floats splat(float value) { return Floats{value, value, value, value}; }

// `value` where it is larger than `best`, else `best`; NaN is never larger.
inline Floats larger(Floats value, Floats best) {
#if defined(__SSE2__)
  return _mm_max_ps(value, best);  // the same, in one instruction that compilers do not find
#else
  return value > best ? value : best;
#endif
}

inline bool any(Ints mask) {
#if defined(__SSE2__)
  Floats lanes;
  std::memcpy(&lanes, &mask, sizeof lanes);
  return _mm_movemask_ps(lanes) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// Which of kMaskTokens logits are not below the floor, the first in the lowest bit; NaN is below.
inline constexpr int32_t kMaskTokens = 16;

inline uint32_t not_below(const float* logits, float floor) {
#if defined(__SSE2__)
  const __m128 least = _mm_set1_ps(floor);
  const auto four = [&](int32_t i) { return _mm_castps_si128(_mm_cmpge_ps(_mm_loadu_ps(logits + i), least)); };
  const __m128i low = _mm_packs_epi32(four(0), four(4));
  const __m128i high = _mm_packs_epi32(four(8), four(12));
  return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
#else
  uint32_t mask = 0;
  for (int32_t i = 0; i < kMaskTokens; ++i) mask |= static_cast<uint32_t>(logits[i] >= floor) << i;
  return mask;
#endif
}

// exp for x <= 0 as a fixed polynomial: the same bits from every compiler and library; error below 2 ulp; exactly 1 at
// 0; what lies below -87 and NaN give exp(-87).
inline Floats exp_negative(Floats x) {
  const Floats lowest = splat(-87.0f);
  x = larger(x, lowest);
  const Floats round = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = x * 1.44269504f + round;
  const Floats n = shifted - round;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = splat(1.3981999e-3f);
  p = p * r + 8.3334519e-3f;
  p = p * r + 4.1665796e-2f;
  p = p * r + 1.6666665e-1f;
  p = p * r + 5.0000001e-1f;
  const Floats value = p * (r * r) + r + 1.0f;
  Ints exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;
  Floats power;
  std::memcpy(&power, &exponent, sizeof power);
  return value * power;
}

inline float exp_negative(float x) { return exp_negative(splat(x))[0]; }

// Largest of a block; NaN never wins.
inline float largest_of_block(const float* logits) {
  Floats lanes[4] = {splat(kMinusInf), splat(kMinusInf), splat(kMinusInf), splat(kMinusInf)};
  for (int32_t i = 0; i < kBlock; i += 4 * kLanes) {
    for (int32_t lane = 0; lane < 4; ++lane) lanes[lane] = larger(load(logits + i + lane * kLanes), lanes[lane]);
  }
  const Floats rest = larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
  return std::max(std::max(rest[0], rest[1]), std::max(rest[2], rest[3]));
}

// Of a quad.
inline void largest_of_blocks(const float* logits, float maxima[kBlockQuad]) {
  for (int32_t b = 0; b < kBlockQuad; ++b) maxima[b] = largest_of_block(logits + b * kBlock);
}

// Sum over a block of exp((logit - largest) / temperature); 0 where `largest` is -infinity.
inline float sum_of_block(const float* logits, float largest, float temperature) {
  if (largest == kMinusInf) return 0.0f;
  Floats sums[2] = {splat(0.0f), splat(0.0f)};
  for (int32_t i = 0; i < kBlock; i += 2 * kLanes) {
    for (int32_t lane = 0; lane < 2; ++lane) {
      Floats z = load(logits + i + lane * kLanes) - largest;
      if (temperature != 1.0f) z = z / temperature;
      sums[lane] += exp_negative(z);
    }
  }
  const Floats sum = sums[0] + sums[1];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace headrace
