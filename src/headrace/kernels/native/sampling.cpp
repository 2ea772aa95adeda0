// See sampling.h.
#include "sampling.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
void refuse(const char* name, int64_t entry, T value, const std::string& range) {
  throw std::invalid_argument(std::string("sampling: ") + name + "[" + std::to_string(entry) +
                              "]: " + std::to_string(value) + " is not in " + range);
}

// As mathematics writes the integers from `low` to below `past`.
std::string range_of(int64_t low, int64_t past) {
  std::string text = "[";
  text += std::to_string(low);
  text += ", ";
  text += std::to_string(past);
  text += ")";
  return text;
}

void check_adjustments(const Sampling& sampling, int32_t num_rows, int32_t vocab_size) {
  const int32_t* starts = sampling.adjust_starts;
  if (starts == nullptr) return;
  if (starts[0] != 0) refuse("adjust_starts", 0, starts[0], range_of(0, 1));
  if (starts[num_rows] != sampling.num_adjustments) {
    throw std::invalid_argument("sampling: adjust_starts[" + std::to_string(num_rows) +
                                "]: " + std::to_string(starts[num_rows]) + " must be the length of adjust_tokens, " +
                                std::to_string(sampling.num_adjustments));
  }
  // Before any entry is looked at.
  for (int32_t row = 0; row < num_rows; ++row) {
    if (starts[row + 1] < starts[row]) {
      refuse("adjust_starts", row + 1, starts[row + 1], range_of(starts[row], sampling.num_adjustments + 1));
    }
  }
  for (int32_t row = 0; row < num_rows; ++row) {
    int32_t lowest = 0;
    for (int32_t i = starts[row]; i < starts[row + 1]; ++i) {
      const int32_t token = sampling.adjust_tokens[i];
      if (token < lowest || token >= vocab_size) {
        refuse("adjust_tokens", i, token, range_of(lowest, vocab_size) + ", ascending within a row");
      }
      lowest = token + 1;
      if (!(sampling.adjust_bias[i] < kInfinity)) refuse("adjust_bias", i, sampling.adjust_bias[i], "[-inf, inf)");
      const float repetition = sampling.adjust_repetition[i];
      if (!(repetition > 0.0f && repetition < kInfinity)) refuse("adjust_repetition", i, repetition, "(0, inf)");
      if (!std::isfinite(sampling.adjust_minus[i])) refuse("adjust_minus", i, sampling.adjust_minus[i], "(-inf, inf)");
    }
  }
}

}  // namespace

void check_sampling(const Sampling& sampling, int32_t num_rows, int32_t vocab_size) {
  for (int32_t row = 0; row < num_rows; ++row) {
    const float temperature = sampling.temperature[row];
    if (!(temperature >= 0.0f && temperature < kInfinity)) refuse("temperature", row, temperature, "[0, inf)");
    if (sampling.top_k[row] < 0) refuse("top_k", row, sampling.top_k[row], "[0, 2^31)");
    const float top_p = sampling.top_p[row];
    if (!(top_p > 0.0f && top_p <= 1.0f)) refuse("top_p", row, top_p, "(0, 1]");
    const float min_p = sampling.min_p[row];
    if (!(min_p >= 0.0f && min_p <= 1.0f)) refuse("min_p", row, min_p, "[0, 1]");
    const float typical_p = sampling.typical_p == nullptr ? 1.0f : sampling.typical_p[row];
    if (!(typical_p > 0.0f && typical_p <= 1.0f)) refuse("typical_p", row, typical_p, "(0, 1]");
    const int32_t mask = sampling.mask_rows == nullptr ? -1 : sampling.mask_rows[row];
    if (mask < -1 || mask >= sampling.num_masks) {
      refuse("mask_rows", row, mask, range_of(-1, sampling.num_masks) + ", the rows of masks");
    }
    if (sampling.num_top != nullptr && (sampling.num_top[row] < 0 || sampling.num_top[row] > kMostTop)) {
      refuse("num_top", row, sampling.num_top[row], range_of(0, kMostTop + 1));
    }
    const int32_t target = sampling.targets == nullptr ? -1 : sampling.targets[row];
    if (target < -1 || target >= vocab_size) {
      refuse("targets", row, target, range_of(-1, vocab_size));
    }
  }
  check_adjustments(sampling, num_rows, vocab_size);
}

RowRules::RowRules(const Sampling& sampling, int32_t row, int32_t vocab_size)
    : temperature(sampling.temperature[row]),
      top_k(sampling.top_k[row] < vocab_size ? sampling.top_k[row] : 0),
      top_p(sampling.top_p[row]),
      lowest_z(sampling.min_p[row] > 0.0f ? static_cast<float>(std::log(static_cast<double>(sampling.min_p[row])))
                                          : -kInfinity),
      key{sampling.seed[row], sampling.choice[row], sampling.position[row]},
      wants_logprob(sampling.logprobs != nullptr && sampling.logprobs[row]) {
  if (sampling.typical_p != nullptr) typical_p = sampling.typical_p[row];
  if (sampling.num_top != nullptr) num_top = sampling.num_top[row];
  if (sampling.targets != nullptr) target = sampling.targets[row];
  wants_logprob = wants_logprob || num_top > 0 || target >= 0;
  if (target >= 0) {
    temperature = 0.0f;  // nothing is drawn, so nothing is cut or changed for it
    return;
  }
  if (sampling.adjust_starts != nullptr) {
    const int32_t first = sampling.adjust_starts[row];
    change.tokens = sampling.adjust_tokens + first;
    change.bias = sampling.adjust_bias + first;
    change.repetition = sampling.adjust_repetition + first;
    change.minus = sampling.adjust_minus + first;
    change.count = sampling.adjust_starts[row + 1] - first;
  }
  if (sampling.mask_rows != nullptr && sampling.mask_rows[row] >= 0) {
    change.num_mask_words = static_cast<int32_t>(mask_words(vocab_size));
    change.mask = sampling.masks + int64_t{sampling.mask_rows[row]} * change.num_mask_words;
  }
  is_changed = change.count > 0 || change.mask != nullptr;
}

bool RowRules::has_cuts() const {
  return !is_greedy() && (top_k > 0 || top_p < 1.0f || lowest_z > -kInfinity || typical_p < 1.0f);
}

}  // namespace headrace
