// A plan bound to its weights, which runs one engine step as one call. Owns the activations; the caller owns all else.
//
// The ops are cut into stages: consecutive row-wise ops of one kind of rows are one stage (all of them on one row
// before the next row), every product and every attention is one. The caller advances the stages; the threads take
// their tasks. A step that is too small for a hand-over runs on the caller alone. How a stage is cut into tasks never
// shows in the results, because no kernel's float order depends on its range.
#pragma once

#include <atomic>
#include <optional>
#include <vector>

#include "adapt_stage.h"
#include "attention_stage.h"
#include "batch.h"
#include "expert_stage.h"
#include "head.h"
#include "plan.h"
#include "sampler.h"
#include "storage.h"
#include "threads.h"

namespace headrace {

// What a step gives back besides the cache; each part may be absent.
struct StepResults {
  float* output = nullptr;  // [R][width of the output buffer]
  const Sampling* sampling = nullptr;
  Sampled sampled{};
};

class Program {
 public:
  Program(Plan plan, const Kernels& kernels);

  const Plan& plan() const { return plan_; }

  // Throws std::invalid_argument naming what does not fit (before anything is written), std::runtime_error when the
  // program or the threads are busy, std::bad_alloc when the activations do not fit.
  void step(Threads& threads, const Batch& batch, const StepResults& results);

  Sampler& sampler() { return sampler_; }

  // Experts whose weights the last step read, summed over its layers.
  int64_t num_experts_touched() const { return experts_.num_touched(); }

  // Time spent per stage since profiling was switched on; the last entry, without ops, is the sampler, where it does
  // not run within the last stage.
  struct StageTime {
    size_t begin, end;  // ops of the plan
    double seconds;
  };
  // Switches timing on (from zero) or off; not during a step.
  void profile(bool is_on);
  std::vector<StageTime> stage_times() const;

 private:
  // Ops [begin, end) of the plan.
  struct Stage {
    size_t begin, end;
    bool is_rowwise;
    Rows rows;
    bool stores;  // keys and values
  };
  struct RowRun;
  struct LinearRun;
  struct GatedRun;
  struct ActivatedRun;

  void prepare(int num_threads, const Batch& batch);
  void lend_output(const Batch& batch, float* output);
  void run_head(Threads::Step& step, const Batch& batch, const StepResults& results);
  void run_stage(Threads::Step& step, const Stage& stage, const Batch& batch);
  bool adapts_with_rows(const Threads::Step& step, size_t index) const;
  void run_adapted_rows(Threads::Step& step, const Stage& stage, const Stage& rows, const Batch& batch);
  void run_rows(Threads::Step& step, const Stage& stage, const Batch& batch);
  void run_linear(Threads::Step& step, const Op& op, const Batch& batch);
  void run_gated(Threads::Step& step, const Op& op, const Batch& batch);
  void run_activated(Threads::Step& step, const Op& op, const Batch& batch);
  Output output(int32_t buffer, int64_t row) const;
  int32_t num_rows(Rows rows, const Batch& batch) const;

  const Plan plan_;
  const Kernels& kernels_;
  std::vector<Stage> stages_;
  Storage storage_;
  AttentionStage attention_;
  AdaptStage adapt_;
  ExpertStage experts_;
  Sampler sampler_;
  std::optional<Head> head_;   // where the plan ends with the product of its logits
  std::vector<float> output_;  // only of plans that do not
  TokenPlaces places_;
  std::vector<AlignedBytes> scratch_;  // per thread, for rows and for attention
  size_t scratch_floats_;
  std::vector<double> stage_seconds_;  // empty unless profiling; one more than there are stages
  std::atomic<bool> is_busy_{false};
};

}  // namespace headrace
