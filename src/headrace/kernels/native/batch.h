// One step's ragged batch: the caller's arrays, checked, and what follows from them for each token. Knows no plan's
// ops.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace headrace {

class Adapter;

// The caller's arrays; they live as long as the step.
struct Batch {
  uint8_t* pool;  // [num_pages][num_layers][num_kv_heads] planes, as PagesView says
  KvKind kv_kind;
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
  const int32_t* segments = nullptr;         // [num_tokens]; null: all of segment 0
  const Adapter* const* adapters = nullptr;  // [num_sequences], null for sequences without one; null: nobody has one

  const int32_t* page_table(int32_t sequence) const { return page_tables + sequence * table_width; }

  PagesView pages(const CacheShape& cache, int32_t layer) const {
    const int64_t plane = kv_plane_bytes(kv_kind, cache.head_dim);
    const int64_t layer_stride = plane * cache.num_kv_heads;
    return {pool, layer_stride * cache.num_layers, layer_stride * layer, plane, kv_kind};
  }
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
