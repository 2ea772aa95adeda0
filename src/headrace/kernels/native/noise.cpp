// See noise.h. Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
#include "noise.h"

#include <cmath>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace headrace {
namespace {

constexpr uint32_t kCounterTag = 0x48656164;
constexpr uint32_t kMultiplier0 = 0xD2511F53u;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kKeyStep0 = 0x9E3779B9u;
constexpr uint32_t kKeyStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

using Words = std::array<uint32_t, 4>;

Words philox(const NoiseKey& key, uint32_t counter) {
  Words c{counter, key.position, key.choice, kCounterTag};
  auto k0 = static_cast<uint32_t>(key.seed);
  auto k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < kRounds; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
    const uint64_t a = uint64_t{kMultiplier0} * c[0];
    const uint64_t b = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
  }
  return c;
}

#if defined(__SSE2__)

struct Product {
  __m128i high, low;
};

Product multiply(__m128i a, __m128i factor) {
  const __m128i even = _mm_mul_epu32(a, factor);
  const __m128i odd = _mm_mul_epu32(_mm_srli_epi64(a, 32), factor);
  const __m128i low_half = _mm_set1_epi64x(0xFFFFFFFF);
  return {_mm_or_si128(_mm_srli_epi64(even, 32), _mm_andnot_si128(low_half, odd)),
          _mm_or_si128(_mm_and_si128(even, low_half), _mm_slli_epi64(odd, 32))};
}

// `philox` of four counters at once.
void philox_four(const NoiseKey& key, uint32_t counter, uint32_t words[4][kNoiseBlock / 4], int column) {
  const auto broadcast = [](uint32_t value) { return _mm_set1_epi32(static_cast<int>(value)); };
  __m128i c0 = _mm_add_epi32(broadcast(counter), _mm_set_epi32(3, 2, 1, 0));
  __m128i c1 = broadcast(key.position);
  __m128i c2 = broadcast(key.choice);
  __m128i c3 = broadcast(kCounterTag);
  __m128i k0 = broadcast(static_cast<uint32_t>(key.seed));
  __m128i k1 = broadcast(static_cast<uint32_t>(key.seed >> 32));
  for (int round = 0; round < kRounds; ++round) {
    const Product a = multiply(c0, broadcast(kMultiplier0));
    const Product b = multiply(c2, broadcast(kMultiplier1));
    c0 = _mm_xor_si128(_mm_xor_si128(b.high, c1), k0);
    c1 = b.low;
    c2 = _mm_xor_si128(_mm_xor_si128(a.high, c3), k1);
    c3 = a.low;
    k0 = _mm_add_epi32(k0, broadcast(kKeyStep0));
    k1 = _mm_add_epi32(k1, broadcast(kKeyStep1));
  }
  const __m128i results[4] = {c0, c1, c2, c3};
  for (int lane = 0; lane < 4; ++lane) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(&words[lane][column]), results[lane]);
  }
}

#else

void philox_four(const NoiseKey& key, uint32_t counter, uint32_t words[4][kNoiseBlock / 4], int column) {
  for (int i = 0; i < 4; ++i) {
    const Words drawn = philox(key, counter + static_cast<uint32_t>(i));
    for (int lane = 0; lane < 4; ++lane) words[lane][column + i] = drawn[static_cast<size_t>(lane)];
  }
}

#endif

}  // namespace

void draw_words(const NoiseKey& key, uint32_t first_token, uint32_t words[4][kNoiseBlock / 4]) {
  for (int column = 0; column < kNoiseBlock / 4; column += 4) {
    philox_four(key, first_token / 4 + static_cast<uint32_t>(column), words, column);
  }
}

float gumbel_of(uint32_t word) {
  const double u = (static_cast<double>(word >> 9) + 0.5) * 0x1p-23;
  return static_cast<float>(-std::log(-std::log(u)));
}

float gumbel_noise(const NoiseKey& key, uint32_t token) { return gumbel_of(philox(key, token / 4)[token % 4]); }

uint32_t lowest_word(float least) {
  // u >= exp(-exp(-least)) >= 1 - exp(-least); two units of slack for the rounding of everything here.
  const float u = 1.0f - std::exp(-least) * 1.0001f;
  const float word = u * 0x1p23f - 2.0f;
  return word > 0.0f ? static_cast<uint32_t>(word) : 0;
}

}  // namespace headrace
