// The few largest logits of a row, in order: what `top_logprobs` tells. Knows one row's logits as they come.
#pragma once

#include <algorithm>

#include "logit_blocks.h"
#include "sampling.h"
#include "survivors.h"

namespace headrace {

class TopList {
 public:
  void begin(int32_t most) {
    most_ = most;
    count_ = 0;
  }

  const Survivor* begin() const { return entries_; }
  const Survivor* end() const { return entries_ + count_; }
  int32_t size() const { return count_; }

  // A quad's logits, and the largest of each of its blocks.
  void add_quad(const float* logits, const float* maxima, int32_t first_token) {
    if (most_ == 0) return;
    for (int32_t b = 0; b < kBlockQuad; ++b) {
      if (!is_wanted(maxima[b])) continue;
      for (int32_t i = b * kBlock; i < (b + 1) * kBlock; ++i) {
        if (is_wanted(logits[i])) add({logits[i], first_token + i});
      }
    }
  }

  void add(const Survivor& token) {
    if (count_ == most_ && !(most_ > 0 && token.comes_before(entries_[count_ - 1]))) return;
    int32_t place = count_ < most_ ? count_++ : count_ - 1;
    for (; place > 0 && token.comes_before(entries_[place - 1]); --place) entries_[place] = entries_[place - 1];
    entries_[place] = token;
  }

 private:
  bool is_wanted(float logit) const {
    return logit > kMinusInf && (count_ < most_ || logit >= entries_[count_ - 1].logit);
  }

  Survivor entries_[kMostTop];
  int32_t most_ = 0, count_ = 0;
};

}  // namespace headrace
