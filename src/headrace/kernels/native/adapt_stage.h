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

  // What follows an ADAPT op row by row.
  struct Sequel {
    const void* context;
    void (*run_row)(const void* context, int32_t row, int thread);
  };
  // Whether there are so many runs that each is one task, which may then do its rows' sequel as well.
  bool takes_sequel(const Threads::Step& step, const Op& op) const;
  // As `run`, and the sequel for every row, with an adapter or without: no waiting for each other in between.
  void run_with(Threads::Step& step, const Op& op, const Sequel& sequel);

 private:
  struct Run {
    const Adapter* adapter;  // null in `Runs::all` only
    int32_t first, count;    // rows
  };
  struct Runs {
    std::vector<Run> adapted, all;
  };
  struct Tasks;

  void add_row(Runs& runs, const Adapter* adapter, int32_t row);
  const Runs& runs_of(const Op& op) const;

  const Plan& plan_;
  const Kernels& kernels_;
  const Storage& storage_;
  bool has_ops_ = false;
  Runs token_runs_, selected_runs_;
  std::vector<float> inner_;  // A x, [rows][inner_stride_]
  int64_t inner_stride_ = 0;
};

}  // namespace headrace
