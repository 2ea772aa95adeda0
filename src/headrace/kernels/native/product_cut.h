// How products of weights and activations are cut into tasks. Knows sizes and a rough price of work; no plan, no
// threads. A cut never shows in the results, because no kernel's float order depends on its range.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"

namespace headrace {

// Token chunks outside, so that their activations stay near, row units (blocks or pairs of blocks) inside.
struct ProductCut {
  int32_t num_tokens, tokens_per_task;
  int32_t num_units, units_per_task;
  int32_t unit_chunks;  // tasks per token chunk

  int32_t num_tasks() const { return unit_chunks * ((num_tokens + tokens_per_task - 1) / tokens_per_task); }

  struct Range {
    int32_t token, num_tokens, unit_begin, unit_end;
  };
  Range range(int32_t task) const {
    const int32_t token = task / unit_chunks * tokens_per_task;
    const int32_t unit = task % unit_chunks * units_per_task;
    return {token, std::min(tokens_per_task, num_tokens - token), unit, std::min(unit + units_per_task, num_units)};
  }
};

inline constexpr int32_t kBlocksPerPair = 2 * kGroup / kTileRows;

// blocks_per_unit: row blocks that stay together, 1 for a plain product and kBlocksPerPair for a gated one.
ProductCut cut_product(const MatrixView& matrix, int32_t blocks_per_unit, int32_t num_tokens, int num_threads);

// For several products that are one stage: the nanoseconds of one thread that a product is worth, those that a task of
// so much work should take, and the cut of one product into such tasks.
double product_ns(const MatrixView& matrix, int32_t num_tokens);
double task_ns(double total_ns, int num_threads);
ProductCut cut_product_by(const MatrixView& matrix, int32_t blocks_per_unit, int32_t num_tokens, double task_ns);

}  // namespace headrace
