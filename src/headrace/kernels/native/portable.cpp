// Every kernel in plain C++: the variant for any CPU and the one to read first. Knows no threads and no plan.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "plain_attention.h"
#include "variants.h"

namespace headrace {
namespace {

// One tile unpacked: codes of row r, column c at codes[r][c].
struct Tile {
  int8_t codes[kTileRows][kGroup];
  float scale[kTileRows];
  float minimum[kTileRows];
};

float read_half(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof half);
  return half_to_float(half);
}

void unpack(const MatrixView& matrix, int32_t block, int32_t group, Tile& tile) {
  const uint8_t* bytes = matrix.tiles + (static_cast<int64_t>(block) * matrix.groups + group) * matrix.tile_bytes;
  const int vectors = matrix.bits;  // 4 vectors of 64 bytes for 4-bit codes, 8 for 8-bit codes
  for (int r = 0; r < kTileRows; ++r) {
    for (int j = 0; j < vectors; ++j) {
      for (int i = 0; i < 4; ++i) {
        const uint8_t code = bytes[64 * j + 4 * r + i];
        if (matrix.bits == 4) {
          tile.codes[r][4 * j + i] = static_cast<int8_t>(code & 15);
          tile.codes[r][4 * (j + 4) + i] = static_cast<int8_t>(code >> 4);
        } else {
          tile.codes[r][4 * j + i] = static_cast<int8_t>(code);
        }
      }
    }
  }
  const uint8_t* scales = bytes + 64 * vectors;
  for (int r = 0; r < kTileRows; ++r) {
    tile.scale[r] = read_half(scales + 2 * r);
    tile.minimum[r] = matrix.has_minimum ? read_half(scales + 2 * (kTileRows + r)) : 0.0f;
  }
}

// acc[token][row] for one row block and a few tokens; the tile is unpacked once for all of them.
constexpr int kTokens = 8;

void block_product(const MatrixView& matrix, int32_t block, const Q8View& x, int32_t first, int32_t count,
                   float acc[kTokens][kTileRows]) {
  std::fill_n(&acc[0][0], kTokens * kTileRows, 0.0f);
  const int64_t x_groups = x.width / kGroup;
  Tile tile;
  for (int32_t g = 0; g < matrix.groups; ++g) {
    unpack(matrix, block, g, tile);
    for (int32_t n = 0; n < count; ++n) {
      const int64_t token = first + n;
      const int8_t* codes = x.codes + token * x.width + static_cast<int64_t>(g) * kGroup;
      const float scale = x.scales[token * x_groups + g];
      const float sum = x.sums[token * x_groups + g];
      for (int r = 0; r < kTileRows; ++r) {
        int32_t dot = 0;
        for (int c = 0; c < kGroup; ++c) dot += tile.codes[r][c] * codes[c];
        acc[n][r] += static_cast<float>(dot) * (tile.scale[r] * scale);
        if (matrix.has_minimum) acc[n][r] += tile.minimum[r] * sum;
      }
    }
  }
}

void linear(const LinearTask& task) {
  float acc[kTokens][kTileRows];
  for (int32_t block = task.block_begin; block < task.block_end; ++block) {
    const int32_t first_row = block * kTileRows;
    const int32_t num_rows = std::min(kTileRows, task.matrix.rows - first_row);
    for (int32_t first = 0; first < task.num_tokens; first += kTokens) {
      const int32_t count = std::min(kTokens, task.num_tokens - first);
      block_product(task.matrix, block, task.x, first, count, acc);
      for (int32_t n = 0; n < count; ++n) {
        float* out = task.out + (first + n) * task.stride + first_row;
        for (int32_t r = 0; r < num_rows; ++r) {
          const float value = task.bias != nullptr ? acc[n][r] + task.bias[first_row + r] : acc[n][r];
          out[r] = task.accumulate ? out[r] + value : value;
        }
      }
    }
  }
}

void quantize_group(const float* x, int8_t* codes, float* scale, float* sum) {
  float amax = 0.0f;
  for (int i = 0; i < kGroup; ++i) amax = std::max(amax, std::fabs(x[i]));
  if (amax < kSmallestMagnitude) {
    std::fill_n(codes, kGroup, int8_t{0});
    *scale = *sum = 0.0f;
    return;
  }
  const float inverse = 127.0f / amax;
  int32_t total = 0;
  for (int i = 0; i < kGroup; ++i) {
    const float code = std::nearbyint(x[i] * inverse);  // half to even, the default rounding mode
    codes[i] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, code)));  // NaN becomes 127, not undefined
    total += codes[i];
  }
  *scale = amax / 127.0f;
  *sum = *scale * static_cast<float>(total);
}

float activate(Activation activation, float x) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  constexpr float kSqrtHalf = 0.7071067811865476f;
  switch (activation) {
    case Activation::kSilu:
      return x / (1.0f + std::exp(-x));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + std::tanh(kSqrt2OverPi * (x + 0.044715f * x * x * x)));
    case Activation::kGelu:
      return 0.5f * x * std::erfc(-kSqrtHalf * x);
    case Activation::kTanh:
      return std::tanh(x);
    case Activation::kRelu:
      break;
  }
  return x < 0.0f ? 0.0f : x;  // NaN stays
}

void activate_row(const float* x, int32_t num_pairs, Activation activation, const Output& out) {
  for (int32_t pair = 0; pair < num_pairs; ++pair, x += 2 * kGroup) {
    float values[kGroup];
    for (int i = 0; i < kGroup; ++i) values[i] = activate(activation, x[i]) * x[kGroup + i];
    plain_store_group(out, 0, static_cast<int64_t>(pair) * kGroup, values);
  }
}

// A token's values for the second product of an adapter, in 16 bits; see LowRankTask.
struct Inner {
  int16_t codes[kMostRank + 1] = {};
  float scales[kMostRank / kGroup] = {};

  Inner(const float* u, int32_t rank) {
    for (int32_t first = 0; first < rank; first += kGroup) {
      const int32_t end = std::min(first + kGroup, rank);
      float amax = 0.0f;
      for (int32_t j = first; j < end; ++j) amax = std::max(amax, std::fabs(u[j]));
      if (amax < kSmallestMagnitude) continue;
      const float inverse = 32767.0f / amax;
      for (int32_t j = first; j < end; ++j) {
        const float code = std::nearbyint(u[j] * inverse);
        codes[j] = static_cast<int16_t>(std::max(-32767.0f, std::min(32767.0f, code)));
      }
      scales[first / kGroup] = amax / 32767.0f;
    }
  }
};

void add_low_rank(const LowRankTask& task) {
  const LowRankView& b = task.b;
  for (int32_t n = 0; n < task.num_tokens; ++n) {
    const Inner inner(task.u + n * task.u_stride, b.rank);
    for (int32_t block = task.block_begin; block < task.block_end; ++block) {
      const uint8_t* bytes = b.blocks + static_cast<int64_t>(block) * b.block_bytes;
      const uint8_t* scales = bytes + static_cast<int64_t>((b.rank + 1) / 2) * 2 * kLowRankBlock;
      float* out = task.out + n * task.stride + block * task.block_step;
      const int32_t count = std::min(kLowRankBlock, b.rows - block * kLowRankBlock);
      for (int32_t i = 0; i < count; ++i) {
        float total = 0.0f;
        for (int32_t first = 0; first < b.rank; first += kGroup) {
          int32_t sum = 0;
          for (int32_t j = first; j < std::min(first + kGroup, b.rank); ++j) {
            sum += inner.codes[j] * static_cast<int8_t>(bytes[j / 2 * 2 * kLowRankBlock + 2 * i + j % 2]);
          }
          total += static_cast<float>(sum) * (read_half(scales + 2 * (first + i)) * inner.scales[first / kGroup]);
        }
        out[i] += b.factor * total;
      }
    }
  }
}

void gated(const GatedTask& task) {
  float acc[4][kTokens][kTileRows];
  for (int32_t pair = task.pair_begin; pair < task.pair_end; ++pair) {
    for (int32_t first = 0; first < task.num_tokens; first += kTokens) {
      const int32_t count = std::min(kTokens, task.num_tokens - first);
      for (int b = 0; b < 4; ++b) block_product(task.matrix, 4 * pair + b, task.x, first, count, acc[b]);
      for (int32_t n = 0; n < count; ++n) {
        float values[kGroup];
        for (int i = 0; i < kGroup; ++i) {
          const int half = i / kTileRows;
          const int row = i % kTileRows;
          values[i] = activate(task.activation, acc[half][n][row]) * acc[2 + half][n][row];
        }
        plain_store_group(task.out, first + n, static_cast<int64_t>(pair) * kGroup, values);
      }
    }
  }
}

void rotate_group(float* values) {
  for (int half = 1; half < kGroup; half *= 2) {
    for (int i = 0; i < kGroup; ++i) {
      if ((i & half) != 0) continue;
      const float sum = values[i] + values[i + half];
      values[i + half] = values[i] - values[i + half];
      values[i] = sum;
    }
  }
  for (int i = 0; i < kGroup; ++i) values[i] *= kRotationNorm;
}

void activated(const ActivatedTask& task) {
  float acc[2][kTokens][kTileRows];
  for (int32_t group = task.group_begin; group < task.group_end; ++group) {
    for (int32_t first = 0; first < task.num_tokens; first += kTokens) {
      const int32_t count = std::min(kTokens, task.num_tokens - first);
      for (int b = 0; b < 2; ++b) block_product(task.matrix, 2 * group + b, task.x, first, count, acc[b]);
      for (int32_t n = 0; n < count; ++n) {
        float values[kGroup];
        for (int i = 0; i < kGroup; ++i) {
          const float sum = acc[i / kTileRows][n][i % kTileRows];
          values[i] = activate(task.activation, task.bias != nullptr ? sum + task.bias[group * kGroup + i] : sum);
        }
        if (task.rotates) rotate_group(values);
        plain_store_group(task.out, first + n, static_cast<int64_t>(group) * kGroup, values);
      }
    }
  }
}

void quantize(const float* x, int32_t width, const Q8View& out) {
  for (int32_t begin = 0; begin < out.width; begin += kGroup) {
    float values[kGroup] = {};
    const int32_t count = std::clamp(width - begin, 0, kGroup);
    std::copy_n(x + begin, count, values);
    quantize_group(values, out.codes + begin, out.scales + begin / kGroup, out.sums + begin / kGroup);
  }
}

void quantize_rotated(const float* x, int32_t width, const Q8View& out) {
  for (int32_t begin = 0; begin < width; begin += kGroup) {
    float values[kGroup];
    std::copy_n(x + begin, kGroup, values);
    rotate_group(values);
    quantize_group(values, out.codes + begin, out.scales + begin / kGroup, out.sums + begin / kGroup);
  }
}

void rms_norm(const float* x, const float* weight, int32_t width, float eps, float* y) {
  double squares = 0.0;
  for (int32_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
  const float inverse = 1.0f / std::sqrt(static_cast<float>(squares / width) + eps);
  for (int32_t i = 0; i < width; ++i) y[i] = x[i] * inverse * weight[i];
}

void layer_norm(const float* x, const float* weight, const float* bias, int32_t width, float eps, float* y) {
  double total = 0.0;
  for (int32_t i = 0; i < width; ++i) total += x[i];
  const auto mean = static_cast<float>(total / width);
  double squares = 0.0;
  for (int32_t i = 0; i < width; ++i) squares += static_cast<double>(x[i] - mean) * (x[i] - mean);
  const float inverse = 1.0f / std::sqrt(static_cast<float>(squares / width) + eps);
  for (int32_t i = 0; i < width; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

void pointwise(const float* x, int32_t count, Activation activation, float* y) {
  for (int32_t i = 0; i < count; ++i) y[i] = activate(activation, x[i]);
}

// Sixteen sums a row, so that a compiler may keep them in vectors.
void dot_rows(const float* x, const float* rows, int32_t width, int32_t num_rows, float* out) {
  constexpr int32_t kSums = 16;
  for (int32_t row = 0; row < num_rows; ++row, rows += width) {
    float sums[kSums] = {};
    int32_t i = 0;
    for (; i + kSums <= width; i += kSums) {
      for (int32_t j = 0; j < kSums; ++j) sums[j] += x[i + j] * rows[i + j];
    }
    float total = 0.0f;
    for (const float sum : sums) total += sum;
    for (; i < width; ++i) total += x[i] * rows[i];
    out[row] = total;
  }
}

void narrow(const float* x, int32_t count, uint16_t* halves) {
  for (int32_t i = 0; i < count; ++i) halves[i] = float_to_half(x[i]);
}

void softcap(float* x, int64_t count, float cap) {
  for (int64_t i = 0; i < count; ++i) x[i] = cap * std::tanh(x[i] / cap) + (x[i] - x[i]);
}

int64_t multiply(int64_t rounds, int32_t* sink) {
  int8_t codes[kTileRows][kGroup];
  int8_t x[kGroup];
  for (int c = 0; c < kGroup; ++c) x[c] = static_cast<int8_t>(5 * c - 77);
  for (int r = 0; r < kTileRows; ++r) {
    for (int c = 0; c < kGroup; ++c) codes[r][c] = static_cast<int8_t>((r + c) & 15);
  }
  for (int64_t round = 0; round < rounds; ++round) {
    const int8_t* quantised = x;
    HEADRACE_OPAQUE("+r", quantised);
    for (const auto& row : codes) {
      int32_t dot = 0;
      for (int c = 0; c < kGroup; ++c) dot += row[c] * quantised[c];
      *sink ^= dot;
    }
  }
  return rounds * 2 * kTileRows * kGroup;
}

constexpr Kernels kPortable{.name = "portable",
                            .linear = linear,
                            .gated = gated,
                            .activated = activated,
                            .attention = plain_attention,
                            .merge_attention = plain_merge_attention,
                            .quantize = quantize,
                            .quantize_rotated = quantize_rotated,
                            .rms_norm = rms_norm,
                            .layer_norm = layer_norm,
                            .pointwise = pointwise,
                            .narrow = narrow,
                            .multiply = multiply,
                            .quantize_head = plain_quantize_head,
                            .add_low_rank = add_low_rank,
                            .activate = activate_row,
                            .softcap = softcap,
                            .dot_rows = dot_rows};

}  // namespace

void plain_store_group(const Output& out, int64_t token, int64_t feature, const float* values) {
  if (out.f32 != nullptr) {
    std::copy_n(values, kGroup, out.f32 + token * out.stride + feature);
    return;
  }
  const int64_t group = token * (out.q8.width / kGroup) + feature / kGroup;
  quantize_group(values, out.q8.codes + token * out.q8.width + feature, out.q8.scales + group, out.q8.sums + group);
}

const Kernels* portable_kernels() { return &kPortable; }

}  // namespace headrace
