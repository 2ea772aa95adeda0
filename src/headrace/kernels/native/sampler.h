// Drawing one token per row of logits. Knows rows and parameters; no plan, no pages, no Python.
//
// Greedy (temperature 0): the largest logit, the lowest index among equals.
// Otherwise z = (logit - largest) / temperature, and candidates are cut in this order: the top_k largest; of these, the
// fewest most probable that reach top_p of their total; of these, those with at least min_p times the largest's
// probability. The token is the candidate with the largest z + g, g standard Gumbel noise, which is a draw from the
// softmax over the candidates. Equal logits are ordered by index everywhere, so that every cut is a prefix of one
// order.
//
// Noise: Philox4x32-10, key = seed, counter = (token / 4, position, choice, 0x48656164), lane token % 4, giving r;
// u = ((r >> 9) + 0.5) / 2^23, so that no logarithm sees 0 or 1; g = -log(-log(u)) in double, rounded to float. It is a
// function of (seed, choice, position, token) alone: a row draws the same token in every batch, slot, thread and tile.
// g never exceeds 16.64, so a token (or a block of tokens) with z + 16.64 below the best so far needs no draw: exact.
//
// NaN logits count as -infinity. A row without any logit above -infinity gives token -1; the caller must fail it.
#pragma once

#include <cstdint>
#include <vector>

#include "threads.h"

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

// Working memory of the sampler for every thread, kept between steps.
class Sampler {
 public:
  // Makes room for rows of this length and this many threads. Throws std::bad_alloc.
  void reserve(int num_threads, int32_t vocab_size);

  // Samples all rows of logits [num_rows][vocab_size].
  void run(Threads::Step& step, const float* logits, int32_t num_rows, int32_t vocab_size, const Sampling& sampling,
           const Sampled& out);

 private:
  struct Scratch {
    std::vector<float> block_max;
    std::vector<float> sorted_max;
    std::vector<int32_t> order;
    std::vector<double> mass;
  };
  struct Rows;
  friend class RowSampler;

  std::vector<Scratch> scratch_;
};

}  // namespace headrace
