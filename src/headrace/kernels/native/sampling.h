// What a step asks the sampler for, as arrays of all rows, and what it gives back; and one row's share of it. Knows no
// logits.
#pragma once

#include <cstdint>

#include "noise.h"

namespace headrace {

// Parameters of all rows; arrays of length R. `logprobs` may be null: nobody asks.
struct Sampling {
  const float* temperature;  // 0 = greedy
  const int32_t* top_k;      // 0 = off
  const float* top_p;        // 1 = off
  const float* min_p;        // 0 = off
  const uint64_t* seed;
  const uint32_t* choice;
  const uint32_t* position;
  const bool* logprobs;
};

struct Sampled {
  int32_t* tokens;  // [R]; -1 where no logit was usable
  float* logprobs;  // [R]; natural log of the token's probability under the unmodified logits, NaN where not asked
};

// Throws std::invalid_argument naming the array with a value out of range.
void check_sampling(const Sampling& sampling, int32_t num_rows);

struct RowRules {
  float temperature = 0.0f;
  int32_t top_k = 0;  // 0 also where it would keep everything
  float top_p = 1.0f;
  float lowest_z = 0.0f;  // log(min_p), -infinity = off
  NoiseKey key{};
  bool wants_logprob = false;

  RowRules() = default;
  RowRules(const Sampling& sampling, int32_t row, int32_t vocab_size);

  bool is_greedy() const { return temperature == 0.0f; }
  bool has_cuts() const;
  // Whether top-p needs the total of the whole row, not of the top-k.
  bool needs_total() const { return !is_greedy() && top_p < 1.0f && top_k == 0; }
  float z_of(float logit, float largest) const { return (logit - largest) / temperature; }
};

}  // namespace headrace
