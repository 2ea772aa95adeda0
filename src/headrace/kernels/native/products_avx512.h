// The AVX-512 products: one 64-byte vector is a weight tile's 16 rows times 4 columns, and VNNI multiplies it by 4
// broadcast activation codes in one instruction. Included by avx512.cpp and amx.cpp only, which have the flags for it;
// internal linkage for the reason given in vector_math.h.
#pragma once

#include <immintrin.h>

#include "products.h"
#include "vectors_avx512.h"

namespace headrace {
namespace {

constexpr int kQuads = kGroup / 4;

inline __m512i broadcast_quad(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// One tile in registers; unsigned codes, because VNNI multiplies unsigned by signed bytes.
template <int kBits, bool kMinimum>
struct WholeTile {
  __m512i codes[kQuads];
  __m512 scale;
  __m512 minimum;

  WholeTile(const uint8_t* bytes, int /*part*/) {
    if constexpr (kBits == 4) {
      const __m512i low = _mm512_set1_epi8(15);
      for (int j = 0; j < 4; ++j) {
        const __m512i both = _mm512_loadu_si512(bytes + 64 * j);
        codes[j] = _mm512_and_si512(both, low);
        codes[j + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      }
    } else {
      const __m512i offset = _mm512_set1_epi8(-128);
      for (int j = 0; j < 8; ++j) codes[j] = _mm512_xor_si512(_mm512_loadu_si512(bytes + 64 * j), offset);
    }
    const uint8_t* halves = bytes + 64 * kBits;
    scale = V512::load(reinterpret_cast<const uint16_t*>(halves));
    minimum = kMinimum ? V512::load(reinterpret_cast<const uint16_t*>(halves + 32)) : V512::zero();
  }

  __m512 product(const int8_t* a, float x_scale, float x_sum, int32_t start, __m512 acc) const {
    __m512i dot = _mm512_set1_epi32(start);
    for (int j = 0; j < kQuads; ++j) dot = _mm512_dpbusd_epi32(dot, codes[j], broadcast_quad(a + 4 * j));
    return scaled(dot, x_scale, x_sum, acc);
  }

  __m512 scaled(__m512i dot, float x_scale, float x_sum, __m512 acc) const {
    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), acc);
    return kMinimum ? _mm512_fmadd_ps(minimum, _mm512_set1_ps(x_sum), acc) : acc;
  }
};

struct Avx512 {
  using V = V512;
  template <int kBits, bool kMinimum>
  using Tile = WholeTile<kBits, kMinimum>;
  static constexpr int kFewTokens = 2;
  static constexpr bool kShiftsCodes = true;

  // -128 times the sum of a group's codes, for 16 groups from `group` on: codes shifted to 0..255 add that much too
  // much. A sum is its scale times an integer below 2^13, so that the quotient rounds to exactly that integer.
  static void load_starts(const Tokens& x, int32_t group, Starts& starts) {
    const int32_t present = smaller(16, static_cast<int32_t>(x.groups) - group);
    const auto mask = static_cast<__mmask16>((1u << present) - 1u);
    for (int32_t n = 0; n < x.count; ++n) {
      const int64_t at = n * x.groups + group;
      const __m512 scales = _mm512_maskz_loadu_ps(mask, x.scales + at);
      const __m512 sums = _mm512_maskz_loadu_ps(mask, x.sums + at);
      const __mmask16 is_used = _mm512_cmp_ps_mask(scales, V512::zero(), _CMP_NEQ_UQ);
      const __m512i totals = _mm512_cvtps_epi32(_mm512_maskz_div_ps(is_used, sums, scales));
      _mm512_storeu_si512(starts[n], _mm512_slli_epi32(_mm512_sub_epi32(_mm512_setzero_si512(), totals), 7));
    }
  }
};

}  // namespace
}  // namespace headrace
