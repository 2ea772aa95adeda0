// See logit_change.h.
#include "logit_change.h"

#include <algorithm>

namespace headrace {
namespace {

constexpr int32_t kWordTokens = 32;
constexpr uint32_t kAll = 0xFFFFFFFFu;

// -infinity for tokens whose bits are not set.
void hide(uint32_t word, float* logits) {
  if (word == kAll) return;
  const Ints bits = {1, 2, 4, 8};
  for (int32_t i = 0; i < kWordTokens; i += kLanes) {
    const auto four = static_cast<int32_t>(word >> i & 15u);
    const Ints is_allowed = (Ints{four, four, four, four} & bits) != 0;
    const Floats kept = is_allowed ? load(logits + i) : splat(kMinusInf);
    std::memcpy(logits + i, &kept, sizeof kept);
  }
}

}  // namespace

int32_t LogitChange::first_of(int32_t token) const {
  return static_cast<int32_t>(std::lower_bound(tokens, tokens + count, token) - tokens);
}

bool LogitChange::apply(int32_t quad, const float* logits, float changed[kQuadTokens], float* unchanged) const {
  const int32_t first = quad * kQuadTokens;
  int32_t entry = count == 0 ? 0 : first_of(first);
  const bool has_entries = entry < count && tokens[entry] < first + kQuadTokens;
  uint32_t words[kQuadTokens / kWordTokens];
  uint32_t all = kAll;
  if (mask != nullptr) {
    const int32_t first_word = first / kWordTokens;
    for (int32_t i = 0; i < kQuadTokens / kWordTokens; ++i) {
      // Beyond the vocabulary there is nothing to hide.
      words[i] = first_word + i < num_mask_words ? mask[first_word + i] : kAll;
      all &= words[i];
    }
  }
  if (!has_entries && all == kAll) return false;
  std::copy_n(logits, kQuadTokens, changed);
  for (; entry < count && tokens[entry] < first + kQuadTokens; ++entry) {
    const int32_t i = tokens[entry] - first;
    unchanged[entry] = logits[i];
    const float biased = logits[i] + bias[entry];
    const float repeated = biased > 0.0f ? biased / repetition[entry] : biased * repetition[entry];
    changed[i] = repeated - minus[entry];
  }
  if (all != kAll) {
    for (int32_t i = 0; i < kQuadTokens / kWordTokens; ++i) hide(words[i], changed + i * kWordTokens);
  }
  return true;
}

float LogitChange::before(int32_t token, float logit, const float* unchanged) const {
  const int32_t entry = count == 0 ? 0 : first_of(token);
  return entry < count && tokens[entry] == token ? unchanged[entry] : logit;
}

}  // namespace headrace
