// See decision.h.
#include "decision.h"

#include <cmath>

namespace headrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace

double BlockSums::total(float largest, float temperature) const {
  double total = 0.0;
  for (size_t at = 0; at < num_blocks; at += kLanes) {
    const Floats weights = exp_negative((load(maxima + at) - largest) / temperature) * load(sums + at);
    total += (static_cast<double>(weights[0]) + static_cast<double>(weights[1])) +
             (static_cast<double>(weights[2]) + static_cast<double>(weights[3]));
  }
  return total;
}

Survivor decide(const RowRules& rules, const RowFindings& findings, Choice& choice) {
  if (rules.target >= 0) return {findings.target_logit, findings.unchanged_largest > kMinusInf ? rules.target : -1};
  const Survivor& first = findings.first;
  // A row with an infinite logit has no softmax and means its first infinity.
  if (rules.is_greedy() || first.index < 0 || first.logit == kInfinity) return first;
  if (!rules.has_cuts()) return findings.best.token;
  const double total = rules.needs_total() ? findings.scaled.total(first.logit, rules.temperature) : 0.0;
  return choice.choose(rules, first.logit, total, findings.largest_lost);
}

void tell(const RowRules& rules, const RowFindings& findings, const Survivor& token, int32_t out_row,
          const Sampled& out) {
  out.tokens[out_row] = token.index;
  out.logprobs[out_row] = kNaN;
  int32_t* top_tokens = out.top_tokens + static_cast<int64_t>(out_row) * out.num_top;
  float* top_logprobs = out.top_logprobs + static_cast<int64_t>(out_row) * out.num_top;
  std::fill_n(top_tokens, out.num_top, -1);
  std::fill_n(top_logprobs, out.num_top, kNaN);
  if (!rules.wants_logprob) return;
  const float largest = findings.unchanged_largest;
  const double log_total = std::log(findings.unchanged.total(largest, 1.0f));
  const auto logprob_of = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit - largest) - log_total);
  };
  if (token.index >= 0) {
    out.logprobs[out_row] = logprob_of(rules.change.before(token.index, token.logit, findings.entries));
  }
  for (const Survivor& other : findings.top) {
    *top_tokens++ = other.index;
    *top_logprobs++ = logprob_of(other.logit);
  }
}

}  // namespace headrace
