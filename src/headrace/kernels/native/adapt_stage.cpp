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
  for (Runs* runs : {&token_runs_, &selected_runs_}) {
    runs->adapted.clear();
    runs->all.clear();
  }
  if (!has_ops_ || batch.adapters == nullptr) return;
  for (int32_t row = 0; row < batch.num_tokens; ++row) {
    add_row(token_runs_, batch.adapters[places.sequence[static_cast<size_t>(row)]], row);
  }
  for (int32_t row = 0; row < batch.num_selected; ++row) {
    add_row(selected_runs_, batch.adapters[places.sequence[static_cast<size_t>(batch.selected[row])]], row);
  }
  inner_stride_ = 0;
  for (const Run& run : token_runs_.adapted)
    inner_stride_ = std::max<int64_t>(inner_stride_, run.adapter->most_ranks());
  const int64_t rows = std::max(batch.num_tokens, batch.num_selected);
  inner_.resize(std::max(inner_.size(), static_cast<size_t>(rows * inner_stride_)));
}

void AdaptStage::add_row(Runs& runs, const Adapter* adapter, int32_t row) {
  const auto add_to = [&](std::vector<Run>& list) {
    if (!list.empty()) {
      Run& last = list.back();
      if (last.adapter == adapter && last.first + last.count == row && last.count < kMostRunRows) {
        ++last.count;
        return;
      }
    }
    list.push_back({adapter, row, 1});
  };
  add_to(runs.all);
  if (adapter != nullptr) add_to(runs.adapted);
}

struct AdaptStage::Tasks {
  AdaptStage& stage;
  const Op& op;
  const std::vector<Run>& runs;
  int32_t num_shares;  // of every run
  Sequel sequel{};

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

  // The same, and what follows, which rows without an adapter have as well.
  static void both_and_sequel(const void* self, int32_t task, int thread) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const Run& run = tasks.runs[static_cast<size_t>(task)];
    if (run.adapter != nullptr) both(self, task, thread);
    for (int32_t i = 0; i < run.count; ++i) tasks.sequel.run_row(tasks.sequel.context, run.first + i, thread);
  }

  float* inner(const Run& run) const { return stage.inner_.data() + run.first * stage.inner_stride_; }
};

const AdaptStage::Runs& AdaptStage::runs_of(const Op& op) const {
  return plan_.buffers[op.x].rows == Rows::kTokens ? token_runs_ : selected_runs_;
}

bool AdaptStage::takes_sequel(const Threads::Step& step, const Op& op) const {
  const auto num_runs = static_cast<int32_t>(runs_of(op).adapted.size());
  return num_runs > 0 && num_runs >= step.count() * kRunsPerThread;
}

void AdaptStage::run_with(Threads::Step& step, const Op& op, const Sequel& sequel) {
  const std::vector<Run>& runs = runs_of(op).all;
  const Tasks tasks{*this, op, runs, 1, sequel};
  step.run(static_cast<int32_t>(runs.size()), &Tasks::both_and_sequel, &tasks);
}

void AdaptStage::run(Threads::Step& step, const Op& op) {
  const std::vector<Run>& runs = runs_of(op).adapted;
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
