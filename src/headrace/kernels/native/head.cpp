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

}  // namespace

bool Head::ends(const Plan& plan) {
  if (plan.ops.empty()) return false;
  const Op& last = plan.ops.back();
  if (last.kind != OpKind::kLinear || last.out != plan.output || last.accumulate != 0) return false;
  return std::none_of(plan.ops.begin(), plan.ops.end() - 1,
                      [&](const Op& op) { return op.x == plan.output || op.out == plan.output; });
}

Head::Head(const Plan& plan, const Kernels& kernels)
    : kernels_(kernels),
      matrix_(plan.matrices[plan.ops.back().matrix].view),
      bias_(plan.ops.back().vector < 0 ? nullptr : plan.vectors[plan.ops.back().vector].data) {}

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
  return {logits, stride};
}

double Head::quad_ns(int32_t num_rows) const {
  return kQuadBlocks * static_cast<double>(matrix_.groups) *
         (matrix_.tile_bytes / kBytesPerNs + num_rows * (kTileRows * kGroup / kProductsPerNs));
}

}  // namespace headrace
