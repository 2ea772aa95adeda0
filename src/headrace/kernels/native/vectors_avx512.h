// The AVX-512 vectors of floats that vector_math.h and paged_attention.h are written over. Included by avx512.cpp only,
// which has that variant's flags; internal linkage for the reason given in vector_math.h.
#pragma once

#include <immintrin.h>

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
