// Cutting stages into tasks, and running them; see program.h.
#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "product_cut.h"
#include "rowwise.h"

namespace headrace {
namespace {

// Fewer rows than this are done by the caller: a hand-over costs as much as a few rows.
constexpr int32_t kRowsAlone = 6;
constexpr int32_t kRowsPerTask = 16;
// Neighbouring tokens of a sequence write into the same lines of a page's keys; two threads that share a page pass
// those lines to and fro, which took three times as long as the writing. From this many rows on, a task gets whole
// pages' worth.
constexpr int32_t kStoredAlone = 8;
constexpr int32_t kStoredPerTask = 2 * kPageTokens;

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

// Adds the time since the last lap to the next stage; costs nothing where nobody asked.
class StageClock {
 public:
  explicit StageClock(std::vector<double>& seconds) : seconds_(seconds) {
    if (!seconds_.empty()) last_ = Clock::now();
  }

  void lap() {
    if (seconds_.empty()) return;
    const Clock::time_point now = Clock::now();
    seconds_[next_++] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::vector<double>& seconds_;
  size_t next_ = 0;
  Clock::time_point last_;
};

}  // namespace

struct Program::RowRun {
  const Op* ops;
  size_t num_ops;
  RowContext context;
  int32_t num_rows, rows_per_task;
  const std::vector<AlignedBytes>& scratch;

  static void run(const void* self, int32_t task, int thread) {
    const auto& run = *static_cast<const RowRun*>(self);
    auto* scratch = reinterpret_cast<float*>(run.scratch[static_cast<size_t>(thread)].get());
    const int32_t begin = task * run.rows_per_task;
    const int32_t end = std::min(begin + run.rows_per_task, run.num_rows);
    for (int32_t row = begin; row < end; ++row) {
      for (size_t i = 0; i < run.num_ops; ++i) run_row(run.ops[i], run.context, row, scratch);
    }
  }

  static void run_one(const void* self, int32_t row, int thread) {
    const auto& run = *static_cast<const RowRun*>(self);
    auto* scratch = reinterpret_cast<float*>(run.scratch[static_cast<size_t>(thread)].get());
    for (size_t i = 0; i < run.num_ops; ++i) run_row(run.ops[i], run.context, row, scratch);
  }
};

struct Program::LinearRun {
  const Program& program;
  const Op& op;
  const Kernels& kernels;
  MatrixView matrix;
  ProductCut cut;

  static void run(const void* self, int32_t task, int) {
    const auto& run = *static_cast<const LinearRun*>(self);
    const Storage& storage = run.program.storage_;
    const ProductCut::Range range = run.cut.range(task);
    run.kernels.linear({.matrix = run.matrix,
                        .x = storage.q8(run.op.x, range.token),
                        .num_tokens = range.num_tokens,
                        .block_begin = range.unit_begin,
                        .block_end = range.unit_end,
                        .bias = run.op.vector < 0 ? nullptr : run.program.plan_.vectors[run.op.vector].data,
                        .out = storage.f32(run.op.out, range.token),
                        .stride = run.program.plan_.buffers[run.op.out].width,
                        .accumulate = run.op.accumulate != 0});
  }
};

struct Program::GatedRun {
  const Program& program;
  const Op& op;
  const Kernels& kernels;
  MatrixView matrix;
  ProductCut cut;

  static void run(const void* self, int32_t task, int) {
    const auto& run = *static_cast<const GatedRun*>(self);
    const ProductCut::Range range = run.cut.range(task);
    run.kernels.gated({.matrix = run.matrix,
                       .x = run.program.storage_.q8(run.op.x, range.token),
                       .num_tokens = range.num_tokens,
                       .pair_begin = range.unit_begin,
                       .pair_end = range.unit_end,
                       .activation = static_cast<Activation>(run.op.activation),
                       .out = run.program.output(run.op.out, range.token)});
  }
};

struct Program::ActivatedRun {
  const Program& program;
  const Op& op;
  const Kernels& kernels;
  MatrixView matrix;
  ProductCut cut;

  static void run(const void* self, int32_t task, int) {
    const auto& run = *static_cast<const ActivatedRun*>(self);
    const ProductCut::Range range = run.cut.range(task);
    run.kernels.activated({.matrix = run.matrix,
                           .x = run.program.storage_.q8(run.op.x, range.token),
                           .num_tokens = range.num_tokens,
                           .group_begin = range.unit_begin,
                           .group_end = range.unit_end,
                           .bias = run.op.vector < 0 ? nullptr : run.program.plan_.vectors[run.op.vector].data,
                           .activation = static_cast<Activation>(run.op.activation),
                           .rotates = run.op.rotates != 0,
                           .out = run.program.output(run.op.out, range.token)});
  }
};

Program::Program(Plan plan, const Kernels& kernels)
    : plan_(std::move(plan)),
      kernels_(kernels),
      storage_(plan_),
      attention_(plan_, attention_kernels(kernels_, plan_.cache.head_dim), storage_),
      adapt_(plan_, kernels_, storage_),
      experts_(plan_, kernels_, storage_),
      scratch_floats_(std::max(rowwise_scratch_floats(plan_), attention_.scratch_floats())) {
  if (Head::num_ops(plan_) > 0) head_.emplace(plan_, kernels_);
  for (size_t i = 0; i < plan_.ops.size(); ++i) {
    const Op& op = plan_.ops[i];
    const Rows rows = rows_of(plan_, op);
    const bool is_row_op = is_rowwise(op.kind);
    if (!stages_.empty() && is_row_op && stages_.back().is_rowwise && stages_.back().rows == rows) {
      stages_.back().end = i + 1;
    } else {
      stages_.push_back({i, i + 1, is_row_op, rows, false});
    }
    stages_.back().stores |= op.kind == OpKind::kStoreKv;
  }
}

int32_t Program::num_rows(Rows rows, const Batch& batch) const {
  return rows == Rows::kTokens ? batch.num_tokens : batch.num_selected;
}

Output Program::output(int32_t buffer, int64_t row) const { return storage_.output(buffer, row); }

void Program::step(Threads& threads, const Batch& batch, const StepResults& results) {
  check_batch(batch, plan_);
  if (results.sampling != nullptr && plan_.buffers[plan_.output].width != plan_.vocab_size) {
    throw std::invalid_argument("sampling: this program gives no logits");
  }
  if (results.sampling != nullptr) check_sampling(*results.sampling, batch.num_selected, plan_.vocab_size);
  struct Busy {
    explicit Busy(std::atomic<bool>& flag) : flag(flag) {
      if (flag.exchange(true, std::memory_order_acquire)) {
        throw std::runtime_error("this program is already running a step; make one program per engine thread");
      }
    }
    ~Busy() { flag.store(false, std::memory_order_release); }
    std::atomic<bool>& flag;
  };
  const Busy busy(is_busy_);
  Threads::Step step(threads);
  prepare(step.count(), batch);
  const bool is_fused = head_.has_value() && results.output == nullptr;
  const size_t head_begin = is_fused ? plan_.ops.size() - Head::num_ops(plan_) : plan_.ops.size();
  if (!is_fused) lend_output(batch, results.output);
  StageClock clock(stage_seconds_);
  for (size_t i = 0; i < stages_.size(); ++i) {
    if (stages_[i].begin >= head_begin) {
      if (stages_[i].begin == head_begin) run_head(step, batch, results);
    } else if (adapts_with_rows(step, i)) {
      run_adapted_rows(step, stages_[i], stages_[i + 1], batch);
      clock.lap();
      ++i;
    } else {
      run_stage(step, stages_[i], batch);
    }
    clock.lap();
  }
  if (batch.num_selected == 0) return;
  if (results.sampling != nullptr && !is_fused) {
    const StoredLogits logits(storage_.f32(plan_.output, 0), plan_.vocab_size);
    sampler_.run(step, logits, batch.num_selected, plan_.vocab_size, *results.sampling, results.sampled);
  }
  clock.lap();
}

// The head and the sampler in one: the logits are sampled where they are computed.
void Program::run_head(Threads::Step& step, const Batch& batch, const StepResults& results) {
  if (results.sampling == nullptr || batch.num_selected == 0) return;
  head_->begin(step.count(), storage_.q8(plan_.ops[plan_.ops.size() - Head::num_ops(plan_)].x, 0));
  sampler_.run(step, *head_, batch.num_selected, plan_.vocab_size, *results.sampling, results.sampled);
}

void Program::lend_output(const Batch& batch, float* output) {
  if (output == nullptr) {
    const size_t width = static_cast<size_t>(plan_.buffers[plan_.output].width);
    output_.resize(std::max(output_.size(), static_cast<size_t>(batch.num_selected) * width));
    output = output_.data();
  }
  storage_.lend_output(output);
}

void Program::profile(bool is_on) { stage_seconds_.assign(is_on ? stages_.size() + 1 : 0, 0.0); }

std::vector<Program::StageTime> Program::stage_times() const {
  std::vector<StageTime> times;
  for (size_t i = 0; i < stage_seconds_.size(); ++i) {
    const bool is_sampler = i == stages_.size();
    times.push_back({is_sampler ? plan_.ops.size() : stages_[i].begin, is_sampler ? plan_.ops.size() : stages_[i].end,
                     stage_seconds_[i]});
  }
  return times;
}

void Program::prepare(int num_threads, const Batch& batch) {
  storage_.reserve(batch.num_tokens, batch.num_selected);
  while (scratch_.size() < static_cast<size_t>(num_threads)) scratch_.emplace_back(scratch_floats_ * sizeof(float));
  places_.fill(batch);
  attention_.prepare(batch, num_threads);
  adapt_.prepare(batch, places_);
  experts_.prepare(batch);
}

void Program::run_stage(Threads::Step& step, const Stage& stage, const Batch& batch) {
  if (num_rows(stage.rows, batch) == 0) return;
  if (stage.is_rowwise) return run_rows(step, stage, batch);
  const Op& op = plan_.ops[stage.begin];
  if (op.kind == OpKind::kLinear) return run_linear(step, op, batch);
  if (op.kind == OpKind::kGated) return run_gated(step, op, batch);
  if (op.kind == OpKind::kActivated) return run_activated(step, op, batch);
  if (op.kind == OpKind::kAdapt) return adapt_.run(step, op);
  if (op.kind == OpKind::kExperts) return experts_.run(step, op, num_rows(stage.rows, batch));
  attention_.run(step, op, batch, scratch_);
}

// Whether a stage is an adapters' one that may do the row-wise stage behind it in its own tasks.
bool Program::adapts_with_rows(const Threads::Step& step, size_t index) const {
  const Stage& stage = stages_[index];
  if (stage.is_rowwise || plan_.ops[stage.begin].kind != OpKind::kAdapt || index + 1 == stages_.size()) return false;
  const Stage& next = stages_[index + 1];
  const Op& op = plan_.ops[stage.begin];
  return next.is_rowwise && next.rows == plan_.buffers[op.x].rows && adapt_.takes_sequel(step, op);
}

void Program::run_adapted_rows(Threads::Step& step, const Stage& stage, const Stage& rows, const Batch& batch) {
  const RowRun run{.ops = plan_.ops.data() + rows.begin,
                   .num_ops = rows.end - rows.begin,
                   .context = {plan_, kernels_, storage_, batch, places_},
                   .num_rows = num_rows(rows.rows, batch),
                   .rows_per_task = 1,
                   .scratch = scratch_};
  adapt_.run_with(step, plan_.ops[stage.begin], {&run, &RowRun::run_one});
}

void Program::run_rows(Threads::Step& step, const Stage& stage, const Batch& batch) {
  const int32_t rows = num_rows(stage.rows, batch);
  const int32_t share = rows < kRowsAlone ? rows : ceil_div(rows, step.count() * 4);
  const RowRun run{.ops = plan_.ops.data() + stage.begin,
                   .num_ops = stage.end - stage.begin,
                   .context = {plan_, kernels_, storage_, batch, places_},
                   .num_rows = rows,
                   .rows_per_task = stage.stores && share > kStoredAlone
                                        ? std::min(ceil_div(share, kPageTokens) * kPageTokens, kStoredPerTask)
                                        : std::min(share, kRowsPerTask),
                   .scratch = scratch_};
  step.run(ceil_div(rows, run.rows_per_task), &RowRun::run, &run);
}

void Program::run_linear(Threads::Step& step, const Op& op, const Batch& batch) {
  const MatrixView& matrix = plan_.matrices[op.matrix].view;
  const int32_t rows = num_rows(plan_.buffers[op.x].rows, batch);
  const LinearRun run{*this, op, kernels_, matrix, cut_product(matrix, 1, rows, step.count())};
  step.run(run.cut.num_tasks(), &LinearRun::run, &run);
}

void Program::run_activated(Threads::Step& step, const Op& op, const Batch& batch) {
  const MatrixView& matrix = plan_.matrices[op.matrix].view;
  constexpr int32_t kBlocksPerGroup = kGroup / kTileRows;
  const int32_t rows = num_rows(plan_.buffers[op.x].rows, batch);
  const ActivatedRun run{*this, op, kernels_, matrix, cut_product(matrix, kBlocksPerGroup, rows, step.count())};
  step.run(run.cut.num_tasks(), &ActivatedRun::run, &run);
}

void Program::run_gated(Threads::Step& step, const Op& op, const Batch& batch) {
  const MatrixView& matrix = plan_.matrices[op.matrix].view;
  const int32_t rows = num_rows(plan_.buffers[op.x].rows, batch);
  const GatedRun run{*this, op, kernels_, matrix, cut_product(matrix, kBlocksPerPair, rows, step.count())};
  step.run(run.cut.num_tasks(), &GatedRun::run, &run);
}

}  // namespace headrace
