// See plain_attention.h. A row is one query head of one token; a span's scores are computed, then their maximum, then
// the probabilities, then the weighted values.
#include "plain_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "variants.h"

namespace headrace {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Weighted values of one row over some keys: weights relative to exp(maximum), their total, and the sum (head_dim
// floats).
struct Partial {
  float maximum;
  float total;
  float* sum;
};

struct KeyRange {
  int32_t begin;
  int32_t end;
};

// One query row and the memory it works in.
struct Row {
  const int32_t* page_table;
  KeyRange seen;
  const float* q;
  float scores[kSpanTokens];  // of the current span, then probabilities
  // The query quantised, for int8 pages; the sum of its codes times 128 is what offset-binary keys add too much.
  int8_t* codes;
  float scale;
  int32_t surplus;
};

KeyRange visible_keys(const AttentionTask& task, const AttentionRows& member, int32_t token) {
  if (task.mode == 2) return {0, member.num_keys};
  const int32_t end = member.position + token + 1;
  return {task.mode == 1 ? std::max(0, end - task.window) : 0, end};
}

const uint8_t* plane_of(const AttentionTask& task, int32_t page) {
  const PagesView& pages = task.pages;
  return pages.pool + page * pages.page_stride + pages.layer_offset + task.kv_head * pages.head_stride;
}

// half_to_float for the finite numbers of a page, without its branch, so that a loop over it becomes vector code.
inline float widen(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const float scaled = std::bit_cast<float>((half & 0x7fffu) << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

void half_scores(const AttentionTask& task, const Row& row, const uint8_t* plane, float* scores) {
  const auto* keys = reinterpret_cast<const uint16_t*>(plane);
  std::fill_n(scores, kPageTokens, 0.0f);
  for (int32_t d = 0; d < task.head_dim; ++d) {
    const float factor = row.q[d] * task.scale;
    for (int j = 0; j < kPageTokens; ++j) scores[j] += factor * widen(keys[d * kPageTokens + j]);
  }
}

void add_half_values(const AttentionTask& task, const float* weights, const uint8_t* plane, float* sum) {
  const auto* values = reinterpret_cast<const uint16_t*>(plane) + static_cast<int64_t>(task.head_dim) * kPageTokens;
  for (int j = 0; j < kPageTokens; ++j) {
    for (int32_t d = 0; d < task.head_dim; ++d) sum[d] += weights[j] * widen(values[j * task.head_dim + d]);
  }
}

float scale_of(const AttentionTask& task, const uint8_t* plane, int32_t index) {
  float scale;
  std::memcpy(&scale, plane + int64_t{2} * task.head_dim * kPageTokens + index * int64_t{4}, sizeof scale);
  return scale;
}

void int8_scores(const AttentionTask& task, const Row& row, const uint8_t* plane, float* scores) {
  int32_t dots[kPageTokens];
  std::fill_n(dots, kPageTokens, -row.surplus);
  for (int32_t d = 0; d < task.head_dim; d += 4) {
    const uint8_t* keys = plane + d * kPageTokens;
    const int8_t* q = row.codes + d;
    for (int j = 0; j < kPageTokens; ++j, keys += 4) {
      dots[j] += q[0] * keys[0] + q[1] * keys[1] + q[2] * keys[2] + q[3] * keys[3];
    }
  }
  for (int j = 0; j < kPageTokens; ++j) {
    scores[j] = static_cast<float>(dots[j]) * (row.scale * scale_of(task, plane, j));
  }
}

// The probabilities of a span as 15-bit fixed point, times the scales of their values relative to the largest that the
// row sees in the span; returns that scale. Unseen keys weigh nothing.
float fix_weights(const AttentionTask& task, const Row& row, KeyRange keys, int32_t weights[kSpanTokens]) {
  const auto value_scale = [&](int32_t key) {
    return scale_of(task, plane_of(task, row.page_table[key / kPageTokens]), kPageTokens + key % kPageTokens);
  };
  std::fill_n(weights, kSpanTokens, 0);
  float largest = 0.0f;
  for (int32_t key = keys.begin; key < keys.end; ++key) largest = std::max(largest, value_scale(key));
  if (largest < kSmallestScale) return 0.0f;
  const float factor = kWeightOne / largest;
  for (int32_t key = keys.begin; key < keys.end; ++key) {
    const float weight = row.scores[key % kSpanTokens] * (value_scale(key) * factor);
    weights[key % kSpanTokens] = static_cast<int32_t>(std::nearbyint(weight));
  }
  return largest;
}

// Weighted values of a span of int8 pages. 512 products of at most 32767 * 128 fit 32 bits.
void add_int8_values(const AttentionTask& task, const Row& row, KeyRange keys, float* sum) {
  int32_t weights[kSpanTokens];
  const float largest = fix_weights(task, row, keys, weights);
  auto* dots = reinterpret_cast<int32_t*>(sum);
  std::fill_n(dots, task.head_dim, 0);
  for (int32_t key = keys.begin / 4 * 4; key < keys.end; key += 4) {
    const uint8_t* plane = plane_of(task, row.page_table[key / kPageTokens]);
    const int64_t quad = key % kPageTokens / 4;
    const auto* values = reinterpret_cast<const int8_t*>(plane + (kPageTokens + 4 * quad) * task.head_dim);
    const int32_t* w = weights + key % kSpanTokens;
    for (int32_t d = 0; d < task.head_dim; ++d, values += 4) {
      dots[d] += w[0] * values[0] + w[1] * values[1] + w[2] * values[2] + w[3] * values[3];
    }
  }
  for (int32_t d = 0; d < task.head_dim; ++d) sum[d] = static_cast<float>(dots[d]) * (largest / kWeightOne);
}

// One row over one span; a total of 0 says that it sees nothing of it.
void attend_span(const AttentionTask& task, Row& row, int32_t span, Partial& part) {
  const KeyRange keys{std::max(span, row.seen.begin), std::min(span + kSpanTokens, row.seen.end)};
  const bool is_half = task.pages.kind == KvKind::kHalf;
  part.maximum = -kInfinity;
  part.total = 0.0f;
  std::fill_n(part.sum, task.head_dim, 0.0f);
  if (keys.begin >= keys.end) return;
  const int32_t first_page = keys.begin / kPageTokens;
  const int32_t end_page = (keys.end + kPageTokens - 1) / kPageTokens;
  for (int32_t page = first_page; page < end_page; ++page) {
    const uint8_t* plane = plane_of(task, row.page_table[page]);
    (is_half ? half_scores : int8_scores)(task, row, plane, row.scores + page * kPageTokens - span);
  }
  for (int32_t key = first_page * kPageTokens; key < end_page * kPageTokens; ++key) {
    float& score = row.scores[key - span];
    if (task.softcap != 0.0f) score = task.softcap * std::tanh(score / task.softcap);
    if (key < keys.begin || key >= keys.end) score = -kInfinity;
    part.maximum = std::max(part.maximum, score);
  }
  for (int32_t key = first_page * kPageTokens; key < end_page * kPageTokens; ++key) {
    float& score = row.scores[key - span];
    score = std::exp(score - part.maximum);
    part.total += score;
  }
  if (!is_half) return add_int8_values(task, row, keys, part.sum);
  for (int32_t page = first_page; page < end_page; ++page) {
    add_half_values(task, row.scores + page * kPageTokens - span, plane_of(task, row.page_table[page]), part.sum);
  }
}

void merge(const Partial& part, int32_t head_dim, Partial& whole) {
  if (part.total == 0.0f) return;
  const float maximum = std::max(part.maximum, whole.maximum);
  const float keep = std::exp(whole.maximum - maximum);
  const float add = std::exp(part.maximum - maximum);
  whole.maximum = maximum;
  whole.total = whole.total * keep + part.total * add;
  for (int32_t d = 0; d < head_dim; ++d) whole.sum[d] = whole.sum[d] * keep + part.sum[d] * add;
}

Partial nothing(float* sum, int32_t head_dim) {
  std::fill_n(sum, head_dim, 0.0f);
  return {-kInfinity, 0.0f, sum};
}

void store_row(const AttentionRows& member, int32_t token, int32_t head, int32_t head_dim, const Partial& whole) {
  const float inverse = 1.0f / whole.total;
  for (int32_t d = 0; d < head_dim; ++d) whole.sum[d] *= inverse;
  const int64_t feature = static_cast<int64_t>(head) * head_dim;
  if (member.out.f32 != nullptr) {
    std::copy_n(whole.sum, head_dim, member.out.f32 + token * member.out.stride + feature);
    return;
  }
  for (int32_t d = 0; d < head_dim; d += kGroup) plain_store_group(member.out, token, feature + d, whole.sum + d);
}

Row start_row(const AttentionTask& task, const AttentionRows& member, int32_t token, int32_t head, int8_t* codes) {
  Row row;
  row.page_table = member.page_table;
  row.seen = visible_keys(task, member, token);
  row.q = member.q + token * task.q_stride + static_cast<int64_t>(head) * task.head_dim;
  row.codes = codes;
  if (task.pages.kind == KvKind::kInt8) {
    row.surplus = 128 * plain_quantize_head(row.q, task.head_dim, codes, &row.scale);
    row.scale *= task.scale;
  }
  return row;
}

// What the partials of a span hold for one row: the sum, padded to whole groups, its maximum and its total.
int64_t partial_floats(int32_t head_dim) { return static_cast<int64_t>(attention_partial_floats(1, head_dim)); }

void attend_row(const AttentionTask& task, const AttentionRows& member, int32_t token, int32_t head, int64_t num_rows,
                int64_t index) {
  float* sums = task.scratch;
  Row row = start_row(task, member, token, head, reinterpret_cast<int8_t*>(sums + int64_t{2} * task.head_dim));
  if (task.partials != nullptr) {
    const int64_t size = partial_floats(task.head_dim);
    for (int32_t span = task.span_begin; span < task.span_end; ++span) {
      float* to = task.partials + ((span - task.span_begin) * num_rows + index) * size;
      Partial part{0.0f, 0.0f, to};
      attend_span(task, row, span * kSpanTokens, part);
      to[size - 2] = part.maximum;
      to[size - 1] = part.total;
    }
    return;
  }
  Partial part{0.0f, 0.0f, sums};
  Partial whole = nothing(sums + task.head_dim, task.head_dim);
  for (int32_t span = row.seen.begin / kSpanTokens * kSpanTokens; span < row.seen.end; span += kSpanTokens) {
    attend_span(task, row, span, part);
    merge(part, task.head_dim, whole);
  }
  store_row(member, token, head, task.head_dim, whole);
}

// visit(member, token, query head, index of the row) for every row.
template <class Task, class Visit>
void for_each_row(const Task& task, Visit visit) {
  int64_t index = 0;
  for (int32_t m = 0; m < task.num_members; ++m) {
    for (int32_t token = 0; token < task.members[m].num_tokens; ++token) {
      for (int32_t h = 0; h < task.heads_per_kv; ++h) {
        visit(task.members[m], token, task.kv_head * task.heads_per_kv + h, index++);
      }
    }
  }
}

template <class Task>
int64_t count_rows(const Task& task) {
  int64_t tokens = 0;
  for (int32_t m = 0; m < task.num_members; ++m) tokens += task.members[m].num_tokens;
  return tokens * task.heads_per_kv;
}

}  // namespace

void plain_attention(const AttentionTask& task) {
  const int64_t num_rows = count_rows(task);
  for_each_row(task, [&](const AttentionRows& member, int32_t token, int32_t head, int64_t index) {
    attend_row(task, member, token, head, num_rows, index);
  });
}

void plain_merge_attention(const AttentionMergeTask& task) {
  const int64_t num_rows = count_rows(task);
  const int64_t size = partial_floats(task.head_dim);
  for_each_row(task, [&](const AttentionRows& member, int32_t token, int32_t head, int64_t index) {
    Partial whole = nothing(task.scratch, task.head_dim);
    for (int32_t span = 0; span < task.num_spans; ++span) {
      const float* from = task.partials + (span * num_rows + index) * size;
      merge({from[size - 2], from[size - 1], const_cast<float*>(from)}, task.head_dim, whole);
    }
    store_row(member, token, head, task.head_dim, whole);
  });
}

int32_t plain_quantize_head(const float* x, int32_t count, int8_t* codes, float* scale) {
  const auto clamped = [](float value) {
    const float magnitude = std::fabs(value);
    return std::copysign(magnitude <= kLargestHalf ? magnitude : kLargestHalf, value);  // NaN too
  };
  float amax = 0.0f;
  for (int32_t i = 0; i < count; ++i) amax = std::max(amax, std::fabs(clamped(x[i])));
  const bool is_zero = amax < kSmallestMagnitude;
  const float inverse = is_zero ? 0.0f : 127.0f / amax;
  int32_t total = 0;
  for (int32_t i = 0; i < count; ++i) {
    codes[i] = static_cast<int8_t>(std::nearbyint(clamped(x[i]) * inverse));
    total += codes[i];
  }
  *scale = is_zero ? 0.0f : amax / 127.0f;
  return total;
}

}  // namespace headrace
