// How the attention of one step is cut into tasks. Knows a batch's shape and page tables; no numbers, kernels or
// threads, and how it cuts never shows in the results: spans of keys are merged in order, whoever computed them.
//
//   member  some new tokens of one sequence
//   block   members that one task may carry; sequences that share pages stand side by side, so that those are read once
//   part    a range of a block's spans under one KV head: what a thread claims
//
// A block whose spans are divided among parts leaves partial sums, and whoever finishes its last part merges them.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"

namespace headrace {

inline constexpr int32_t kAttentionWindow = 1;         // AttentionTask::mode
inline constexpr int32_t kAttentionBidirectional = 2;  // likewise

// What attention ops must have in common to be cut alike.
struct AttentionShape {
  int32_t num_kv_heads, heads_per_kv, head_dim;
  int32_t mode, window;

  bool operator==(const AttentionShape&) const = default;
};

struct AttentionMember {
  int32_t sequence;
  int32_t first, count;        // of the sequence's new tokens
  int32_t key_begin, key_end;  // positions that any of the tokens sees
  int32_t num_shared;          // leading positions whose pages are also the pages of the member before, in its block
};

struct AttentionBlock {
  int32_t member_begin, member_end;
  int32_t num_tokens;
  int32_t span_begin, span_end;
  int32_t num_parts;       // of each KV head
  int64_t partial_begin;   // floats before the partials of KV head 0; those of the other heads follow
  int64_t partial_floats;  // of one KV head; 0 when one part has all spans
};

struct AttentionPart {
  int32_t block, kv_head;
  int32_t span_begin, span_end;
  int64_t cost;
};

class AttentionPlan {
 public:
  explicit AttentionPlan(const AttentionShape& shape);

  // Cuts a batch that check_batch has accepted; forgets the one before.
  void cut(const Batch& batch, int num_threads);

  const AttentionShape& shape() const { return shape_; }
  const std::vector<AttentionMember>& members() const { return members_; }
  const std::vector<AttentionBlock>& blocks() const { return blocks_; }
  const std::vector<AttentionPart>& parts() const { return parts_; }  // dearest first
  int64_t partial_floats() const { return partial_floats_; }

 private:
  AttentionMember member(const Batch& batch, int32_t sequence, int32_t first, int32_t count) const;
  int64_t cost(const AttentionMember& member, int32_t key_begin, int32_t key_end) const;
  void sort_candidates(const Batch& batch);
  void add_pieces(const Batch& batch, int32_t sequence);
  void add_group(const Batch& batch, size_t begin, size_t end);
  void add_block(size_t member_begin);
  void add_parts(int32_t block);

  const AttentionShape shape_;
  const int32_t most_tokens_;        // of one block
  int64_t dearest_part_ = 0;         // what costs more is divided, where it can be
  std::vector<int32_t> candidates_;  // sequences with few new tokens, those that share pages side by side
  std::vector<int32_t> shared_;      // leading positions that a candidate shares with the one before
  std::vector<AttentionMember> members_;
  std::vector<AttentionBlock> blocks_;
  std::vector<AttentionPart> parts_;
  int64_t partial_floats_ = 0;
};

}  // namespace headrace
