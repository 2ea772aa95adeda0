// The NEON vectors of floats that vector_math.h and paged_attention.h are written over. Included by neon.cpp only,
// which has that variant's flags; internal linkage for the reason given in vector_math.h.
#pragma once

#include <arm_neon.h>

#include "variants.h"

namespace headrace {
namespace {

struct V128 {
  using F = float32x4_t;
  static constexpr int kLanes = 4;
  // Register blocks of attention: rows, vectors of keys, vectors of features (6 x 4 sums of 32 registers).
  static constexpr int kRowBlock = 6;
  static constexpr int kScoreVectors = 4;
  static constexpr int kValueVectors = 4;

  static F zero() { return vdupq_n_f32(0.0f); }
  static F set(float x) { return vdupq_n_f32(x); }
  static F load(const float* p) { return vld1q_f32(p); }
  static F load(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static void store(float* p, F x) { vst1q_f32(p, x); }
  // Larger magnitudes than fp16 has are clamped; as integers, so that NaN is too.
  static F clamped(F x) {
    const uint32x4_t magnitude = vminq_u32(vreinterpretq_u32_f32(abs(x)), vreinterpretq_u32_f32(set(kLargestHalf)));
    const uint32x4_t sign = vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0x80000000u));
    return vreinterpretq_f32_u32(vorrq_u32(sign, magnitude));
  }
  static void store_halves(uint16_t* p, F x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(clamped(x)))); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F div(F a, F b) { return vdivq_f32(a, b); }
  // Of a number and NaN: the number.
  static F min(F a, F b) { return vminnmq_f32(a, b); }
  static F max(F a, F b) { return vmaxnmq_f32(a, b); }
  static F abs(F a) { return vabsq_f32(a); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F minus_product(F a, F b, F c) { return vfmsq_f32(c, a, b); }
  static F round(F a) { return vrndnq_f32(a); }
  static F floor(F a) { return vrndmq_f32(a); }
  static constexpr bool kScalesByFloor = false;
  // For whole n in -126..127.
  static F times_power_of_two(F a, F n) {
    const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return mul(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
  }
  static F zero_where_less(F value, F x, F limit) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(x, limit)));
  }
  static float first(F a) { return vgetq_lane_f32(a, 0); }
  static float largest(F a) { return vmaxnmvq_f32(a); }
  static float total(F a) { return vaddvq_f32(a); }

  // Minus infinity for key positions outside begin..end.
  static F only_keys(F scores, int32_t first_key, int32_t begin, int32_t end) {
    static constexpr int32_t kLane[4] = {0, 1, 2, 3};
    const int32x4_t key = vaddq_s32(vld1q_s32(kLane), vdupq_n_s32(first_key));
    const uint32x4_t is_inside = vandq_u32(vcgeq_s32(key, vdupq_n_s32(begin)), vcltq_s32(key, vdupq_n_s32(end)));
    return vbslq_f32(is_inside, scores, set(kMinusInfinity));
  }

  // Rounds 32 values times `inverse` to codes, half to even; returns the sum of the codes.
  static int32_t store_codes(const float* x, F inverse, int8_t* codes) {
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < 4; ++i) {
      const int32x4_t low = vcvtnq_s32_f32(mul(load(x + 8 * i), inverse));
      const int32x4_t high = vcvtnq_s32_f32(mul(load(x + 8 * i + 4), inverse));
      vst1_s8(codes + 8 * i, vqmovn_s16(vcombine_s16(vqmovn_s32(low), vqmovn_s32(high))));
      sum = vaddq_s32(sum, vaddq_s32(low, high));
    }
    return vaddvq_s32(sum);
  }

  // from[n], n a multiple of 8, widened to floats; zeros up to `width`.
  static void widen_padded(const uint16_t* from, int32_t n, float* to, int32_t width) {
    for (int32_t i = 0; i < width; i += 4) store(to + i, i < n ? load(from + i) : zero());
  }
};

}  // namespace
}  // namespace headrace
