// One step's ragged batch: the caller's arrays, checked, and what follows from them for each token. Knows no plan's
// ops.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace headrace {

// The caller's arrays; they live as long as the step.
struct Batch {
  uint16_t* pool;  // [num_pages][num_layers][num_kv_heads][2][head_dim * 32]
  int64_t num_pages;
  const int32_t* tokens;
  int32_t num_tokens;
  const int32_t* starts;  // [num_sequences + 1]
  const int32_t* contexts;
  int32_t num_sequences;
  const int32_t* page_tables;  // [num_sequences][table_width]
  int64_t table_width;
  const int32_t* selected;
  int32_t num_selected;

  const int32_t* page_table(int32_t sequence) const { return page_tables + sequence * table_width; }
};

// Throws std::invalid_argument naming the array whose values do not fit the plan or each other.
void check_batch(const Batch& batch, const Plan& plan);

// Where each token of a batch stands.
struct TokenPlaces {
  std::vector<int32_t> sequence;
  std::vector<int32_t> position;

  void fill(const Batch& batch);
};

}  // namespace headrace
