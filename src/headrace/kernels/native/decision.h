// From what the scans of a row found to its token, its log-probability and its alternatives. Knows no threads, no
// shards and no logits but those that were kept.
#pragma once

#include "sampling.h"
#include "survivors.h"
#include "top_list.h"

namespace headrace {

// By block of the vocabulary: the largest logit and the sum of exp((logit - it) / temperature).
struct BlockSums {
  const float* maxima = nullptr;
  const float* sums = nullptr;
  size_t num_blocks = 0;  // a multiple of kBlockQuad

  // The sum of exp((logit - largest) / temperature) over all blocks, one after the other.
  double total(float largest, float temperature) const;
};

// What all scans of a row found together; what they kept besides is in a Choice.
struct RowFindings {
  Survivor first{kMinusInf, -1};  // the largest logit, the lowest index among equals
  Winner best;                    // rows without cuts
  float largest_lost = kMinusInf;
  BlockSums scaled;                     // rows that need a total
  float unchanged_largest = kMinusInf;  // this and the rest: rows that want log-probabilities
  float target_logit = kMinusInf;
  BlockSums unchanged;
  const float* entries = nullptr;  // what adjusted tokens' logits were before
  TopList top;
};

// The token: index -1 = none, Choice::kNeedsAll = the row must be scanned again and everything kept. For rows with cuts
// the choice's survivors are those kept.
Survivor decide(const RowRules& rules, const RowFindings& findings, Choice& choice);

// Writes a row's results.
void tell(const RowRules& rules, const RowFindings& findings, const Survivor& token, int32_t out_row,
          const Sampled& out);

}  // namespace headrace
