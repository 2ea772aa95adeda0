// Runs the attention ops of a step: the cut of the batch for every shape of op, the partial sums of spans that are
// divided among threads, and their merging. Knows no arithmetic.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "attention_plan.h"
#include "storage.h"
#include "threads.h"

namespace headrace {

class AttentionStage {
 public:
  // All three must outlive this.
  AttentionStage(const Plan& plan, const Kernels& kernels, const Storage& storage);

  // Scratch that each thread needs, in floats.
  size_t scratch_floats() const { return scratch_floats_; }

  // Cuts a step's batch, once for all layers. Throws std::bad_alloc.
  void prepare(const Batch& batch, int num_threads);

  void run(Threads::Step& step, const Op& op, const Batch& batch, const std::vector<AlignedBytes>& scratch);

 private:
  struct Run;

  AttentionPlan& cut_of(const Op& op);
  void fill_rows(const AttentionPlan& cut, const Op& op, const Batch& batch);

  const Plan& plan_;
  const Kernels& kernels_;
  const Storage& storage_;
  size_t scratch_floats_ = 0;
  std::vector<AttentionPlan> cuts_;  // one for each shape of op
  std::vector<AttentionRows> rows_;  // the members of the cut that runs, as one op sees them
  AlignedBytes partials_;
  int64_t partial_floats_ = 0;
  std::unique_ptr<std::atomic<int32_t>[]> unfinished_;  // parts of each block and KV head; only where there are several
  size_t num_unfinished_ = 0;
};

}  // namespace headrace
