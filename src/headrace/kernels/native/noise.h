// The sampler's noise: Philox4x32-10 as a function of (seed, choice, position, token), and Gumbel values of its words.
// Knows no logits. The definition is told in sampler.h.
#pragma once

#include <array>
#include <cstdint>

namespace headrace {

inline constexpr int32_t kNoiseBlock = 64;      // tokens that one call draws for
inline constexpr float kLargestNoise = 16.64f;  // -log(-log(1 - 2^-24)) = 16.6355...

// Whose noise it is.
struct NoiseKey {
  uint64_t seed;
  uint32_t choice, position;
};

// The random words of kNoiseBlock consecutive tokens, first_token a multiple of 4; token i's word at words[i % 4][i /
// 4].
void draw_words(const NoiseKey& key, uint32_t first_token, uint32_t words[4][kNoiseBlock / 4]);

// The Gumbel noise that a random word stands for; grows with the word.
float gumbel_of(uint32_t word);

// The noise of any token.
float gumbel_noise(const NoiseKey& key, uint32_t token);

// A lower bound of `word >> 9` for all words whose noise reaches `least`: rounded towards drawing.
uint32_t lowest_word(float least);

}  // namespace headrace
