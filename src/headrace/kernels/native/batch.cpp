// The checks that keep a step inside its arrays.
#include "batch.h"

#include <stdexcept>
#include <string>

namespace headrace {
namespace {

std::string entry(const char* name, int64_t index, int64_t value) {
  return std::string(name) + "[" + std::to_string(index) + "]: " + std::to_string(value);
}

void in_range(const int32_t* values, int64_t count, int64_t limit, const char* name) {
  for (int64_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >= limit) {
      throw std::invalid_argument(entry(name, i, values[i]) + " is not in [0, " + std::to_string(limit) + ")");
    }
  }
}

void check_starts(const Batch& batch) {
  if (batch.starts[0] != 0) throw std::invalid_argument(entry("starts", 0, batch.starts[0]) + " must be 0");
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    if (batch.starts[s + 1] <= batch.starts[s]) {
      throw std::invalid_argument(entry("starts", s + 1, batch.starts[s + 1]) +
                                  " must be larger than the one before; each sequence brings at least one token");
    }
  }
  if (batch.starts[batch.num_sequences] != batch.num_tokens) {
    throw std::invalid_argument(entry("starts", batch.num_sequences, batch.starts[batch.num_sequences]) +
                                " must be the number of tokens, " + std::to_string(batch.num_tokens));
  }
}

}  // namespace

void check_batch(const Batch& batch, const Plan& plan) {
  if (batch.num_tokens < 1) throw std::invalid_argument("tokens: is empty; a step needs at least one token");
  in_range(batch.tokens, batch.num_tokens, plan.vocab_size, "tokens");
  check_starts(batch);
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    const int64_t num_new = batch.starts[s + 1] - batch.starts[s];
    const int64_t num_keys = batch.contexts[s] + num_new;
    if (batch.contexts[s] < 0 || num_keys > plan.max_positions) {
      throw std::invalid_argument(entry("contexts", s, batch.contexts[s]) + " with " + std::to_string(num_new) +
                                  " new tokens is not in [0, " + std::to_string(plan.max_positions) + "]");
    }
    const int64_t num_pages = (num_keys + kPageTokens - 1) / kPageTokens;
    if (num_pages > batch.table_width) {
      throw std::invalid_argument("page_tables: row " + std::to_string(s) + " has " +
                                  std::to_string(batch.table_width) + " pages, but " + std::to_string(num_keys) +
                                  " tokens need " + std::to_string(num_pages));
    }
    in_range(batch.page_table(s), num_pages, batch.num_pages, "page_tables");
  }
  in_range(batch.selected, batch.num_selected, batch.num_tokens, "selected");
  if (batch.segments != nullptr) in_range(batch.segments, batch.num_tokens, plan.num_segments, "segments");
}

void TokenPlaces::fill(const Batch& batch) {
  sequence.resize(static_cast<size_t>(batch.num_tokens));
  position.resize(static_cast<size_t>(batch.num_tokens));
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    for (int32_t i = batch.starts[s]; i < batch.starts[s + 1]; ++i) {
      sequence[i] = s;
      position[i] = batch.contexts[s] + i - batch.starts[s];
    }
  }
}

}  // namespace headrace
