// From cut to kernel calls; see attention_stage.h.
#include "attention_stage.h"

#include <algorithm>

namespace headrace {
namespace {

AttentionShape shape_of(const Op& op, const CacheShape& cache) {
  // A window that is not looked at must not keep ops apart.
  const int32_t window = op.mode == kAttentionWindow ? op.window : 0;
  return {cache.num_kv_heads, op.num_heads / cache.num_kv_heads, cache.head_dim, op.mode, window};
}

}  // namespace

// One op; what its tasks share.
struct AttentionStage::Run {
  const AttentionStage& stage;
  const AttentionPlan& cut;
  const Op& op;
  const Batch& batch;
  const std::vector<AlignedBytes>& scratch;

  static void run(const void* self, int32_t task, int thread) {
    const auto& run = *static_cast<const Run*>(self);
    const AttentionPart& part = run.cut.parts()[static_cast<size_t>(task)];
    const AttentionBlock& block = run.cut.blocks()[static_cast<size_t>(part.block)];
    const AttentionShape& shape = run.cut.shape();
    auto* scratch = reinterpret_cast<float*>(run.scratch[static_cast<size_t>(thread)].get());
    const AttentionRows* members = run.stage.rows_.data() + block.member_begin;
    const int32_t num_members = block.member_end - block.member_begin;
    float* partials = run.partials(block, part.kv_head);
    const int64_t span_floats = block.partial_floats / (block.span_end - block.span_begin);
    run.stage.kernels_.attention(
        {.pages = run.batch.pages(run.stage.plan_.cache, run.op.layer),
         .members = members,
         .num_members = num_members,
         .q_stride = run.stage.plan_.buffers[run.op.x].width,
         .kv_head = part.kv_head,
         .heads_per_kv = shape.heads_per_kv,
         .head_dim = shape.head_dim,
         .mode = shape.mode,
         .window = run.op.window,
         .scale = run.op.scale,
         .softcap = run.op.softcap,
         .span_begin = part.span_begin,
         .span_end = part.span_end,
         .partials = partials == nullptr ? nullptr : partials + (part.span_begin - block.span_begin) * span_floats,
         .scratch = scratch});
    if (partials == nullptr) return;
    // The last to finish sees what the others wrote: each of them released its sums with its count.
    const size_t counter = static_cast<size_t>(part.block * shape.num_kv_heads + part.kv_head);
    if (run.stage.unfinished_[counter].fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    run.stage.kernels_.merge_attention({.members = members,
                                        .num_members = num_members,
                                        .kv_head = part.kv_head,
                                        .heads_per_kv = shape.heads_per_kv,
                                        .head_dim = shape.head_dim,
                                        .partials = partials,
                                        .num_spans = block.span_end - block.span_begin,
                                        .scratch = scratch});
  }

  float* partials(const AttentionBlock& block, int32_t kv_head) const {
    if (block.num_parts == 1) return nullptr;
    return reinterpret_cast<float*>(stage.partials_.get()) + block.partial_begin + kv_head * block.partial_floats;
  }
};

AttentionStage::AttentionStage(const Plan& plan, const Kernels& kernels, const Storage& storage)
    : plan_(plan), kernels_(kernels), storage_(storage) {
  for (const Op& op : plan.ops) {
    if (op.kind != OpKind::kAttention) continue;
    const AttentionShape shape = shape_of(op, plan.cache);
    const bool is_known =
        std::any_of(cuts_.begin(), cuts_.end(), [&shape](const AttentionPlan& cut) { return cut.shape() == shape; });
    if (is_known) continue;
    cuts_.emplace_back(shape);
    const int32_t most_rows = attention_tokens_per_task(shape.heads_per_kv) * shape.heads_per_kv;
    scratch_floats_ = std::max(scratch_floats_, attention_scratch_floats(most_rows, shape.head_dim));
  }
}

void AttentionStage::prepare(const Batch& batch, int num_threads) {
  int64_t floats = 0;
  size_t counters = 0;
  size_t members = 0;
  for (AttentionPlan& cut : cuts_) {
    cut.cut(batch, num_threads);
    floats = std::max(floats, cut.partial_floats());
    counters = std::max(counters, cut.blocks().size() * static_cast<size_t>(cut.shape().num_kv_heads));
    members = std::max(members, cut.members().size());
  }
  if (floats > partial_floats_) {
    partials_ = AlignedBytes(static_cast<size_t>(floats) * sizeof(float));
    partial_floats_ = floats;
  }
  if (counters > num_unfinished_) {
    unfinished_ = std::make_unique<std::atomic<int32_t>[]>(counters);
    num_unfinished_ = counters;
  }
  rows_.reserve(members);
}

void AttentionStage::run(Threads::Step& step, const Op& op, const Batch& batch,
                         const std::vector<AlignedBytes>& scratch) {
  const AttentionPlan& cut = cut_of(op);
  fill_rows(cut, op, batch);
  for (size_t block = 0; block < cut.blocks().size(); ++block) {
    const int32_t num_parts = cut.blocks()[block].num_parts;
    if (num_parts == 1) continue;
    for (int32_t head = 0; head < cut.shape().num_kv_heads; ++head) {
      const size_t counter = block * static_cast<size_t>(cut.shape().num_kv_heads) + static_cast<size_t>(head);
      unfinished_[counter].store(num_parts, std::memory_order_relaxed);
    }
  }
  const Run run{*this, cut, op, batch, scratch};
  step.run(static_cast<int32_t>(cut.parts().size()), &Run::run, &run);
}

AttentionPlan& AttentionStage::cut_of(const Op& op) {
  const AttentionShape shape = shape_of(op, plan_.cache);
  size_t i = 0;
  while (!(cuts_[i].shape() == shape)) ++i;
  return cuts_[i];
}

void AttentionStage::fill_rows(const AttentionPlan& cut, const Op& op, const Batch& batch) {
  rows_.clear();
  for (const AttentionMember& member : cut.members()) {
    const int64_t token = batch.starts[member.sequence] + member.first;
    const int32_t context = batch.contexts[member.sequence];
    rows_.push_back({.page_table = batch.page_table(member.sequence),
                     .q = storage_.f32(op.x, token) + op.offset,
                     .position = context + member.first,
                     .num_tokens = member.count,
                     .num_keys = context + batch.starts[member.sequence + 1] - batch.starts[member.sequence],
                     .out = storage_.output(op.out, token)});
  }
}

}  // namespace headrace
