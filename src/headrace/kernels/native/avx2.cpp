// The AVX2 variant, for CPUs without VNNI: a weight tile is handled in two halves of 8 rows. 4-bit codes times 8-bit
// codes are summed in 16 bits over a whole group (8 x 2 x 15 x 127 = 30,480 fits) and widened once; 8-bit codes are
// widened after each product. Knows no threads and no plan. Compiled with this variant's flags only; dispatch.cpp asks
// the CPU before anybody comes here.
#include "variants.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include "low_rank.h"
#include "paged_attention.h"
#include "products.h"
#include "vector_math.h"
#include "vectors_avx2.h"

namespace headrace {
namespace {

constexpr int kQuads = kGroup / 4;

// step<0>(), step<1>() ... step<kCount - 1>().
template <int kCount, class Step>
[[gnu::always_inline]] inline void unrolled(const Step& step) {
  if constexpr (kCount > 0) {
    unrolled<kCount - 1>(step);
    step.template operator()<kCount - 1>();
  }
}

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

// A whole tile of 4-bit codes for many tokens: unpacked to memory, so that the registers hold four tokens' sums and
// each broadcast of activations serves all 16 rows. Same sums in the same order as HalfTile's, hence the same bits.
template <bool kMinimum>
struct UnpackedTile {
  alignas(32) uint8_t codes[kQuads][2][32];  // by column quad and half; 8 rows of 4 bytes each
  alignas(32) float scale[kTileRows];
  alignas(32) float minimum[kTileRows];

  explicit UnpackedTile(const uint8_t* tile) {
    const __m256i low = _mm256_set1_epi8(15);
    const uint8_t* halves = tile + 256;
    for (int half = 0; half < 2; ++half) {
      for (int j = 0; j < kQuads / 2; ++j) {
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 64 * j + 32 * half));
        put(j, half, _mm256_and_si256(both, low));
        put(j + kQuads / 2, half, _mm256_and_si256(_mm256_srli_epi16(both, 4), low));
      }
      V256::store(scale + 8 * half, V256::load(reinterpret_cast<const uint16_t*>(halves + 16 * half)));
      if (!kMinimum) continue;
      V256::store(minimum + 8 * half, V256::load(reinterpret_cast<const uint16_t*>(halves + 32 + 16 * half)));
    }
  }

  void put(int j, int half, __m256i bytes) { _mm256_store_si256(reinterpret_cast<__m256i*>(codes[j][half]), bytes); }
  __m256i get(int j, int half) const { return _mm256_load_si256(reinterpret_cast<const __m256i*>(codes[j][half])); }

  // Adds the group's products with the first kTokens tokens, unrolled by templates, so that the sums become registers.
  template <int kTokens>
  [[gnu::always_inline]] void add(const Tokens& x, float* acc) const {
    __m256i sums[kTokens][2];
    unrolled<kQuads>([&]<int j>() __attribute__((always_inline)) {
      const __m256i upper = get(j, 0), lower = get(j, 1);
      unrolled<kTokens>([&]<int n>() __attribute__((always_inline)) {
        const __m256i quad = broadcast_quad(x.codes + n * x.width + 4 * j);
        const __m256i products[2] = {_mm256_maddubs_epi16(upper, quad), _mm256_maddubs_epi16(lower, quad)};
        sums[n][0] = j == 0 ? products[0] : _mm256_add_epi16(sums[n][0], products[0]);
        sums[n][1] = j == 0 ? products[1] : _mm256_add_epi16(sums[n][1], products[1]);
        // Keeps the compiler from turning the chains of additions into trees, for which there are no registers.
        asm volatile("" : "+x"(sums[n][0]), "+x"(sums[n][1]));
      });
    });
    unrolled<kTokens>([&]<int n>() __attribute__((always_inline)) {
      const __m256 x_scale = _mm256_set1_ps(x.scales[n * x.groups]), x_sum = _mm256_set1_ps(x.sums[n * x.groups]);
      unrolled<2>([&]<int half>() __attribute__((always_inline)) {
        float* to = acc + n * kTileRows + 8 * half;
        const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(sums[n][half], _mm256_set1_epi16(1)));
        __m256 sum = _mm256_fmadd_ps(dot, _mm256_mul_ps(V256::load(scale + 8 * half), x_scale), V256::load(to));
        if (kMinimum) sum = _mm256_fmadd_ps(V256::load(minimum + 8 * half), x_sum, sum);
        V256::store(to, sum);
      });
    });
  }

  // Adds one group's products to all tokens' sums. Not inlined: the compiler would carry codes in registers it lacks.
  [[gnu::noinline]] void add_all(Tokens x, int32_t group, float* acc) const {
    constexpr int kAtOnce = 4;
    x.codes += group * kGroup;
    x.scales += group;
    x.sums += group;
    for (; x.count >= kAtOnce; x.count -= kAtOnce) {
      add<kAtOnce>(x, acc);
      x.codes += kAtOnce * x.width;
      x.scales += kAtOnce * x.groups;
      x.sums += kAtOnce * x.groups;
      acc += kAtOnce * kTileRows;
    }
    if (x.count == 0) return;
    with_count<kAtOnce - 1>(x.count, [&]<int kRest>() { add<kRest>(x, acc); });
  }
};

struct Avx2 {
  using V = V256;
  template <int kBits, bool kMinimum>
  using Tile = HalfTile<kBits, kMinimum>;
  static constexpr int kFewTokens = 1;
  static constexpr bool kShiftsCodes = false;
  static constexpr int32_t kManyTokens = 12;  // from here on unpacking to memory pays

  template <int kBits, bool kMinimum>
    requires(kBits == 4)
  static void add_tile(const uint8_t* tile, Tokens x, int32_t group, float* acc) {
    UnpackedTile<kMinimum>(tile).add_all(x, group, acc);
  }
};

// As the 4-bit product does it: eight products summed in 16 bits, widened once, a tile of eight rows against two
// tokens.
int64_t multiply(int64_t rounds, int32_t* sink) {
  constexpr int kTokens = 2;
  __m256i codes[kQuads];
  for (int j = 0; j < kQuads; ++j) codes[j] = _mm256_set1_epi8(static_cast<char>(j + 1));
  __m256i x = _mm256_set1_epi8(-3);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[kTokens] = {};
  for (int64_t round = 0; round < rounds; ++round) {
    for (__m256i& sum : sums) {
      HEADRACE_OPAQUE("+x", x);
      __m256i even = _mm256_maddubs_epi16(codes[0], x);
      __m256i odd = _mm256_maddubs_epi16(codes[1], x);
      for (int j = 2; j < kQuads; j += 2) {
        even = _mm256_add_epi16(even, _mm256_maddubs_epi16(codes[j], x));
        odd = _mm256_add_epi16(odd, _mm256_maddubs_epi16(codes[j + 1], x));
      }
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(even, odd), ones));
    }
  }
  alignas(32) int32_t lanes[8];
  for (const __m256i sum : sums) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
    for (const int32_t lane : lanes) *sink ^= lane;
  }
  return rounds * kTokens * kQuads * 2 * 32;
}

constexpr Kernels kAvx2{.name = "avx2",
                        .linear = linear_range<Avx2>,
                        .gated = gated_range<Avx2>,
                        .activated = activated_range<Avx2>,
                        .attention = attention_range<V256>,
                        .merge_attention = merge_attention_rows<V256>,
                        .quantize = quantize_row<V256>,
                        .quantize_rotated = quantize_rotated_row<V256>,
                        .rms_norm = rms_norm_row<V256>,
                        .layer_norm = layer_norm_row<V256>,
                        .pointwise = pointwise_row<V256>,
                        .narrow = narrow_row<V256>,
                        .multiply = multiply,
                        .quantize_head = quantize_head_row<V256>,
                        .add_low_rank = add_low_rank_range<V256>,
                        .activate = activate_row<V256>,
                        .softcap = softcap_row<V256>,
                        .dot_rows = dot_rows<V256>};

}  // namespace

const Kernels* avx2_variant() { return &kAvx2; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* avx2_variant() { return nullptr; }

}  // namespace headrace

#endif
