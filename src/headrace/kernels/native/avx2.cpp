// The AVX2 variant, for CPUs without VNNI: a weight tile is handled in two halves of 8 rows. 4-bit codes times 8-bit
// codes are summed in 16 bits over a whole group (8 x 2 x 15 x 127 = 30,480 fits) and widened once; 8-bit codes are
// widened after each product. Knows no threads and no plan. Compiled with this variant's flags only; dispatch.cpp asks
// the CPU before anybody comes here.
#include "variants.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include "paged_attention.h"
#include "products.h"
#include "vector_math.h"

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
  static void store_halves(uint16_t* p, F x) {
    const __m256i magnitude = _mm256_min_epi32(_mm256_castps_si256(abs(x)), _mm256_castps_si256(set(kLargestHalf)));
    const F clamped = _mm256_or_ps(_mm256_and_ps(set(-0.0f), x), _mm256_castsi256_ps(magnitude));
    const __m128i halves = _mm256_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
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
  // For whole n in -126..127.
  static F times_power_of_two(F a, F n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static F zero_where_less(F value, F x, F limit) { return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), value); }
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

  // from[n], n a multiple of 8, widened to floats; zeros up to `width`.
  static void widen_padded(const uint16_t* from, int32_t n, float* to, int32_t width) {
    for (int32_t i = 0; i < width; i += 8) store(to + i, i < n ? load(from + i) : zero());
  }
};

constexpr int kQuads = kGroup / 4;

inline __m256i broadcast_quad(const int8_t* a) {
  int32_t quad;
  __builtin_memcpy(&quad, a, sizeof quad);
  return _mm256_set1_epi32(quad);
}

// Eight rows of one tile: 4-bit codes as unsigned bytes, 8-bit codes as magnitudes beside the stored signed bytes.
template <int kBits, bool kMinimum>
struct HalfTile {
  __m256i codes[kQuads];
  const uint8_t* stored;
  __m256 scale;
  __m256 minimum;

  HalfTile(const uint8_t* tile, int half) : stored(tile + 32 * half) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int j = 0; j < kBits; ++j) {
      const __m256i bytes = vector(j);
      if constexpr (kBits == 4) {
        codes[j] = _mm256_and_si256(bytes, low);
        codes[j + 4] = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), low);
      } else {
        codes[j] = _mm256_abs_epi8(bytes);
      }
    }
    const uint8_t* halves = tile + 64 * kBits + 16 * half;
    scale = V256::load(reinterpret_cast<const uint16_t*>(halves));
    minimum = kMinimum ? V256::load(reinterpret_cast<const uint16_t*>(halves + 32)) : V256::zero();
  }

  __m256i vector(int j) const { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(stored + 64 * j)); }

  __m256i dot(const int8_t* a) const {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    if constexpr (kBits == 4) {
      __m256i even = _mm256_maddubs_epi16(codes[0], broadcast_quad(a));
      __m256i odd = _mm256_maddubs_epi16(codes[1], broadcast_quad(a + 4));
      for (int j = 2; j < kQuads; j += 2) {
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(codes[j], broadcast_quad(a + 4 * j)));
        odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(codes[j + 1], broadcast_quad(a + 4 * j + 4)));
      }
      sum = _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones);
    } else {
      // |w| times a with w's sign: a pair is at most 2 x 128 x 127 = 32,512, but two pairs would not fit.
      for (int j = 0; j < kQuads; ++j) {
        const __m256i pairs = _mm256_maddubs_epi16(codes[j], _mm256_sign_epi8(broadcast_quad(a + 4 * j), vector(j)));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
      }
    }
    return sum;
  }

  __m256 product(const int8_t* a, float x_scale, float x_sum, int32_t /*start*/, __m256 acc) const {
    const __m256 value = _mm256_cvtepi32_ps(dot(a));
    acc = _mm256_fmadd_ps(value, _mm256_mul_ps(scale, _mm256_set1_ps(x_scale)), acc);
    return kMinimum ? _mm256_fmadd_ps(minimum, _mm256_set1_ps(x_sum), acc) : acc;
  }
};

struct Avx2 {
  using V = V256;
  template <int kBits, bool kMinimum>
  using Tile = HalfTile<kBits, kMinimum>;
  static constexpr int kFewTokens = 1;
  static constexpr bool kShiftsCodes = false;
};

constexpr Kernels kAvx2{"avx2",
                        linear_range<Avx2>,
                        gated_range<Avx2>,
                        attention_range<V256>,
                        quantize_row<V256>,
                        rms_norm_row<V256>,
                        narrow_row<V256>};

}  // namespace

const Kernels* avx2_variant() { return &kAvx2; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* avx2_variant() { return nullptr; }

}  // namespace headrace

#endif
