// One function per row-wise op. Float order inside a row never depends on other rows.
#include "rowwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace headrace {
namespace {

float read_half(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half_to_float(half);
}

// Row `row` of a packed matrix as floats, times `scale`; the tile layout is grouped.py's.
void unpack_row(const WeightMatrix& matrix, int32_t row, float scale, float* out) {
  const MatrixView& view = matrix.view;
  const int32_t in_tile = row % kTileRows;
  const uint8_t* tile = view.tiles + static_cast<int64_t>(row / kTileRows) * view.groups * view.tile_bytes;
  for (int32_t group = 0; group < view.groups; ++group, tile += view.tile_bytes) {
    float codes[kGroup];
    for (int32_t j = 0; j < view.bits; ++j) {
      for (int32_t i = 0; i < 4; ++i) {
        const uint8_t byte = tile[64 * j + 4 * in_tile + i];
        if (view.bits == 4) {
          codes[4 * j + i] = static_cast<float>(byte & 15);
          codes[4 * (j + 4) + i] = static_cast<float>(byte >> 4);
        } else {
          codes[4 * j + i] = static_cast<float>(static_cast<int8_t>(byte));
        }
      }
    }
    const uint8_t* halves = tile + 64 * view.bits + 2 * in_tile;
    const float group_scale = read_half(halves);
    const float minimum = view.has_minimum ? read_half(halves + 2 * kTileRows) : 0.0f;
    const int32_t count = std::min(kGroup, matrix.cols - group * kGroup);
    for (int32_t i = 0; i < count; ++i) out[group * kGroup + i] = scale * (codes[i] * group_scale + minimum);
  }
}

void rms_norm(const Op& op, const RowContext& context, int32_t row, float* scratch) {
  const float* x = context.storage.f32(op.x, row);
  const float* weight = context.plan.vectors[op.vector].data;
  const int32_t width = context.plan.buffers[op.x].width;
  if (context.plan.buffers[op.out].kind == BufferKind::kF32) {
    context.kernels.rms_norm(x, weight, width, op.eps, context.storage.f32(op.out, row));
    return;
  }
  context.kernels.rms_norm(x, weight, width, op.eps, scratch);
  context.kernels.quantize(scratch, width, context.storage.q8(op.out, row));
}

void layer_norm(const Op& op, const RowContext& context, int32_t row, float* scratch) {
  const float* x = context.storage.f32(op.x, row);
  const float* weight = context.plan.vectors[op.vector].data;
  const float* bias = context.plan.vectors[op.bias].data;
  const int32_t width = context.plan.buffers[op.x].width;
  const bool is_plain = context.plan.buffers[op.out].kind == BufferKind::kF32;
  float* y = is_plain ? context.storage.f32(op.out, row) : scratch;
  context.kernels.layer_norm(x, weight, bias, width, op.eps, y);
  if (!is_plain) context.kernels.quantize(y, width, context.storage.q8(op.out, row));
}

void pointwise(const Op& op, const RowContext& context, int32_t row, float* scratch) {
  const float* x = context.storage.f32(op.x, row);
  const int32_t width = context.plan.buffers[op.x].width;
  const bool is_plain = context.plan.buffers[op.out].kind == BufferKind::kF32;
  float* y = is_plain ? context.storage.f32(op.out, row) : scratch;
  context.kernels.pointwise(x, width, static_cast<Activation>(op.activation), y);
  if (!is_plain) context.kernels.quantize(y, width, context.storage.q8(op.out, row));
}

// out += the table's row.
void add_row(const Op& op, const RowContext& context, int32_t row, int64_t table_row) {
  const int32_t width = context.plan.buffers[op.out].width;
  const float* values = context.plan.vectors[op.vector].data + table_row * width;
  float* out = context.storage.f32(op.out, row);
  for (int32_t i = 0; i < width; ++i) out[i] += values[i];
}

void head_norm(const Op& op, const RowContext& context, int32_t row) {
  const float* weight = context.plan.vectors[op.vector].data;
  float* head = context.storage.f32(op.x, row) + op.offset;
  for (int32_t h = 0; h < op.num_heads; ++h, head += op.head_dim) {
    context.kernels.rms_norm(head, weight, op.head_dim, op.eps, head);
  }
}

void rotate_adjacent(float* head, const float* cosines, const float* sines, int32_t half) {
  for (int32_t i = 0; i < half; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosines[i] - b * sines[i];
    head[2 * i + 1] = a * sines[i] + b * cosines[i];
  }
}

void rotate_halves(float* head, const float* cosines, const float* sines, int32_t half) {
  for (int32_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[half + i];
    head[i] = a * cosines[i] - b * sines[i];
    head[half + i] = a * sines[i] + b * cosines[i];
  }
}

void rope(const Op& op, const RowContext& context, int32_t row) {
  const int64_t position = context.places.position[row];
  const float* cosines = context.plan.vectors[op.vector].data + position * op.rotary_dim;
  const int32_t half = op.rotary_dim / 2;
  float* head = context.storage.f32(op.x, row) + op.offset;
  for (int32_t h = 0; h < op.num_heads; ++h, head += op.head_dim) {
    if (op.style == 0) {
      rotate_adjacent(head, cosines, cosines + half, half);
    } else {
      rotate_halves(head, cosines, cosines + half, half);
    }
  }
}

// Fast Walsh-Hadamard transform of each head, in place; neighbours first, in the same order on every CPU.
void hadamard(const Op& op, const RowContext& context, int32_t row) {
  float* head = context.storage.f32(op.x, row) + op.offset;
  const float norm = 1.0f / std::sqrt(static_cast<float>(op.head_dim));
  for (int32_t h = 0; h < op.num_heads; ++h, head += op.head_dim) {
    for (int32_t half = 1; half < op.head_dim; half *= 2) {
      for (int32_t begin = 0; begin < op.head_dim; begin += 2 * half) {
        float* const low = head + begin;
        float* const high = low + half;
        for (int32_t i = 0; i < half; ++i) {
          const float sum = low[i] + high[i];
          high[i] = low[i] - high[i];
          low[i] = sum;
        }
      }
    }
    for (int32_t i = 0; i < op.head_dim; ++i) head[i] *= norm;
  }
}

// One head of one token, keys spread over the plane's [head_dim][32].
void store_half(const Kernels& kernels, const float* key, const float* value, int32_t head_dim, int32_t slot,
                uint8_t* plane) {
  auto* keys = reinterpret_cast<uint16_t*>(plane);
  constexpr int32_t kPiece = 64;
  uint16_t halves[kPiece];
  for (int32_t begin = 0; begin < head_dim; begin += kPiece) {
    const int32_t count = std::min(kPiece, head_dim - begin);
    kernels.narrow(key + begin, count, halves);
    for (int32_t i = 0; i < count; ++i) keys[(begin + i) * kPageTokens + slot] = halves[i];
  }
  kernels.narrow(value, head_dim, keys + (kPageTokens + slot) * static_cast<int64_t>(head_dim));
}

// One head of one token in 8 bits. Other threads may be writing other tokens of the same page: only own bytes are
// touched, never a neighbour's.
void store_int8(const Kernels& kernels, const float* key, const float* value, int32_t head_dim, int32_t slot,
                uint8_t* plane, int8_t* codes) {
  uint8_t* const values = plane + static_cast<int64_t>(head_dim) * kPageTokens;
  uint8_t* const scales = values + static_cast<int64_t>(head_dim) * kPageTokens;
  float scale;
  kernels.quantize_head(key, head_dim, codes, &scale);
  for (int32_t quad = 0; quad < head_dim / 4; ++quad) {
    uint32_t four;
    std::memcpy(&four, codes + 4 * quad, sizeof four);
    four ^= 0x80808080u;  // code + 128
    std::memcpy(plane + 4 * (quad * kPageTokens + slot), &four, sizeof four);
  }
  std::memcpy(scales + 4 * slot, &scale, sizeof scale);
  kernels.quantize_head(value, head_dim, codes, &scale);
  uint8_t* const to = values + static_cast<int64_t>(slot / 4) * head_dim * 4 + slot % 4;
  for (int32_t d = 0; d < head_dim; ++d) to[4 * d] = static_cast<uint8_t>(codes[d]);
  std::memcpy(scales + 4 * (kPageTokens + slot), &scale, sizeof scale);
}

// Fetches the lines that a token's key and value will be spread over: dozens of misses at once instead of in turn.
void fetch_slot(KvKind kind, uint8_t* plane, int32_t head_dim, int32_t slot) {
  const int32_t element = kind == KvKind::kHalf ? 2 : 1;
  const int64_t values = static_cast<int64_t>(head_dim) * kPageTokens * element;
  const int32_t key_stride = kind == KvKind::kHalf ? 2 * kPageTokens : 4 * kPageTokens;
  const int32_t key_bytes = kind == KvKind::kHalf ? 2 : 4;
  for (int64_t at = key_bytes * slot; at < values; at += key_stride) __builtin_prefetch(plane + at, 1);
  const int64_t value_bytes = kind == KvKind::kHalf ? 2 * head_dim : 4 * head_dim;
  const int64_t row = values + (kind == KvKind::kHalf ? slot : slot / 4) * value_bytes;
  for (int64_t at = 0; at < value_bytes; at += 64) __builtin_prefetch(plane + row + at, 1);
}

void store_kv(const Op& op, const RowContext& context, int32_t row, float* scratch) {
  const CacheShape& cache = context.plan.cache;
  const int32_t position = context.places.position[row];
  const PagesView pages = context.batch.pages(cache, op.layer);
  const int64_t page = context.batch.page_table(context.places.sequence[row])[position / kPageTokens];
  uint8_t* plane = context.batch.pool + page * pages.page_stride + pages.layer_offset;
  const int32_t slot = position % kPageTokens;
  for (int32_t h = 0; h < cache.num_kv_heads; ++h) {
    fetch_slot(pages.kind, plane + h * pages.head_stride, cache.head_dim, slot);
  }
  const float* x = context.storage.f32(op.x, row);
  for (int32_t h = 0; h < cache.num_kv_heads; ++h, plane += pages.head_stride) {
    const float* key = x + op.k_offset + static_cast<int64_t>(h) * cache.head_dim;
    const float* value = x + op.v_offset + static_cast<int64_t>(h) * cache.head_dim;
    if (pages.kind == KvKind::kHalf) {
      store_half(context.kernels, key, value, cache.head_dim, slot, plane);
    } else {
      store_int8(context.kernels, key, value, cache.head_dim, slot, plane, reinterpret_cast<int8_t*>(scratch));
    }
  }
}

void add(const Op& op, const RowContext& context, int32_t row) {
  const float* x = context.storage.f32(op.x, row);
  float* out = context.storage.f32(op.out, row);
  const int32_t width = context.plan.buffers[op.x].width;
  for (int32_t i = 0; i < width; ++i) out[i] += x[i];
}

void add_gated(const Op& op, const RowContext& context, int32_t row) {
  const int32_t x_width = context.plan.buffers[op.x].width;
  float logit;
  context.kernels.dot_rows(context.storage.f32(op.x, row), context.plan.vectors[op.vector].data, x_width, 1, &logit);
  const float gate = 1.0f / (1.0f + std::exp(-logit));
  const float* y = context.storage.f32(op.other, row);
  float* out = context.storage.f32(op.out, row);
  const int32_t width = context.plan.buffers[op.out].width;
  for (int32_t i = 0; i < width; ++i) out[i] += gate * y[i];
}

// The `count` experts with the largest logits, largest first; of equal ones the first comes first. What is not a number
// counts as smallest, so that whatever the logits are, the numbers are of different experts.
void choose_experts(const float* logits, int32_t num_experts, int32_t count, float* chosen) {
  const auto key = [&](int32_t expert) { return std::isnan(logits[expert]) ? -INFINITY : logits[expert]; };
  for (int32_t expert = 0; expert < num_experts; ++expert) {
    const float logit = key(expert);
    int32_t place = std::min(expert, count);
    while (place > 0 && logit > key(static_cast<int32_t>(chosen[place - 1]))) --place;
    if (place == count) continue;
    for (int32_t i = std::min(expert, count - 1); i > place; --i) chosen[i] = chosen[i - 1];
    chosen[place] = static_cast<float>(expert);
  }
}

void route(const Op& op, const RowContext& context, int32_t row, float* logits) {
  const int32_t width = context.plan.buffers[op.x].width;
  const WeightVector& weight = context.plan.vectors[op.vector];
  const auto num_experts = static_cast<int32_t>(weight.size / width);
  const int32_t count = context.plan.buffers[op.out].width / 2;
  context.kernels.dot_rows(context.storage.f32(op.x, row), weight.data, width, num_experts, logits);
  float* const chosen = context.storage.f32(op.out, row);
  float* const weights = chosen + count;
  choose_experts(logits, num_experts, count, chosen);
  const float largest = logits[static_cast<int32_t>(chosen[0])];
  float total = 0.0f;
  for (int32_t j = 0; j < count; ++j) {
    weights[j] = std::exp(logits[static_cast<int32_t>(chosen[j])] - largest);
    total += weights[j];
  }
  if (op.renormalise == 0) {
    total = 0.0f;
    for (int32_t expert = 0; expert < num_experts; ++expert) total += std::exp(logits[expert] - largest);
  }
  for (int32_t j = 0; j < count; ++j) weights[j] /= total;
}

void select(const Op& op, const RowContext& context, int32_t row) {
  const float* x = context.storage.f32(op.x, context.batch.selected[row]);
  std::copy_n(x, context.plan.buffers[op.x].width, context.storage.f32(op.out, row));
}

}  // namespace

void run_row(const Op& op, const RowContext& context, int32_t row, float* scratch) {
  switch (op.kind) {
    case OpKind::kEmbed:
      return unpack_row(context.plan.matrices[op.matrix], context.batch.tokens[row], op.scale,
                        context.storage.f32(op.out, row));
    case OpKind::kRmsNorm:
      return rms_norm(op, context, row, scratch);
    case OpKind::kQuantize:
      return context.kernels.quantize(context.storage.f32(op.x, row), context.plan.buffers[op.x].width,
                                      context.storage.q8(op.out, row));
    case OpKind::kRotate:
      return context.kernels.quantize_rotated(context.storage.f32(op.x, row), context.plan.buffers[op.x].width,
                                              context.storage.q8(op.out, row));
    case OpKind::kHeadNorm:
      return head_norm(op, context, row);
    case OpKind::kRope:
      return rope(op, context, row);
    case OpKind::kStoreKv:
      return store_kv(op, context, row, scratch);
    case OpKind::kAdd:
      return add(op, context, row);
    case OpKind::kSelect:
      return select(op, context, row);
    case OpKind::kHadamard:
      return hadamard(op, context, row);
    case OpKind::kActivate:
      return context.kernels.activate(context.storage.f32(op.x, row), context.plan.buffers[op.x].width / (2 * kGroup),
                                      static_cast<Activation>(op.activation), context.storage.output(op.out, row));
    case OpKind::kLayerNorm:
      return layer_norm(op, context, row, scratch);
    case OpKind::kPointwise:
      return pointwise(op, context, row, scratch);
    case OpKind::kPosition:
      return add_row(op, context, row, int64_t{context.places.position[row]} + op.offset);
    case OpKind::kSegment:
      return add_row(op, context, row, context.batch.segments == nullptr ? 0 : context.batch.segments[row]);
    case OpKind::kSoftcap:
      return context.kernels.softcap(context.storage.f32(op.x, row), context.plan.buffers[op.x].width, op.softcap);
    case OpKind::kRoute:
      return route(op, context, row, scratch);
    case OpKind::kAddGated:
      return add_gated(op, context, row);
    case OpKind::kExperts:
    case OpKind::kActivated:
    case OpKind::kAdapt:
    case OpKind::kLinear:
    case OpKind::kGated:
    case OpKind::kAttention:
      return;  // never row-wise: see is_rowwise
  }
}

size_t rowwise_scratch_floats(const Plan& plan) {
  int32_t widest = 0;
  for (const Buffer& buffer : plan.buffers) widest = std::max(widest, buffer.width);
  const bool routes = std::ranges::any_of(plan.ops, [](const Op& op) { return op.kind == OpKind::kRoute; });
  return static_cast<size_t>(routes ? std::max(widest, kMostExperts) : widest);
}

}  // namespace headrace
