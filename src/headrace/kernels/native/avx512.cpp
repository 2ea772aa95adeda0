// The AVX-512 variant: one 64-byte vector is a weight tile's 16 rows times 4 columns, and VNNI multiplies it by 4
// broadcast activation codes in one instruction. Knows no threads and no plan. Compiled with this variant's flags only;
// dispatch.cpp asks the CPU before anybody comes here.
#include "variants.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX512VNNI__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined registers inside its own intrinsics for mistakes (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "paged_attention.h"
#include "products.h"
#include "vector_math.h"

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
  static void store_halves(uint16_t* p, F x) {
    const __m512i magnitude = _mm512_min_epi32(_mm512_castps_si512(abs(x)), _mm512_castps_si512(set(kLargestHalf)));
    const F clamped = _mm512_or_ps(_mm512_and_ps(set(-0.0f), x), _mm512_castsi512_ps(magnitude));
    const __m256i halves = _mm512_cvtps_ph(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
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

constexpr int kQuads = kGroup / 4;

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
    for (int j = 0; j < kQuads; ++j) {
      int32_t quad;
      __builtin_memcpy(&quad, a + 4 * j, sizeof quad);
      dot = _mm512_dpbusd_epi32(dot, codes[j], _mm512_set1_epi32(quad));
    }
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

constexpr Kernels kAvx512{"avx512",           linear_range<Avx512>, gated_range<Avx512>, attention_range<V512>,
                          quantize_row<V512>, rms_norm_row<V512>,   narrow_row<V512>};

}  // namespace

const Kernels* avx512_variant() { return &kAvx512; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* avx512_variant() { return nullptr; }

}  // namespace headrace

#endif
