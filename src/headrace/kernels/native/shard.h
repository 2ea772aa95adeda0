// What the scan of a contiguous piece of the vocabulary found of every row, to be sent elsewhere and joined with what
// neighbouring pieces found. Knows rows and bytes; not how they travel.
//
// Joining is associative, and what the whole vocabulary's findings decide has the bits of one scan of it all, however
// it was cut: sums are kept by block, and everything else is a maximum or a set. Bytes are those of the machine
// (little-endian everywhere that this runs); both ends must be the same version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "decision.h"

namespace headrace {

// Tokens [first_token, end_token) of a vocabulary: from a multiple of kQuadTokens to one, or to its end.
struct Shard {
  int32_t vocab_size, first_token, end_token;
};

// Throws std::invalid_argument naming what is wrong with it.
void check_shard(const Shard& shard);

struct RowPartial {
  Survivor first{kMinusInf, -1};
  Winner best;
  float largest_lost = kMinusInf, unchanged_largest = kMinusInf, target_logit = kMinusInf;
  std::vector<Survivor> survivors, top;
  std::vector<float> maxima, scaled_sums, unchanged_maxima, sums;  // by block of the shard, or empty
  std::vector<float> entries;                                      // of adjusted tokens in the shard
};

struct Partial {
  Shard shard{};
  std::vector<RowPartial> rows;

  std::vector<std::byte> to_bytes() const;
  // Throws std::invalid_argument for bytes that `to_bytes` did not make.
  static Partial from_bytes(std::span<const std::byte> bytes);
};

// Of two neighbours, the left one first; throws std::invalid_argument if they are not or hold different numbers of
// rows.
Partial join(Partial left, const Partial& right);

// Decides all rows by what was found of the whole vocabulary, with the sampling that it was scanned with. Returns the
// rows that every shard must scan again keeping everything, because a cut reaches below what was kept; their results
// say -1. Throws std::invalid_argument where the findings are not of all tokens or do not fit the sampling.
std::vector<int32_t> decide(const Partial& whole, const Sampling& sampling, const Sampled& out);

}  // namespace headrace
