// The AVX-512 vectors of floats that vector_math.h and paged_attention.h are written over. Included by avx512.cpp only,
// which has that variant's flags; internal linkage for the reason given in vector_math.h.
#pragma once

#include <immintrin.h>

#include "query_rows.h"
#include "variants.h"

namespace headrace {
namespace {

struct V512 {
  using F = __m512;
  static constexpr int kLanes = 16;
  // Register blocks of attention: rows, vectors of keys, vectors of features (8 x 2 sums of 32 registers).
  static constexpr int kRowBlock = 8;
  static constexpr int kScoreVectors = 2;
  static constexpr int kValueVectors = 2;

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  // Larger magnitudes than fp16 has are clamped; as integers, so that NaN is too.
  static F clamped(F x) {
    const __m512i magnitude = _mm512_min_epi32(_mm512_castps_si512(abs(x)), _mm512_castps_si512(set(kLargestHalf)));
    return _mm512_or_ps(_mm512_and_ps(set(-0.0f), x), _mm512_castsi512_ps(magnitude));
  }
  static void store_halves(uint16_t* p, F x) {
    const __m256i halves = _mm512_cvtps_ph(clamped(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F minus_product(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // times_power_of_two takes the floor of n itself.
  static constexpr bool kScalesByFloor = true;
  static F fraction(F a) { return _mm512_reduce_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  static F times_power_of_two(F a, F n) { return _mm512_scalef_ps(a, n); }
  static F zero_where_less(F value, F x, F limit) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), value);
  }
  // Every lane gets what lies kHalf lanes apart.
  template <int kHalf>
  static F exchange(F a) {
    if constexpr (kHalf >= 4) return _mm512_shuffle_f32x4(a, a, kHalf == 4 ? 0xb1 : 0x4e);
    return _mm512_permute_ps(a, kHalf == 1 ? 0xb1 : 0x4e);
  }
  static float first(F a) { return _mm512_cvtss_f32(a); }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }
  static float total(F a) { return _mm512_reduce_add_ps(a); }

  // Minus infinity for key positions outside begin..end.
  static F only_keys(F scores, int32_t first_key, int32_t begin, int32_t end) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i key = _mm512_add_epi32(lane, _mm512_set1_epi32(first_key));
    const __mmask16 seen = _mm512_mask_cmplt_epi32_mask(_mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(begin)), key,
                                                        _mm512_set1_epi32(end));
    return _mm512_mask_mov_ps(set(kMinusInfinity), seen, scores);
  }

  // Rounds 32 values times `inverse` to codes, half to even; returns the sum of the codes.
  static int32_t store_codes(const float* x, F inverse, int8_t* codes) {
    const __m512i a = _mm512_cvtps_epi32(mul(load(x), inverse));
    const __m512i b = _mm512_cvtps_epi32(mul(load(x + 16), inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), _mm512_cvtepi32_epi8(a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), _mm512_cvtepi32_epi8(b));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(a, b));
  }

  // Low-rank products: pairs of 8-bit codes for 16 outputs, times a pair of 16-bit values.
  using I = __m512i;
  static I zero_integers() { return _mm512_setzero_si512(); }
  static I widen(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static I add_pairs(I sums, I codes, int32_t pair) {
    return _mm512_dpwssd_epi32(sums, codes, _mm512_set1_epi32(pair));
  }
  static F floats(I sums) { return _mm512_cvtepi32_ps(sums); }

  // Attention over int8 pages (layouts: PagesView). Register blocks: rows of scores, rows and features of values.
  static constexpr int kScoreRows = 8;
  static constexpr int kWeighRows = 3;
  static constexpr int kWeighFeatures = 64;

  static F load_integers(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

  static __m512i broadcast_quad(const void* p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return _mm512_set1_epi32(quad);
  }

  static void store_query(const int8_t* codes, int32_t count, float* q) {
    __builtin_memcpy(q, codes, static_cast<size_t>(count));
  }

  // Scores of N rows and one page: unsigned keys times signed queries, 16 keys times 4 features an instruction.
  template <int N>
  static void score_codes(const CodeRows& rows, const uint8_t* keys, int32_t head_dim, const float* key_scales) {
    __m512i acc[N][2];
    for (int r = 0; r < N; ++r) acc[r][0] = acc[r][1] = _mm512_set1_epi32(rows.starts[r]);
    const auto* q = reinterpret_cast<const int8_t*>(rows.q);
    HEADRACE_UNROLL(4)
    for (int32_t d = 0; d < head_dim; d += 4) {
      const __m512i first = _mm512_loadu_si512(keys + d * kPageTokens);
      const __m512i second = _mm512_loadu_si512(keys + d * kPageTokens + 64);
      for (int r = 0; r < N; ++r) {
        const __m512i quad = broadcast_quad(q + r * rows.width * 4 + d);
        acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], first, quad);
        acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], second, quad);
      }
    }
    for (int v = 0; v < 2; ++v) {
      const F scales = load(key_scales + 16 * v);
      for (int r = 0; r < N; ++r) {
        const F score = mul(_mm512_cvtepi32_ps(acc[r][v]), mul(scales, set(rows.factors[r])));
        store(rows.scores + r * kSpanTokens + 16 * v, score);
      }
    }
  }

  // 32 weights as 15-bit integers: their high bytes, then their low bytes.
  static void store_weights(const F (&weights)[2], uint8_t* to) {
    for (int v = 0; v < 2; ++v) {
      const __m512i whole = _mm512_cvtps_epi32(weights[v]);
      const __m128i high = _mm512_cvtepi32_epi8(_mm512_srli_epi32(whole, 8));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16 * v), high);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 32 + 16 * v), _mm512_cvtepi32_epi8(whole));
    }
  }

  // sums[r] += weights[r] . values for N rows and kFeatures features; high and low bytes apart until the end.
  template <int N, int kFeatures>
  static void weigh_codes(const ValuePages& pages, const uint8_t* weights, int32_t* sums, int64_t width) {
    constexpr int kVectors = kFeatures / 16;
    __m512i high[N][kVectors];
    __m512i low[N][kVectors];
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; ++v) high[r][v] = low[r][v] = _mm512_setzero_si512();
    }
    for (int32_t page = pages.begin; page < pages.end; ++page, weights += 64) {
      const uint8_t* values = pages.values + pages.page_table[page] * pages.page_stride;
      HEADRACE_UNROLL(8)
      for (int quad = 0; quad < kPageTokens / 4; ++quad, values += pages.quad_stride) {
        __m512i value[kVectors];
        for (int v = 0; v < kVectors; ++v) value[v] = _mm512_loadu_si512(values + 64 * v);
        for (int r = 0; r < N; ++r) {
          const uint8_t* weight = weights + r * kSpanTokens * 4 + 4 * quad;
          const __m512i high_weight = broadcast_quad(weight);
          const __m512i low_weight = broadcast_quad(weight + 32);
          for (int v = 0; v < kVectors; ++v) {
            high[r][v] = _mm512_dpbusd_epi32(high[r][v], high_weight, value[v]);
            low[r][v] = _mm512_dpbusd_epi32(low[r][v], low_weight, value[v]);
          }
        }
      }
    }
    for (int r = 0; r < N; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        int32_t* sum = sums + r * width + 16 * v;
        const __m512i both = _mm512_add_epi32(_mm512_slli_epi32(high[r][v], 8), low[r][v]);
        _mm512_storeu_si512(sum, _mm512_add_epi32(_mm512_loadu_si512(sum), both));
      }
    }
  }

  // from[n], n a multiple of 8, widened to floats; zeros up to `width`.
  static void widen_padded(const uint16_t* from, int32_t n, float* to, int32_t width) {
    for (int32_t i = 0; i < width; i += 8) {
      const __m128i half = i < n ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)) : _mm_setzero_si128();
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
    }
  }
};

}  // namespace
}  // namespace headrace
