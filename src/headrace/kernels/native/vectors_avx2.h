// The AVX2 vectors of floats that vector_math.h and paged_attention.h are written over. Included by avx2.cpp only,
// which has that variant's flags; internal linkage for the reason given in vector_math.h.
#pragma once

#include <immintrin.h>

#include "query_rows.h"
#include "variants.h"

namespace headrace {
namespace {

struct V256 {
  using F = __m256;
  static constexpr int kLanes = 8;
  // Register blocks of attention: rows, vectors of keys, vectors of features (6 x 2 sums of 16 registers).
  static constexpr int kRowBlock = 6;
  static constexpr int kScoreVectors = 2;
  static constexpr int kValueVectors = 2;

  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  // Larger magnitudes than fp16 has are clamped; as integers, so that NaN is too.
  static F clamped(F x) {
    const __m256i magnitude = _mm256_min_epi32(_mm256_castps_si256(abs(x)), _mm256_castps_si256(set(kLargestHalf)));
    return _mm256_or_ps(_mm256_and_ps(set(-0.0f), x), _mm256_castsi256_ps(magnitude));
  }
  static void store_halves(uint16_t* p, F x) {
    const __m128i halves = _mm256_cvtps_ph(clamped(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F minus_product(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F floor(F a) { return _mm256_floor_ps(a); }
  static constexpr bool kScalesByFloor = false;
  // For whole n in -126..127.
  static F times_power_of_two(F a, F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static F zero_where_less(F value, F x, F limit) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value); }
  // Every lane gets what lies kHalf lanes apart.
  template <int kHalf>
  static F exchange(F a) {
    if constexpr (kHalf == 4) return _mm256_permute2f128_ps(a, a, 1);
    return _mm256_permute_ps(a, kHalf == 1 ? 0xb1 : 0x4e);
  }
  static float first(F a) { return _mm256_cvtss_f32(a); }
  static float largest(F a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  static float total(F a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }

  // Minus infinity for key positions outside begin..end.
  static F only_keys(F scores, int32_t first_key, int32_t begin, int32_t end) {
    const __m256i key = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first_key));
    const __m256i is_before = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), key);
    const __m256i is_inside = _mm256_andnot_si256(is_before, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), key));
    return _mm256_blendv_ps(set(kMinusInfinity), scores, _mm256_castsi256_ps(is_inside));
  }

  // Rounds 32 values times `inverse` to codes, half to even; returns the sum of the codes.
  static int32_t store_codes(const float* x, F inverse, int8_t* codes) {
    __m256i v[4];
    for (int i = 0; i < 4; ++i) v[i] = _mm256_cvtps_epi32(mul(load(x + 8 * i), inverse));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(v[0], v[1]), _mm256_add_epi32(v[2], v[3]));
    // Packing works on halves of vectors; the permutation puts the groups of four back in order.
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_permutevar8x32_epi32(packed, order));
    __m128i total = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    total = _mm_add_epi32(total, _mm_unpackhi_epi64(total, total));
    return _mm_cvtsi128_si32(_mm_add_epi32(total, _mm_shuffle_epi32(total, 1)));
  }

  // Low-rank products: pairs of 8-bit codes for 8 outputs, times a pair of 16-bit values.
  using I = __m256i;
  static I zero_integers() { return _mm256_setzero_si256(); }
  static I widen(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static I add_pairs(I sums, I codes, int32_t pair) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(codes, _mm256_set1_epi32(pair)));
  }
  static F floats(I sums) { return _mm256_cvtepi32_ps(sums); }

  // Attention over int8 pages (layouts: PagesView). Codes are widened to 16 bits and multiplied in pairs, which cannot
  // overflow. Register blocks: rows of scores, rows and features of values.
  static constexpr int kScoreRows = 3;
  static constexpr int kWeighRows = 3;
  static constexpr int kWeighFeatures = 16;

  static F load_integers(const int32_t* p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  static __m256i broadcast_quad(const void* p) {
    int64_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return _mm256_set1_epi64x(quad);
  }

  // The sums of neighbouring pairs of a, then of b.
  static __m256i add_pairs(__m256i a, __m256i b) { return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xd8); }

  static void store_query(const int8_t* codes, int32_t count, float* q) {
    auto* to = reinterpret_cast<int16_t*>(q);
    for (int32_t i = 0; i < count; ++i) to[i] = codes[i];
  }

  // Scores of N rows and one page, half a page at a time: sums[r][v] are 4 keys times 2 pairs of features.
  template <int N>
  static void score_codes(const CodeRows& rows, const uint8_t* keys, int32_t head_dim, const float* key_scales) {
    const auto* q = reinterpret_cast<const int16_t*>(rows.q);
    for (int half = 0; half < kPageTokens; half += 16) {
      __m256i sums[N][4];
      for (int r = 0; r < N; ++r) {
        for (int v = 0; v < 4; ++v) sums[r][v] = _mm256_setzero_si256();
      }
      for (int32_t d = 0; d < head_dim; d += 4) {
        __m256i quads[N];
        for (int r = 0; r < N; ++r) quads[r] = broadcast_quad(q + r * rows.width * 2 + d);
        const uint8_t* from = keys + d * kPageTokens + 4 * half;
        for (int v = 0; v < 4; ++v) {
          const __m256i key = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * v)));
          for (int r = 0; r < N; ++r) sums[r][v] = _mm256_add_epi32(sums[r][v], _mm256_madd_epi16(key, quads[r]));
        }
      }
      for (int v = 0; v < 2; ++v) {
        const F scales = load(key_scales + half + 8 * v);
        for (int r = 0; r < N; ++r) {
          const __m256i dots = add_pairs(sums[r][2 * v], sums[r][2 * v + 1]);
          const F dot = _mm256_cvtepi32_ps(_mm256_add_epi32(dots, _mm256_set1_epi32(rows.starts[r])));
          store(rows.scores + r * kSpanTokens + half + 8 * v, mul(dot, mul(scales, set(rows.factors[r]))));
        }
      }
    }
  }

  // 32 weights as 16-bit integers.
  static void store_weights(const F (&weights)[4], uint8_t* to) {
    for (int v = 0; v < 4; v += 2) {
      const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(weights[v]), _mm256_cvtps_epi32(weights[v + 1]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16 * v), _mm256_permute4x64_epi64(packed, 0xd8));
    }
  }

  // sums[r] += weights[r] . values for N rows and kFeatures features: acc[r][v] are 4 features times 2 pairs of tokens.
  template <int N, int kFeatures>
  static void weigh_codes(const ValuePages& pages, const uint8_t* weights, int32_t* sums, int64_t width) {
    constexpr int kVectors = kFeatures / 4;
    __m256i acc[N][kVectors];
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm256_setzero_si256();
    }
    for (int32_t page = pages.begin; page < pages.end; ++page, weights += 64) {
      const uint8_t* values = pages.values + pages.page_table[page] * pages.page_stride;
      for (int quad = 0; quad < kPageTokens / 4; ++quad, values += pages.quad_stride) {
        __m256i quads[N];
        for (int r = 0; r < N; ++r) quads[r] = broadcast_quad(weights + r * kSpanTokens * 4 + 8 * quad);
        for (int v = 0; v < kVectors; ++v) {
          const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 16 * v));
          const __m256i value = _mm256_cvtepi8_epi16(codes);
          for (int r = 0; r < N; ++r) acc[r][v] = _mm256_add_epi32(acc[r][v], _mm256_madd_epi16(value, quads[r]));
        }
      }
    }
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; v += 2) {
        auto* sum = reinterpret_cast<__m256i*>(sums + r * width + 4 * v);
        const __m256i both = add_pairs(acc[r][v], acc[r][v + 1]);
        _mm256_storeu_si256(sum, _mm256_add_epi32(_mm256_loadu_si256(sum), both));
      }
    }
  }

  // from[n], n a multiple of 8, widened to floats; zeros up to `width`.
  static void widen_padded(const uint16_t* from, int32_t n, float* to, int32_t width) {
    for (int32_t i = 0; i < width; i += 8) store(to + i, i < n ? load(from + i) : zero());
  }
};

}  // namespace
}  // namespace headrace
