// Grouping sequences that share pages, and dividing what would keep one thread busy while the others wait.
#include "attention_plan.h"

#include <algorithm>

namespace headrace {
namespace {

// What reading a key and its value costs, in query rows scored against it.
constexpr int64_t kReadCost = 4;

// Parts a thread should find on average: the last one to finish then keeps the others waiting for a fraction only.
constexpr int64_t kPartsPerThread = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int32_t num_new(const Batch& batch, int32_t sequence) { return batch.starts[sequence + 1] - batch.starts[sequence]; }

int32_t num_pages(const Batch& batch, int32_t sequence) {
  return static_cast<int32_t>(ceil_div(batch.contexts[sequence] + num_new(batch, sequence), kPageTokens));
}

// Leading pages that two sequences have in common.
int32_t num_common_pages(const Batch& batch, int32_t a, int32_t b) {
  const int32_t most = std::min(num_pages(batch, a), num_pages(batch, b));
  const int32_t* const pages = batch.page_table(a);
  return static_cast<int32_t>(std::mismatch(pages, pages + most, batch.page_table(b)).first - pages);
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionShape& shape)
    : shape_(shape), most_tokens_(attention_tokens_per_task(shape.heads_per_kv)) {}

AttentionMember AttentionPlan::member(const Batch& batch, int32_t sequence, int32_t first, int32_t count) const {
  const int32_t position = batch.contexts[sequence] + first;
  const int32_t num_keys = batch.contexts[sequence] + num_new(batch, sequence);
  return {.sequence = sequence,
          .first = first,
          .count = count,
          .key_begin = shape_.mode == kAttentionWindow ? std::max(0, position + 1 - shape_.window) : 0,
          .key_end = shape_.mode == kAttentionBidirectional ? num_keys : position + count,
          .num_shared = 0};
}

// The price of a member's keys inside [key_begin, key_end); those that the member before has read are free to read.
int64_t AttentionPlan::cost(const AttentionMember& member, int32_t key_begin, int32_t key_end) const {
  const int64_t begin = std::max(member.key_begin, key_begin);
  const int64_t end = std::min(member.key_end, key_end);
  if (begin >= end) return 0;
  const int64_t num_read = std::max<int64_t>(0, end - std::max<int64_t>(begin, member.num_shared));
  return (end - begin) * member.count * shape_.heads_per_kv + num_read * kReadCost;
}

void AttentionPlan::cut(const Batch& batch, int num_threads) {
  candidates_.clear();
  members_.clear();
  blocks_.clear();
  parts_.clear();
  partial_floats_ = 0;
  int64_t total = 1;
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    const int32_t count = num_new(batch, s);
    const AttentionMember whole = member(batch, s, 0, count);
    total += cost(whole, whole.key_begin, whole.key_end);
    if (2 * count <= most_tokens_) candidates_.push_back(s);
  }
  total *= shape_.num_kv_heads;
  // One thread has nobody to wait for.
  dearest_part_ = num_threads == 1 ? total : std::max<int64_t>(1, total / (num_threads * kPartsPerThread));
  sort_candidates(batch);
  for (size_t begin = 0; begin < candidates_.size();) {
    size_t end = begin + 1;
    while (end < candidates_.size() && shared_[end] > 0) ++end;
    add_group(batch, begin, end);
    begin = end;
  }
  for (int32_t s = 0; s < batch.num_sequences; ++s) {
    if (2 * num_new(batch, s) > most_tokens_) add_pieces(batch, s);
  }
  const auto num_blocks = static_cast<int32_t>(blocks_.size());
  for (int32_t block = 0; block < num_blocks; ++block) add_parts(block);
  std::sort(parts_.begin(), parts_.end(), [](const AttentionPart& a, const AttentionPart& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    return a.block != b.block ? a.block < b.block : a.kv_head < b.kv_head;
  });
}

// By page table, so that neighbours share the most; then notes what each shares with its neighbour of what both see.
void AttentionPlan::sort_candidates(const Batch& batch) {
  std::sort(candidates_.begin(), candidates_.end(), [&batch](int32_t a, int32_t b) {
    const int32_t common = num_common_pages(batch, a, b);
    const int32_t pages_a = num_pages(batch, a);
    const int32_t pages_b = num_pages(batch, b);
    if (common < pages_a && common < pages_b) return batch.page_table(a)[common] < batch.page_table(b)[common];
    return pages_a != pages_b ? pages_a < pages_b : a < b;
  });
  shared_.assign(candidates_.size(), 0);
  for (size_t i = 1; i < candidates_.size(); ++i) {
    const int32_t before = candidates_[i - 1];
    const int32_t own = candidates_[i];
    const int32_t common = num_common_pages(batch, before, own) * kPageTokens;
    const int32_t seen =
        std::max(member(batch, before, 0, 1).key_begin, member(batch, own, 0, num_new(batch, own)).key_begin);
    shared_[i] = common > seen ? common : 0;
  }
}

// A sequence with many new tokens, in blocks of its own.
void AttentionPlan::add_pieces(const Batch& batch, int32_t sequence) {
  const int32_t count = num_new(batch, sequence);
  for (int32_t first = 0; first < count; first += most_tokens_) {
    members_.push_back(member(batch, sequence, first, std::min(most_tokens_, count - first)));
    add_block(members_.size() - 1);
  }
}

// Candidates [begin, end) that share pages, in as few blocks of equal size as keep the threads busy.
void AttentionPlan::add_group(const Batch& batch, size_t begin, size_t end) {
  int64_t num_tokens = 0;
  int64_t price = 0;
  int64_t num_spans = 1;
  for (size_t i = begin; i < end; ++i) {
    AttentionMember one = member(batch, candidates_[i], 0, num_new(batch, candidates_[i]));
    one.num_shared = shared_[i];
    num_tokens += one.count;
    price += cost(one, one.key_begin, one.key_end);
    num_spans = std::max(num_spans, ceil_div(one.key_end, kSpanTokens) - one.key_begin / kSpanTokens);
  }
  const int64_t num_blocks = std::max(ceil_div(num_tokens, most_tokens_), ceil_div(price, dearest_part_ * num_spans));
  const int64_t most = ceil_div(num_tokens, std::min(num_blocks, num_tokens));
  size_t block_begin = members_.size();
  int64_t in_block = 0;
  for (size_t i = begin; i < end; ++i) {
    AttentionMember one = member(batch, candidates_[i], 0, num_new(batch, candidates_[i]));
    if (in_block > 0 && in_block + one.count > most) {
      add_block(block_begin);
      block_begin = members_.size();
      in_block = 0;
    }
    one.num_shared = in_block > 0 ? shared_[i] : 0;
    in_block += one.count;
    members_.push_back(one);
  }
  add_block(block_begin);
}

// The members from `member_begin` to the last become a block.
void AttentionPlan::add_block(size_t member_begin) {
  AttentionBlock block{};
  block.member_begin = static_cast<int32_t>(member_begin);
  block.member_end = static_cast<int32_t>(members_.size());
  block.span_begin = members_[member_begin].key_begin / kSpanTokens;
  for (size_t i = member_begin; i < members_.size(); ++i) {
    block.num_tokens += members_[i].count;
    block.span_begin = std::min(block.span_begin, members_[i].key_begin / kSpanTokens);
    block.span_end = std::max(block.span_end, static_cast<int32_t>(ceil_div(members_[i].key_end, kSpanTokens)));
  }
  blocks_.push_back(block);
}

void AttentionPlan::add_parts(int32_t index) {
  AttentionBlock& block = blocks_[static_cast<size_t>(index)];
  const size_t first = parts_.size();
  AttentionPart part{index, 0, block.span_begin, block.span_begin, 0};
  for (int32_t span = block.span_begin; span < block.span_end; ++span) {
    int64_t price = 0;
    for (int32_t m = block.member_begin; m < block.member_end; ++m) {
      price += cost(members_[static_cast<size_t>(m)], span * kSpanTokens, (span + 1) * kSpanTokens);
    }
    if (part.cost > 0 && part.cost + price > dearest_part_) {
      parts_.push_back(part);
      part = {index, 0, span, span, 0};
    }
    part.span_end = span + 1;
    part.cost += price;
  }
  parts_.push_back(part);
  block.num_parts = static_cast<int32_t>(parts_.size() - first);
  for (int32_t head = 1; head < shape_.num_kv_heads; ++head) {
    for (int32_t i = 0; i < block.num_parts; ++i) {
      parts_.push_back(parts_[first + static_cast<size_t>(i)]);
      parts_.back().kv_head = head;
    }
  }
  block.partial_begin = partial_floats_;
  if (block.num_parts > 1) {
    const int32_t num_rows = block.num_tokens * shape_.heads_per_kv;
    block.partial_floats =
        static_cast<int64_t>(attention_partial_floats(num_rows, shape_.head_dim)) * (block.span_end - block.span_begin);
    partial_floats_ += block.partial_floats * shape_.num_kv_heads;
  }
}

}  // namespace headrace
