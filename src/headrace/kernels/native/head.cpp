// See head.h.
#include "head.h"

namespace headrace {
namespace {

constexpr int32_t kQuadBlocks = kQuadTokens / kTileRows;  // row blocks of a quad

// Rows of a tile start this much apart beyond their width, so that they do not meet in the same lines of a cache.
constexpr int32_t kGap = 16;
constexpr size_t kScratchFloats = size_t{kRowsPerTile} * (kQuadTokens + kGap);

// A rough price of work in nanoseconds of one thread: bytes of weights, and multiply-adds.
constexpr double kBytesPerNs = 16.0;
constexpr double kProductsPerNs = 150.0;

const Op& product_of(const Plan& plan) { return *(plan.ops.end() - Head::num_ops(plan)); }

}  // namespace

size_t Head::num_ops(const Plan& plan) {
  const bool is_capped =
      !plan.ops.empty() && plan.ops.back().kind == OpKind::kSoftcap && plan.ops.back().x == plan.output;
  const size_t count = is_capped ? 2 : 1;
  if (plan.ops.size() < count) return 0;
  const Op& product = *(plan.ops.end() - count);
  if (product.kind != OpKind::kLinear || product.out != plan.output || product.accumulate != 0) return 0;
  const bool is_touched = std::any_of(plan.ops.begin(), plan.ops.end() - count,
                                      [&](const Op& op) { return op.x == plan.output || op.out == plan.output; });
  return is_touched ? 0 : count;
}

Head::Head(const Plan& plan, const Kernels& kernels)
    : kernels_(kernels),
      matrix_(plan.matrices[product_of(plan).matrix].view),
      bias_(product_of(plan).vector < 0 ? nullptr : plan.vectors[product_of(plan).vector].data),
      cap_(num_ops(plan) == 2 ? plan.ops.back().softcap : 0.0f) {}

void Head::begin(int num_threads, const Q8View& rows) {
  while (scratch_.size() < static_cast<size_t>(num_threads)) scratch_.emplace_back(kScratchFloats * sizeof(float));
  rows_ = rows;
}

LogitTile Head::tile(int32_t first_row, int32_t num_rows, int32_t quad_begin, int32_t quad_end, int thread) const {
  const int32_t first_block = quad_begin * kQuadBlocks;
  const int32_t num_blocks = std::min(quad_end * kQuadBlocks, matrix_.row_blocks) - first_block;
  const int64_t stride = static_cast<int64_t>(quad_end - quad_begin) * kQuadTokens + (num_rows > 1 ? kGap : 0);
  auto* logits = reinterpret_cast<float*>(scratch_[static_cast<size_t>(thread)].get());
  const int64_t groups = rows_.width / kGroup;
  MatrixView part = matrix_;
  part.tiles += static_cast<int64_t>(first_block) * matrix_.groups * matrix_.tile_bytes;
  part.rows -= first_block * kTileRows;
  part.row_blocks -= first_block;
  kernels_.linear({.matrix = part,
                   .x = {rows_.codes + first_row * static_cast<int64_t>(rows_.width), rows_.scales + first_row * groups,
                         rows_.sums + first_row * groups, rows_.width},
                   .num_tokens = num_rows,
                   .block_begin = 0,
                   .block_end = num_blocks,
                   .bias = bias_ == nullptr ? nullptr : bias_ + first_block * kTileRows,
                   .out = logits,
                   .stride = stride,
                   .accumulate = false});
  if (cap_ != 0.0f) {
    const int64_t width = std::min(num_blocks * kTileRows, part.rows);
    for (int32_t row = 0; row < num_rows; ++row) kernels_.softcap(logits + row * stride, width, cap_);
  }
  return {logits, stride};
}

double Head::quad_ns(int32_t num_rows) const {
  return kQuadBlocks * static_cast<double>(matrix_.groups) *
         (matrix_.tile_bytes / kBytesPerNs + num_rows * (kTileRows * kGroup / kProductsPerNs));
}

}  // namespace headrace
