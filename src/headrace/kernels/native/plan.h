// A plan as the executor holds it: decoded from plan.py's lists and checked once, so that a step checks only its
// arrays. Knows shapes and operands; no threads, pages or tokens. Operand order follows plan.SIGNATURES.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace headrace {

enum class BufferKind : int32_t { kF32 = 0, kQ8 = 1 };
enum class Rows : int32_t { kTokens = 0, kSelected = 1 };

enum class OpKind : int32_t {
  kEmbed = 0,
  kRmsNorm = 1,
  kQuantize = 2,
  kHeadNorm = 3,
  kRope = 4,
  kStoreKv = 5,
  kLinear = 6,
  kGated = 7,
  kAttention = 8,
  kAdd = 9,
  kSelect = 10,
  kHadamard = 11,
  kAdapt = 12,
  kActivate = 13,
  kLayerNorm = 14,
  kPointwise = 15,
  kPosition = 16,
  kSegment = 17,
  kRotate = 18,
  kSoftcap = 19,
  kRoute = 20,
  kExperts = 21,
  kAddGated = 22,
  kActivated = 23,
};

// What plan.py hands over.
struct RawBuffer {
  int64_t kind, width, rows;
};
struct RawOp {
  int64_t kind;
  std::vector<int64_t> ints;
  std::vector<double> floats;
};

struct Buffer {
  BufferKind kind;
  int32_t width;
  Rows rows;
};

struct WeightMatrix {
  MatrixView view;
  int32_t cols;
};

struct WeightVector {
  const float* data;
  int64_t size;
};

// One kernel call; what a kind does not use stays as it is here.
struct Op {
  OpKind kind = OpKind::kEmbed;
  int32_t x = -1, out = -1;  // buffers
  int32_t other = -1;        // another buffer: the routes of EXPERTS, what ADD_GATED adds
  int32_t matrix = -1;
  int32_t down = -1;    // the second matrix of EXPERTS
  int32_t vector = -1;  // weight, table or bias
  int32_t bias = -1;    // the second vector of a norm
  int32_t layer = 0;
  int32_t offset = 0, num_heads = 0, head_dim = 0;
  int32_t rotary_dim = 0, style = 0;
  int32_t k_offset = 0, v_offset = 0;
  int32_t accumulate = 0, activation = 0, rotates = 0;
  int32_t mode = 0, window = 0;
  int32_t num_experts = 0, renormalise = 0;
  float scale = 0.0f, eps = 0.0f, softcap = 0.0f;
};

struct CacheShape {
  int32_t num_layers, num_kv_heads, head_dim;
};

struct Plan {
  std::vector<Buffer> buffers;
  std::vector<Op> ops;
  std::vector<WeightMatrix> matrices;
  std::vector<WeightVector> vectors;
  CacheShape cache;
  int32_t vocab_size;
  int32_t max_positions;
  int32_t output;
  int32_t num_segments;  // segments that tokens may be of
};

// What belongs to a plan besides its lists.
struct PlanFacts {
  int64_t num_layers, num_kv_heads, head_dim;
  int64_t vocab_size, max_positions, output;
};

// Throws std::invalid_argument naming the op and the operand that does not fit.
Plan make_plan(const std::vector<RawBuffer>& buffers, const std::vector<RawOp>& ops, std::vector<WeightMatrix> matrices,
               std::vector<WeightVector> vectors, const PlanFacts& facts);

// Ops that touch one row at a time, so that an executor may run several of them on a row before the next row.
bool is_rowwise(OpKind kind);

// The rows an op runs over.
Rows rows_of(const Plan& plan, const Op& op);

}  // namespace headrace
