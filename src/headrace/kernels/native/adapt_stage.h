// The adapters' stage: rows of one adapter that stand together are a run, and each run meets its adapter's factors.
// Rows without an adapter are not touched. Knows rows and adapters; not who owns them.
#pragma once

#include <vector>

#include "adapter.h"
#include "batch.h"
#include "plan.h"
#include "storage.h"
#include "threads.h"

namespace headrace {

class AdaptStage {
 public:
  // All must outlive this.
  AdaptStage(const Plan& plan, const Kernels& kernels, const Storage& storage);

  // Finds the runs of a step. Throws std::bad_alloc.
  void prepare(const Batch& batch, const TokenPlaces& places);

  // Adds what the runs' adapters give for an ADAPT op.
  void run(Threads::Step& step, const Op& op);

 private:
  struct Run {
    const Adapter* adapter;
    int32_t first, count;  // rows
  };
  struct Tasks;

  void add_row(std::vector<Run>& runs, const Adapter* adapter, int32_t row);

  const Plan& plan_;
  const Kernels& kernels_;
  const Storage& storage_;
  bool has_ops_ = false;
  std::vector<Run> token_runs_, selected_runs_;
  std::vector<float> inner_;  // A x, [rows][inner_stride_]
  int64_t inner_stride_ = 0;
};

}  // namespace headrace
