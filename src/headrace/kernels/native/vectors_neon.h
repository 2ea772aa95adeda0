// The NEON vectors of floats that vector_math.h and paged_attention.h are written over. Included by neon.cpp only,
// which has that variant's flags; internal linkage for the reason given in vector_math.h.
#pragma once

#include <arm_neon.h>

#include "query_rows.h"
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
  // Every lane gets what lies kHalf lanes apart.
  template <int kHalf>
  static F exchange(F a) {
    if constexpr (kHalf == 1) return vrev64q_f32(a);
    return vextq_f32(a, a, 2);
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

  // Low-rank products: pairs of 8-bit codes for 4 outputs, times a pair of 16-bit values.
  using I = int32x4_t;
  using Wide = int16x8_t;
  static I zero_integers() { return vdupq_n_s32(0); }
  static Wide widen(const int8_t* p) { return vmovl_s8(vld1_s8(p)); }
  static I add_pairs(I sums, Wide codes, int32_t pair) {
    const int16x4_t values = vreinterpret_s16_s32(vdup_n_s32(pair));
    const int32x4_t low = vmull_s16(vget_low_s16(codes), values);
    return vaddq_s32(sums, vpaddq_s32(low, vmull_s16(vget_high_s16(codes), values)));
  }
  static F floats(I sums) { return vcvtq_f32_s32(sums); }

  // Attention over int8 pages (layouts: PagesView). Register blocks: rows of scores, rows and features of values.
  static constexpr int kScoreRows = 4;
  static constexpr int kWeighRows = 3;
  static constexpr int kWeighFeatures = 16;

  static F load_integers(const int32_t* p) { return vcvtq_f32_s32(vld1q_s32(p)); }

  static int8x16_t broadcast_quad(const void* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return vreinterpretq_s8_s32(vdupq_n_s32(quad));
  }

  static void store_query(const int8_t* codes, int32_t count, float* q) {
    __builtin_memcpy(q, codes, static_cast<size_t>(count));
  }

  // Scores of N rows and one page, half a page at a time. The instruction multiplies signed by signed bytes, so that
  // the keys lose their offset and the rows' starts are not needed.
  template <int N>
  static void score_codes(const CodeRows& rows, const uint8_t* keys, int32_t head_dim, const float* key_scales) {
    const auto* q = reinterpret_cast<const int8_t*>(rows.q);
    const uint8x16_t offset = vdupq_n_u8(128);
    for (int half = 0; half < kPageTokens; half += 16) {
      int32x4_t acc[N][4];
      for (int r = 0; r < N; ++r) {
        for (int v = 0; v < 4; ++v) acc[r][v] = vdupq_n_s32(0);
      }
      for (int32_t d = 0; d < head_dim; d += 4) {
        int8x16_t quads[N];
        for (int r = 0; r < N; ++r) quads[r] = broadcast_quad(q + r * rows.width * 4 + d);
        const uint8_t* from = keys + d * kPageTokens + 4 * half;
        for (int v = 0; v < 4; ++v) {
          const int8x16_t key = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from + 16 * v), offset));
          for (int r = 0; r < N; ++r) acc[r][v] = vdotq_s32(acc[r][v], key, quads[r]);
        }
      }
      for (int v = 0; v < 4; ++v) {
        const F scales = load(key_scales + half + 4 * v);
        for (int r = 0; r < N; ++r) {
          const F score = mul(vcvtq_f32_s32(acc[r][v]), mul(scales, set(rows.factors[r])));
          store(rows.scores + r * kSpanTokens + half + 4 * v, score);
        }
      }
    }
  }

  // 32 negated weights as 256 * high + low with both in -128..127 (a weight is at most 32767): high bytes, low bytes.
  static void store_weights(const F (&weights)[8], uint8_t* to) {
    for (int v = 0; v < 8; v += 2) {
      const int32x4_t a = vcvtnq_s32_f32(vnegq_f32(weights[v]));
      const int32x4_t b = vcvtnq_s32_f32(vnegq_f32(weights[v + 1]));
      const int16x8_t whole = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
      const int8x8_t high = vrshrn_n_s16(whole, 8);
      const int8x8_t low = vmovn_s16(whole);
      vst1_s8(reinterpret_cast<int8_t*>(to) + 4 * v, high);
      vst1_s8(reinterpret_cast<int8_t*>(to) + 32 + 4 * v, low);
    }
  }

  // sums[r] += weights[r] . values for N rows and kFeatures features; high and low bytes apart until the end.
  template <int N, int kFeatures>
  static void weigh_codes(const ValuePages& pages, const uint8_t* weights, int32_t* sums, int64_t width) {
    constexpr int kVectors = kFeatures / 4;
    int32x4_t high[N][kVectors];
    int32x4_t low[N][kVectors];
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; ++v) high[r][v] = low[r][v] = vdupq_n_s32(0);
    }
    for (int32_t page = pages.begin; page < pages.end; ++page, weights += 64) {
      const uint8_t* values = pages.values + pages.page_table[page] * pages.page_stride;
      for (int quad = 0; quad < kPageTokens / 4; ++quad, values += pages.quad_stride) {
        int8x16_t value[kVectors];
        for (int v = 0; v < kVectors; ++v) value[v] = vreinterpretq_s8_u8(vld1q_u8(values + 16 * v));
        for (int r = 0; r < N; ++r) {
          const uint8_t* weight = weights + r * kSpanTokens * 4 + 4 * quad;
          const int8x16_t high_weight = broadcast_quad(weight);
          const int8x16_t low_weight = broadcast_quad(weight + 32);
          for (int v = 0; v < kVectors; ++v) {
            high[r][v] = vdotq_s32(high[r][v], value[v], high_weight);
            low[r][v] = vdotq_s32(low[r][v], value[v], low_weight);
          }
        }
      }
    }
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        int32_t* sum = sums + r * width + 4 * v;
        const int32x4_t both = vaddq_s32(vshlq_n_s32(high[r][v], 8), low[r][v]);
        vst1q_s32(sum, vsubq_s32(vld1q_s32(sum), both));
      }
    }
  }

  // from[n], n a multiple of 8, widened to floats; zeros up to `width`.
  static void widen_padded(const uint16_t* from, int32_t n, float* to, int32_t width) {
    for (int32_t i = 0; i < width; i += 4) store(to + i, i < n ? load(from + i) : zero());
  }
};

}  // namespace
}  // namespace headrace
