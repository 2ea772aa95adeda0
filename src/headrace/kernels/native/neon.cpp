// The NEON variant, for ARM CPUs with the dot-product instructions (ARMv8.2 and later): one 16-byte vector is 4 rows of
// a weight tile times 4 columns, and one instruction multiplies it by 4 of the activation codes in a register. A tile
// is handled in four quarters of 4 rows. Knows no threads and no plan. Compiled with this variant's flags only;
// dispatch.cpp asks the CPU before anybody comes here.
#include "variants.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)

#include <arm_neon.h>

#include "low_rank.h"
#include "paged_attention.h"
#include "products.h"
#include "vector_math.h"
#include "vectors_neon.h"

namespace headrace {
namespace {

constexpr int kQuads = kGroup / 4;

// Four rows of one tile. The instruction multiplies signed by signed bytes, so both kinds of codes are used as stored.
template <int kBits, bool kMinimum>
struct QuarterTile {
  int8x16_t codes[kQuads];
  float32x4_t scale;
  float32x4_t minimum;

  QuarterTile(const uint8_t* tile, int quarter) {
    for (int j = 0; j < kBits; ++j) {
      const uint8x16_t bytes = vld1q_u8(tile + 64 * j + 16 * quarter);
      if constexpr (kBits == 4) {
        codes[j] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        codes[j + 4] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
      } else {
        codes[j] = vreinterpretq_s8_u8(bytes);
      }
    }
    const uint8_t* halves = tile + 64 * kBits + 8 * quarter;
    scale = V128::load(reinterpret_cast<const uint16_t*>(halves));
    minimum = kMinimum ? V128::load(reinterpret_cast<const uint16_t*>(halves + 32)) : V128::zero();
  }

  // Two sums, so that an instruction need not wait for the one before it.
  int32x4_t dot(const int8_t* a) const {
    const int8x16_t first = vld1q_s8(a);
    const int8x16_t second = vld1q_s8(a + 16);
    int32x4_t low = vdotq_laneq_s32(vdupq_n_s32(0), codes[0], first, 0);
    int32x4_t high = vdotq_laneq_s32(vdupq_n_s32(0), codes[4], second, 0);
    low = vdotq_laneq_s32(low, codes[1], first, 1);
    high = vdotq_laneq_s32(high, codes[5], second, 1);
    low = vdotq_laneq_s32(low, codes[2], first, 2);
    high = vdotq_laneq_s32(high, codes[6], second, 2);
    low = vdotq_laneq_s32(low, codes[3], first, 3);
    high = vdotq_laneq_s32(high, codes[7], second, 3);
    return vaddq_s32(low, high);
  }

  float32x4_t product(const int8_t* a, float x_scale, float x_sum, int32_t /*start*/, float32x4_t acc) const {
    const float32x4_t value = vcvtq_f32_s32(dot(a));
    acc = vfmaq_f32(acc, value, vmulq_n_f32(scale, x_scale));
    return kMinimum ? vfmaq_n_f32(acc, minimum, x_sum) : acc;
  }
};

struct Neon {
  using V = V128;
  template <int kBits, bool kMinimum>
  using Tile = QuarterTile<kBits, kMinimum>;
  static constexpr int kFewTokens = 2;
  static constexpr bool kShiftsCodes = false;
};

// Eight chains of dot products: enough to cover the latency of one.
int64_t multiply(int64_t rounds, int32_t* sink) {
  constexpr int kChains = 8;
  int8x16_t codes = vdupq_n_s8(7);
  int8x16_t x = vdupq_n_s8(-3);
  HEADRACE_OPAQUE("+w", codes);
  HEADRACE_OPAQUE("+w", x);
  int32x4_t sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = vdupq_n_s32(i);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int32x4_t& sum : sums) sum = vdotq_laneq_s32(sum, codes, x, 0);
  }
  for (const int32x4_t sum : sums) *sink ^= vaddvq_s32(sum);
  return rounds * kChains * 2 * 16;
}

constexpr Kernels kNeon{.name = "neon",
                        .linear = linear_range<Neon>,
                        .gated = gated_range<Neon>,
                        .activated = activated_range<Neon>,
                        .attention = attention_range<V128>,
                        .merge_attention = merge_attention_rows<V128>,
                        .quantize = quantize_row<V128>,
                        .quantize_rotated = quantize_rotated_row<V128>,
                        .rms_norm = rms_norm_row<V128>,
                        .layer_norm = layer_norm_row<V128>,
                        .pointwise = pointwise_row<V128>,
                        .narrow = narrow_row<V128>,
                        .multiply = multiply,
                        .quantize_head = quantize_head_row<V128>,
                        .add_low_rank = add_low_rank_range<V128>,
                        .activate = activate_row<V128>,
                        .softcap = softcap_row<V128>,
                        .dot_rows = dot_rows<V128>};

}  // namespace

const Kernels* neon_variant() { return &kNeon; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* neon_variant() { return nullptr; }

}  // namespace headrace

#endif
