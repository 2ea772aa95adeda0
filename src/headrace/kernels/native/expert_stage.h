// The experts' stage of a mixture of experts: rows are sorted by expert, each expert that was chosen at all meets its
// rows in one product, and every row adds up what its experts gave. Weights of other experts are not touched. Knows
// rows and the numbers a router wrote; not how it came to them.
//
// A row's result does not depend on which rows share its experts: no product's float order depends on its range, and
// what the experts gave is added in the order of the row's own choices. So many rows are done in several passes, which
// bounds the memory: what a pass holds grows with the choices of its rows.
#pragma once

#include <vector>

#include "batch.h"
#include "plan.h"
#include "product_cut.h"
#include "storage.h"
#include "threads.h"

namespace headrace {

class ExpertStage {
 public:
  // All must outlive this.
  ExpertStage(const Plan& plan, const Kernels& kernels, const Storage& storage);

  // Makes room for a step. Throws std::bad_alloc.
  void prepare(const Batch& batch);

  // Runs an EXPERTS op on so many rows, at least one.
  void run(Threads::Step& step, const Op& op, int32_t num_rows);

  // Experts whose weights were read since `prepare`, counted once for every pass of an op that read them.
  int64_t num_touched() const { return num_touched_; }

 private:
  // The choices of one expert: places [first, first + count) of all choices sorted by expert, rows in order within.
  struct Run {
    int32_t expert, first, count;
    ProductCut up, down;
    int32_t first_up, first_down;  // tasks
  };
  struct Tasks;

  void run_pass(Threads::Step& step, const Op& op, int32_t first_row, int32_t num_rows);
  void sort(const Op& op, int32_t first_row, int32_t num_rows);
  void cut(const Op& op, int num_threads);
  void lay_out(const Op& op);
  void gather(int32_t begin, int32_t end, const Op& op);

  const Plan& plan_;
  const Kernels& kernels_;
  const Storage& storage_;
  int64_t most_choices_[2] = {0, 0};  // of a row, by the kind of rows
  int64_t capacity_ = 0;              // choices
  AlignedBytes memory_;
  Q8View gathered_{}, inner_{};  // by place
  float* given_ = nullptr;       // what experts gave, by place
  std::vector<int32_t> rows_;    // of every place
  std::vector<int32_t> places_;  // of every choice, row after row
  std::vector<int32_t> next_;    // of every expert, while sorting
  std::vector<Run> runs_;
  int64_t num_touched_ = 0;
  bool has_shared_ = false;  // whether an expert has more than one row
};

}  // namespace headrace
