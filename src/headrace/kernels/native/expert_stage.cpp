// Sorting rows by expert and cutting the products into tasks; see expert_stage.h.
#include "expert_stage.h"

#include <algorithm>
#include <cstring>

namespace headrace {
namespace {

constexpr int32_t kGatherPlaces = 32;
constexpr int32_t kCombineRows = 8;
constexpr int32_t kCombineFeatures = 64;  // sums in registers
// Of one pass. Enough for an expert among 128 to have 32 rows, so that unpacking its weights pays.
constexpr int64_t kPassChoices = 4096;
constexpr int64_t kLine = 64;

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

int64_t lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

// One expert's part of the matrix that all experts share; `rows` without padding.
MatrixView part_of(const MatrixView& all, int32_t num_experts, int32_t expert, int32_t rows) {
  MatrixView part = all;
  part.rows = rows;
  part.row_blocks = all.row_blocks / num_experts;
  part.tiles += static_cast<int64_t>(expert) * part.row_blocks * all.groups * all.tile_bytes;
  return part;
}

Q8View row_of(const Q8View& rows, int64_t row) {
  const int64_t groups = rows.width / kGroup;
  return {rows.codes + row * rows.width, rows.scales + row * groups, rows.sums + row * groups, rows.width};
}

// What a router wrote, kept inside the experts that there are whatever it is.
int32_t expert_of(float number, int32_t num_experts) {
  if (!(number > 0.0f)) return 0;
  return static_cast<int32_t>(std::min(number, static_cast<float>(num_experts - 1)));
}

int32_t choices_of(const Plan& plan, const Op& op) { return plan.buffers[op.other].width / 2; }

int32_t inner_width(const Plan& plan, const Op& op) { return plan.matrices[op.matrix].view.rows / op.num_experts / 2; }

// Bytes of so many places of Q8 and of floats, each array from a cache line on.
int64_t q8_bytes(int64_t places, int64_t width) {
  return lines(places * width) + 2 * lines(places * width / kGroup * 4);
}

}  // namespace

ExpertStage::ExpertStage(const Plan& plan, const Kernels& kernels, const Storage& storage)
    : plan_(plan), kernels_(kernels), storage_(storage) {
  size_t most_experts = 0;
  for (const Op& op : plan.ops) {
    if (op.kind != OpKind::kExperts) continue;
    int64_t& most = most_choices_[static_cast<size_t>(plan.buffers[op.x].rows)];
    most = std::max<int64_t>(most, choices_of(plan, op));
    most_experts = std::max(most_experts, static_cast<size_t>(op.num_experts));
  }
  next_.reserve(most_experts);
  runs_.reserve(most_experts);
}

void ExpertStage::prepare(const Batch& batch) {
  num_touched_ = 0;
  const int64_t num_choices = std::max(batch.num_tokens * most_choices_[0], batch.num_selected * most_choices_[1]);
  if (std::min(num_choices, kPassChoices) <= capacity_) return;
  // Half as much again, so that slowly growing batches do not allocate every step.
  const int64_t capacity = std::min(std::max(num_choices, capacity_ + capacity_ / 2), kPassChoices);
  int64_t most_bytes = 0;
  for (const Op& op : plan_.ops) {
    if (op.kind != OpKind::kExperts) continue;
    most_bytes = std::max(most_bytes, q8_bytes(capacity, plan_.buffers[op.x].width) +
                                          q8_bytes(capacity, inner_width(plan_, op)) +
                                          lines(capacity * plan_.buffers[op.out].width * 4));
  }
  rows_.resize(static_cast<size_t>(capacity));
  places_.resize(static_cast<size_t>(capacity));
  memory_ = AlignedBytes(static_cast<size_t>(most_bytes));
  capacity_ = capacity;
}

void ExpertStage::lay_out(const Op& op) {
  uint8_t* next = memory_.get();
  const auto take = [&next](int64_t bytes) {
    uint8_t* taken = next;
    next += lines(bytes);
    return taken;
  };
  const auto take_q8 = [&](int32_t width) {
    const int64_t scale_bytes = capacity_ * width / kGroup * 4;
    return Q8View{.codes = reinterpret_cast<int8_t*>(take(capacity_ * width)),
                  .scales = reinterpret_cast<float*>(take(scale_bytes)),
                  .sums = reinterpret_cast<float*>(take(scale_bytes)),
                  .width = width};
  };
  gathered_ = take_q8(plan_.buffers[op.x].width);
  inner_ = take_q8(inner_width(plan_, op));
  given_ = reinterpret_cast<float*>(take(capacity_ * plan_.buffers[op.out].width * 4));
}

// Counts each expert's rows, then gives every choice its place.
void ExpertStage::sort(const Op& op, int32_t first_row, int32_t num_rows) {
  const int32_t num_choices = choices_of(plan_, op);
  next_.assign(static_cast<size_t>(op.num_experts), 0);
  int32_t* place = places_.data();
  for (int32_t row = 0; row < num_rows; ++row) {
    const float* numbers = storage_.f32(op.other, first_row + row);
    for (int32_t j = 0; j < num_choices; ++j) {
      const int32_t expert = expert_of(numbers[j], op.num_experts);
      *place++ = expert;
      ++next_[static_cast<size_t>(expert)];
    }
  }
  runs_.clear();
  has_shared_ = false;
  int32_t first = 0;
  for (int32_t expert = 0; expert < op.num_experts; ++expert) {
    const int32_t count = next_[static_cast<size_t>(expert)];
    next_[static_cast<size_t>(expert)] = first;
    if (count == 0) continue;
    runs_.push_back(
        {.expert = expert, .first = first, .count = count, .up = {}, .down = {}, .first_up = 0, .first_down = 0});
    has_shared_ |= count > 1;
    first += count;
  }
  place = places_.data();
  for (int32_t row = 0; row < num_rows; ++row) {
    for (int32_t j = 0; j < num_choices; ++j, ++place) {
      *place = next_[static_cast<size_t>(*place)]++;
      rows_[static_cast<size_t>(*place)] = first_row + row;
    }
  }
}

// All experts' products are one stage, so that a task's size follows from their work together.
void ExpertStage::cut(const Op& op, int num_threads) {
  const int32_t width = plan_.buffers[op.out].width;
  const MatrixView up = part_of(plan_.matrices[op.matrix].view, op.num_experts, 0, 2 * inner_.width);
  const MatrixView down = part_of(plan_.matrices[op.down].view, op.num_experts, 0, width);
  double up_ns = 0.0, down_ns = 0.0;
  for (const Run& run : runs_) {
    up_ns += product_ns(up, run.count);
    down_ns += product_ns(down, run.count);
  }
  double up_task_ns = task_ns(up_ns, num_threads), down_task_ns = task_ns(down_ns, num_threads);
  for (;; up_task_ns *= 2, down_task_ns *= 2) {
    int64_t num_ups = 0, num_downs = 0;
    for (Run& run : runs_) {
      run.up = cut_product_by(up, kBlocksPerPair, run.count, up_task_ns);
      run.down = cut_product_by(down, 1, run.count, down_task_ns);
      run.first_up = static_cast<int32_t>(num_ups);
      run.first_down = static_cast<int32_t>(num_downs);
      num_ups += run.up.num_tasks();
      num_downs += run.down.num_tasks();
    }
    // What a task cannot be numbered by, it must be larger by.
    if (std::max(num_ups, num_downs) <= kMaxTasks) return;
  }
}

void ExpertStage::gather(int32_t begin, int32_t end, const Op& op) {
  const auto width = static_cast<size_t>(gathered_.width);
  for (int32_t place = begin; place < end; ++place) {
    const Q8View from = storage_.q8(op.x, rows_[static_cast<size_t>(place)]);
    const Q8View to = row_of(gathered_, place);
    std::memcpy(to.codes, from.codes, width);
    std::memcpy(to.scales, from.scales, width / kGroup * sizeof(float));
    std::memcpy(to.sums, from.sums, width / kGroup * sizeof(float));
  }
}

struct ExpertStage::Tasks {
  ExpertStage& stage;
  const Op& op;
  int32_t first_row, num_rows, num_choices;

  static void gather(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const int32_t begin = task * kGatherPlaces;
    tasks.stage.gather(begin, std::min(begin + kGatherPlaces, tasks.num_rows * tasks.num_choices), tasks.op);
  }

  // The run that a task belongs to: the last one that begins at or before it.
  const Run& run_of(int32_t task, int32_t Run::* first) const {
    const auto after = std::ranges::upper_bound(stage.runs_, task, {}, first);
    return *(after - 1);
  }

  static void up(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const Run& run = tasks.run_of(task, &Run::first_up);
    const ExpertStage& stage = tasks.stage;
    const ProductCut::Range range = run.up.range(task - run.first_up);
    const int32_t place = run.first + range.token;
    const MatrixView& all = stage.plan_.matrices[tasks.op.matrix].view;
    // A single row needs no gathering: it is contiguous where it lies.
    const Q8View x = run.count == 1 ? stage.storage_.q8(tasks.op.x, stage.rows_[static_cast<size_t>(place)])
                                    : row_of(stage.gathered_, place);
    stage.kernels_.gated({.matrix = part_of(all, tasks.op.num_experts, run.expert, 2 * stage.inner_.width),
                          .x = x,
                          .num_tokens = range.num_tokens,
                          .pair_begin = range.unit_begin,
                          .pair_end = range.unit_end,
                          .activation = static_cast<Activation>(tasks.op.activation),
                          .out = {.f32 = nullptr, .stride = 0, .q8 = row_of(stage.inner_, place)}});
  }

  static void down(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const Run& run = tasks.run_of(task, &Run::first_down);
    const ExpertStage& stage = tasks.stage;
    const ProductCut::Range range = run.down.range(task - run.first_down);
    const int64_t place = run.first + range.token;
    const int32_t width = stage.plan_.buffers[tasks.op.out].width;
    const MatrixView& all = stage.plan_.matrices[tasks.op.down].view;
    stage.kernels_.linear({.matrix = part_of(all, tasks.op.num_experts, run.expert, width),
                           .x = row_of(stage.inner_, place),
                           .num_tokens = range.num_tokens,
                           .block_begin = range.unit_begin,
                           .block_end = range.unit_end,
                           .bias = nullptr,
                           .out = stage.given_ + place * width,
                           .stride = width,
                           .accumulate = false});
  }

  static void combine(const void* self, int32_t task, int) {
    const auto& tasks = *static_cast<const Tasks*>(self);
    const int32_t end = std::min((task + 1) * kCombineRows, tasks.num_rows);
    for (int32_t row = task * kCombineRows; row < end; ++row) tasks.combine(row);
  }

  void combine(int32_t row) const {
    const int32_t width = stage.plan_.buffers[op.out].width;
    const float* weights = stage.storage_.f32(op.other, first_row + row) + num_choices;
    const int32_t* places = stage.places_.data() + static_cast<int64_t>(row) * num_choices;
    float* out = stage.storage_.f32(op.out, first_row + row);
    for (int32_t begin = 0; begin < width; begin += kCombineFeatures) {
      const int32_t count = std::min(kCombineFeatures, width - begin);
      float sums[kCombineFeatures] = {};
      for (int32_t j = 0; j < num_choices; ++j) {
        const float* given = stage.given_ + static_cast<int64_t>(places[j]) * width + begin;
        for (int32_t i = 0; i < count; ++i) sums[i] += weights[j] * given[i];
      }
      for (int32_t i = 0; i < count; ++i) out[begin + i] = op.accumulate != 0 ? out[begin + i] + sums[i] : sums[i];
    }
  }
};

void ExpertStage::run(Threads::Step& step, const Op& op, int32_t num_rows) {
  lay_out(op);
  const auto rows_of_pass = static_cast<int32_t>(capacity_ / choices_of(plan_, op));
  for (int32_t first = 0; first < num_rows; first += rows_of_pass) {
    run_pass(step, op, first, std::min(rows_of_pass, num_rows - first));
  }
}

void ExpertStage::run_pass(Threads::Step& step, const Op& op, int32_t first_row, int32_t num_rows) {
  const Tasks tasks{*this, op, first_row, num_rows, choices_of(plan_, op)};
  sort(op, first_row, num_rows);
  num_touched_ += static_cast<int64_t>(runs_.size());
  cut(op, step.count());
  const Run& last = runs_.back();
  if (has_shared_) step.run(ceil_div(int64_t{num_rows} * tasks.num_choices, kGatherPlaces), &Tasks::gather, &tasks);
  step.run(last.first_up + last.up.num_tasks(), &Tasks::up, &tasks);
  step.run(last.first_down + last.down.num_tasks(), &Tasks::down, &tasks);
  step.run(ceil_div(num_rows, kCombineRows), &Tasks::combine, &tasks);
}

}  // namespace headrace
