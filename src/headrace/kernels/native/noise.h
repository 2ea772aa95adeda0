// The sampler's noise, a function of (seed, choice, position, token) alone: a row draws the same token in every batch,
// slot, thread and tile. Knows no logits.
//
// Standard Gumbel noise is -log of a waiting time, exponential with mean 1. Waiting times are drawn top-down in blocks
// of 64 consecutive tokens, because the shortest of 64 independent ones is itself exponential with mean 1/64, its token
// uniform, and the others have forgotten: they wait that long plus an exponential time of their own.
//   block b = token / 64:  words of Philox4x32-10, key = seed, counter = (b, position, choice, 0x48656165);
//                          shortest = -log(u(word 0)) / 64, waited by token 64 b + word 1 / 2^26
//   every other token:     word token % 4 of counter (token / 4, position, choice, 0x48656164);
//                          shortest - log(u(word))
//   u(word) = (word + 0.5) / 2^32 in double, so that no logarithm sees 0 or 1; noise = -log(waiting time), as float.
// So one word bounds the noise of 64 tokens, and most blocks of a row need no more than that.
#pragma once

#include <cstdint>

namespace headrace {

inline constexpr int32_t kNoiseBlock = 64;
// Blocks whose first words are drawn together.
inline constexpr int32_t kBlockQuad = 4;
inline constexpr float kLargestNoise = 27.04f;  // -log(-log(1 - 2^-33) / 64) = 27.0327...

// Whose noise it is.
struct NoiseKey {
  uint64_t seed;
  uint32_t choice, position;
};

// What is drawn first of a block.
struct BlockDraw {
  uint32_t word;
  int32_t first;  // which of the 64 waits shortest

  double shortest() const;
  // 2^32 times a lower bound of the block's shortest time, 64 times over: -log(u) >= 1 - u.
  uint32_t shortest_word() const { return 0xFFFFFFFFu - word; }
};

// Of kBlockQuad consecutive blocks.
void draw_blocks(const NoiseKey& key, int32_t first_block, BlockDraw draws[kBlockQuad]);

BlockDraw draw_block(const NoiseKey& key, int32_t block);

// The random words of a block's tokens, token i's at words[i % 4][i / 4].
void draw_words(const NoiseKey& key, int32_t block, uint32_t words[4][kNoiseBlock / 4]);

// The exponential time that a token's word stands for.
double time_of(uint32_t word);

float noise_of(double waiting_time);

// The noise of any token, and of one whose block has been drawn.
float gumbel_noise(const NoiseKey& key, uint32_t token);
float gumbel_noise(const NoiseKey& key, uint32_t token, const BlockDraw& draw);

}  // namespace headrace
