// Ops that touch one row of their buffers at a time, so that several of them run on a row while it is in the cache.
// Knows rows and their operands; not how rows are spread over threads.
#pragma once

#include "batch.h"
#include "plan.h"
#include "storage.h"

namespace headrace {

// What every row of a step shares.
struct RowContext {
  const Plan& plan;
  const Kernels& kernels;
  const Storage& storage;
  const Batch& batch;
  const TokenPlaces& places;
};

// Runs one row-wise op on one row; `scratch` holds `rowwise_scratch_floats(plan)` floats, private to the thread.
void run_row(const Op& op, const RowContext& context, int32_t row, float* scratch);

size_t rowwise_scratch_floats(const Plan& plan);

}  // namespace headrace
