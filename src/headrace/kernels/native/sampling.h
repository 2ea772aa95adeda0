// What a step asks the sampler for, as arrays of all rows, and what it gives back; and one row's share of it. Knows no
// logits.
#pragma once

#include <cstdint>

#include "logit_change.h"
#include "noise.h"

namespace headrace {

inline constexpr int32_t kMostTop = 20;  // alternatives of one row

// Parameters of R rows; arrays of length R unless said otherwise. What may be null is off where it is.
struct Sampling {
  const float* temperature;  // 0 = greedy
  const int32_t* top_k;      // 0 = off
  const float* top_p;        // 1 = off
  const float* min_p;        // 0 = off
  const uint64_t* seed;
  const uint32_t* choice;
  const uint32_t* position;
  const bool* logprobs = nullptr;
  const float* typical_p = nullptr;  // 1 = off
  // Row r changes the logits of tokens [adjust_starts[r], adjust_starts[r + 1]), ascending; see logit_change.h.
  const int32_t* adjust_starts = nullptr;  // [R + 1], or null: the other three too
  const int32_t* adjust_tokens = nullptr;  // [num_adjustments]
  const float* adjust_bias = nullptr;
  const float* adjust_repetition = nullptr;
  const float* adjust_minus = nullptr;
  int64_t num_adjustments = 0;
  const uint32_t* masks = nullptr;  // [num_masks][mask_words(vocab_size)]; bit t % 32 of word t / 32: t is allowed
  int32_t num_masks = 0;
  const int32_t* mask_rows = nullptr;  // -1 = none
  const int32_t* num_top = nullptr;    // alternatives wanted, at most kMostTop
  const int32_t* targets = nullptr;    // -1 = draw; else nothing is drawn, and this token is told and priced
};

struct Sampled {
  int32_t* tokens;  // [R]; -1 where no logit was usable, or none that the mask allows
  // [R]: natural log of the token's probability under the unmodified logits, for rows that ask for it, for alternatives
  // or for a target; NaN for the others.
  float* logprobs;
  // [R][num_top]: the tokens of the largest unmodified logits, equal ones by index, and their log-probabilities; -1 and
  // NaN where a row wants fewer or there are none.
  int32_t* top_tokens = nullptr;
  float* top_logprobs = nullptr;
  int32_t num_top = 0;  // the most that any row wants
};

constexpr int64_t mask_words(int64_t vocab_size) { return (vocab_size + 31) / 32; }

// Throws std::invalid_argument naming the array with a value out of range.
void check_sampling(const Sampling& sampling, int32_t num_rows, int32_t vocab_size);

// On a cache line of its own up to `change`, because every quad of every row looks at it.
struct alignas(64) RowRules {
  float temperature = 0.0f;
  int32_t top_k = 0;  // 0 also where it would keep everything
  float top_p = 1.0f;
  float lowest_z = 0.0f;  // log(min_p), -infinity = off
  float typical_p = 1.0f;
  NoiseKey key{};
  bool wants_logprob = false;
  bool is_changed = false;  // whether `change` does anything
  int32_t num_top = 0;
  int32_t target = -1;
  LogitChange change;

  RowRules() = default;
  RowRules(const Sampling& sampling, int32_t row, int32_t vocab_size);

  bool is_greedy() const { return temperature == 0.0f; }
  bool has_cuts() const;
  // Whether top-p needs the total of the whole row, not of the top-k.
  bool needs_total() const { return !is_greedy() && top_p < 1.0f && top_k == 0; }
  float z_of(float logit, float largest) const { return (logit - largest) / temperature; }
};

}  // namespace headrace
