// See sampling.h.
#include "sampling.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

void check_sampling(const Sampling& sampling, int32_t num_rows) {
  const auto refuse = [](const char* name, int32_t row, float value, const char* range) {
    throw std::invalid_argument(std::string("sampling: ") + name + "[" + std::to_string(row) +
                                "]: " + std::to_string(value) + " is not in " + range);
  };
  for (int32_t row = 0; row < num_rows; ++row) {
    const float temperature = sampling.temperature[row];
    if (!(temperature >= 0.0f && temperature < kInfinity)) refuse("temperature", row, temperature, "[0, inf)");
    if (sampling.top_k[row] < 0) refuse("top_k", row, static_cast<float>(sampling.top_k[row]), "[0, 2^31)");
    const float top_p = sampling.top_p[row];
    if (!(top_p > 0.0f && top_p <= 1.0f)) refuse("top_p", row, top_p, "(0, 1]");
    const float min_p = sampling.min_p[row];
    if (!(min_p >= 0.0f && min_p <= 1.0f)) refuse("min_p", row, min_p, "[0, 1]");
  }
}

RowRules::RowRules(const Sampling& sampling, int32_t row, int32_t vocab_size)
    : temperature(sampling.temperature[row]),
      top_k(sampling.top_k[row] < vocab_size ? sampling.top_k[row] : 0),
      top_p(sampling.top_p[row]),
      lowest_z(sampling.min_p[row] > 0.0f ? static_cast<float>(std::log(static_cast<double>(sampling.min_p[row])))
                                          : -kInfinity),
      key{sampling.seed[row], sampling.choice[row], sampling.position[row]},
      wants_logprob(sampling.logprobs != nullptr && sampling.logprobs[row]) {}

bool RowRules::has_cuts() const { return !is_greedy() && (top_k > 0 || top_p < 1.0f || lowest_z > -kInfinity); }

}  // namespace headrace
