// See noise.h. Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
#include "noise.h"

#include <cmath>

namespace headrace {
namespace {

// Last words of counters, so that no two uses of the generator share its numbers.
constexpr uint32_t kTokenTag = 0x48656164;
constexpr uint32_t kBlockTag = 0x48656165;
constexpr uint32_t kMultiplier0 = 0xD2511F53u;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kKeyStep0 = 0x9E3779B9u;
constexpr uint32_t kKeyStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// Philox of kCount consecutive counters, in loops that compilers turn into vector instructions.
template <int kCount>
void philox(const NoiseKey& key, uint32_t counter, uint32_t tag, uint32_t words[4][kCount]) {
  for (int i = 0; i < kCount; ++i) {
    words[0][i] = counter + static_cast<uint32_t>(i);
    words[1][i] = key.position;
    words[2][i] = key.choice;
    words[3][i] = tag;
  }
  auto k0 = static_cast<uint32_t>(key.seed);
  auto k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < kRounds; ++round, k0 += kKeyStep0, k1 += kKeyStep1) {
    for (int i = 0; i < kCount; ++i) {
      const uint64_t a = uint64_t{kMultiplier0} * words[0][i];
      const uint64_t b = uint64_t{kMultiplier1} * words[2][i];
      words[0][i] = static_cast<uint32_t>(b >> 32) ^ words[1][i] ^ k0;
      words[1][i] = static_cast<uint32_t>(b);
      words[2][i] = static_cast<uint32_t>(a >> 32) ^ words[3][i] ^ k1;
      words[3][i] = static_cast<uint32_t>(a);
    }
  }
}

template <int kCount>
void draw_some_blocks(const NoiseKey& key, int32_t first_block, BlockDraw* draws) {
  uint32_t words[4][kCount];
  philox<kCount>(key, static_cast<uint32_t>(first_block), kBlockTag, words);
  for (int i = 0; i < kCount; ++i) draws[i] = {words[0][i], static_cast<int32_t>(words[1][i] >> 26)};
}

}  // namespace

double BlockDraw::shortest() const { return time_of(word) / kNoiseBlock; }

void draw_blocks(const NoiseKey& key, int32_t first_block, BlockDraw draws[kBlockQuad]) {
  draw_some_blocks<kBlockQuad>(key, first_block, draws);
}

BlockDraw draw_block(const NoiseKey& key, int32_t block) {
  BlockDraw draw;
  draw_some_blocks<1>(key, block, &draw);
  return draw;
}

void draw_words(const NoiseKey& key, int32_t block, uint32_t words[4][kNoiseBlock / 4]) {
  philox<kNoiseBlock / 4>(key, static_cast<uint32_t>(block) * (kNoiseBlock / 4), kTokenTag, words);
}

double time_of(uint32_t word) { return -std::log((static_cast<double>(word) + 0.5) * 0x1p-32); }

float noise_of(double waiting_time) { return static_cast<float>(-std::log(waiting_time)); }

float gumbel_noise(const NoiseKey& key, uint32_t token) {
  return gumbel_noise(key, token, draw_block(key, static_cast<int32_t>(token / kNoiseBlock)));
}

float gumbel_noise(const NoiseKey& key, uint32_t token, const BlockDraw& draw) {
  const double shortest = draw.shortest();
  if (static_cast<int32_t>(token % kNoiseBlock) == draw.first) return noise_of(shortest);
  uint32_t words[4][1];
  philox<1>(key, token / 4, kTokenTag, words);
  return noise_of(shortest + time_of(words[token % 4][0]));
}

}  // namespace headrace
