// What one row changes about its logits before it draws: a grammar's mask, a bias, penalties. Applied quad by quad
// where the logits are computed. Knows no temperature and no cuts.
//
// A token's entry makes of its logit l:  repeat(l + bias, repetition) - minus, in float, with
//   repeat(x, r) = x / r if x > 0 else x * r   (Keskar et al. 2019, arXiv 1909.05858)
// `minus` is what presence and frequency penalties add up to. Tokens that the mask does not allow become -infinity.
#pragma once

#include <cstdint>

#include "logit_blocks.h"

namespace headrace {

struct LogitChange {
  const int32_t* tokens = nullptr;  // [count], strictly ascending
  const float* bias = nullptr;
  const float* repetition = nullptr;
  const float* minus = nullptr;
  int32_t count = 0;
  const uint32_t* mask = nullptr;  // null = everything is allowed
  int32_t num_mask_words = 0;

  // The row's logits of a quad after its changes, in `changed`; false, with nothing written, where it has none there.
  // What adjusted tokens were before goes to their places in `unchanged` [count].
  bool apply(int32_t quad, const float* logits, float changed[kQuadTokens], float* unchanged) const;

  // What a token's logit was before: `logit` unless it has an entry.
  float before(int32_t token, float logit, const float* unchanged) const;

 private:
  int32_t first_of(int32_t token) const;  // the first entry that is not below it
};

}  // namespace headrace
