// Cutting runs into tasks; see adapt_stage.h.
#include "adapt_stage.h"

#include <algorithm>

namespace headrace {
namespace {

// Rows of a run: their activations stay in the first-level cache beside the factors that stream past.
constexpr int32_t kMostRunRows = 32;

// With fewer runs than this for each thread, a run's outputs are shared out too.
constexpr int32_t kRunsPerThread = 2;

struct Range {
  int32_t begin, end;
};

Range share(int32_t count, int32_t index, int32_t num_shares) {
  return {static_cast<int32_t>(int64_t{count} * index / num_shares),
          static_cast<int32_t>(int64_t{count} * (index + 1) / num_shares)};
}

}  // namespace

AdaptStage::AdaptStage(const Plan& plan, const Kernels& kernels, const Storage& storage)
    : plan_(plan), kernels_(kernels), storage_(storage) {
  has_ops_ = std::ranges::any_of(plan.ops, [](const Op& op) { return op.kind == OpKind::kAdapt; });
}

void AdaptStage::prepare(const Batch& batch, const TokenPlaces& places) {
  token_runs_.clear();
  selected_runs_.clear();
  if (!has_ops_ || batch.adapters == nullptr) return;
  for (int32_t row = 0; row < batch.num_tokens; ++row) {
    add_row(token_runs_, batch.adapters[places.sequence[static_cast<size_t>(row)]], row);
  }
  for (int32_t row = 0; row < batch.num_selected; ++row) {
    add_row(selected_runs_, batch.adapters[places.sequence[static_cast<size_t>(batch.selected[row])]], row);
  }
  inner_stride_ = 0;
  for (const Run& run : token_runs_) inner_stride_ = std::max<int64_t>(inner_stride_, run.adapter->most_ranks());
  const int64_t rows = std::max(batch.num_tokens, batch.num_selected);
  inner_.resize(std::max(inner_.size(), static_cast<size_t>(rows * inner_stride_)));
}

void AdaptStage::add_row(std::vector<Run>& runs, const Adapter* adapter, int32_t row) {
  if (adapter == nullptr) return;
  if (!runs.empty()) {
    Run& last = runs.back();
    if (last.adapter == adapter && last.first + last.count == row && last.count < kMostRunRows) {
      ++last.count;
      return;
    }
  }
  runs.push_back({adapter, row, 1});
}

struct AdaptStage::Tasks {
  AdaptStage& stage;
  const Op& op;
  const std::vector<Run>& runs;
  int32_t num_shares;  // of every run

  // Share `task % num_shares` of run `task / num_shares`: some rows of A ...
  static void shrink(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const Run& run = tasks.runs[static_cast<size_t>(task / tasks.num_shares)];
    const AdaptedMatrix* matrix = run.adapter->find(tasks.op.matrix);
    if (matrix == nullptr) return;
    const Range blocks = share(matrix->a.row_blocks, task % tasks.num_shares, tasks.num_shares);
    if (blocks.begin == blocks.end) return;
    tasks.stage.kernels_.linear({.matrix = matrix->a,
                                 .x = tasks.stage.storage_.q8(tasks.op.x, run.first),
                                 .num_tokens = run.count,
                                 .block_begin = blocks.begin,
                                 .block_end = blocks.end,
                                 .bias = nullptr,
                                 .out = tasks.inner(run),
                                 .stride = tasks.stage.inner_stride_,
                                 .accumulate = false});
  }

  // ... some outputs of every B ...
  static void expand(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const Run& run = tasks.runs[static_cast<size_t>(task / tasks.num_shares)];
    const AdaptedMatrix* matrix = run.adapter->find(tasks.op.matrix);
    if (matrix == nullptr) return;
    for (const AdapterPart& part : matrix->parts) {
      const int32_t num_blocks = (part.b.rows + kLowRankBlock - 1) / kLowRankBlock;
      const Range blocks = share(num_blocks, task % tasks.num_shares, tasks.num_shares);
      tasks.stage.kernels_.add_low_rank({.b = part.b,
                                         .u = tasks.inner(run) + part.first_rank,
                                         .u_stride = tasks.stage.inner_stride_,
                                         .num_tokens = run.count,
                                         .block_begin = blocks.begin,
                                         .block_end = blocks.end,
                                         .out = tasks.stage.storage_.f32(tasks.op.out, run.first) + part.offset,
                                         .stride = tasks.stage.plan_.buffers[tasks.op.out].width,
                                         .block_step = part.block_step});
    }
  }

  // ... or, where every run is one task, both.
  static void both(const void* self, int32_t task, int thread) {
    shrink(self, task, thread);
    expand(self, task, thread);
  }

  float* inner(const Run& run) const { return stage.inner_.data() + run.first * stage.inner_stride_; }
};

void AdaptStage::run(Threads::Step& step, const Op& op) {
  const bool has_tokens = plan_.buffers[op.x].rows == Rows::kTokens;
  const std::vector<Run>& runs = has_tokens ? token_runs_ : selected_runs_;
  if (runs.empty()) return;
  const auto num_runs = static_cast<int32_t>(runs.size());
  const int32_t wanted = step.count() == 1 ? 1 : step.count() * kRunsPerThread;
  const Tasks tasks{*this, op, runs, num_runs >= wanted ? 1 : (wanted + num_runs - 1) / num_runs};
  if (tasks.num_shares == 1) {
    step.run(num_runs, &Tasks::both, &tasks);
    return;
  }
  step.run(num_runs * tasks.num_shares, &Tasks::shrink, &tasks);
  step.run(num_runs * tasks.num_shares, &Tasks::expand, &tasks);
}

}  // namespace headrace
