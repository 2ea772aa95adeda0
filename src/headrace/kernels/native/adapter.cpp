// The checks that keep an adapter inside a plan's buffers.
#include "adapter.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace headrace {
namespace {

void require(bool holds, const AdaptedMatrix& matrix, const std::string& what) {
  if (!holds) throw std::invalid_argument("matrices: of matrix " + std::to_string(matrix.matrix) + ", " + what);
}

void check_part(const AdaptedMatrix& matrix, const AdapterPart& part, int32_t num_features, size_t index) {
  const std::string name = "part " + std::to_string(index) + ": ";
  const LowRankView& b = part.b;
  require(b.rank >= 1 && b.rank <= kMostRank, matrix, name + "the rank is not in [1, 256]");
  require(part.first_rank >= 0 && part.first_rank <= matrix.a.rows - b.rank, matrix, name + "A has too few rows");
  require(b.rows >= 1 && b.rows <= num_features, matrix, name + "has more outputs than the matrix");
  require(part.block_step >= kLowRankBlock && part.block_step <= num_features + kLowRankBlock && part.offset >= 0,
          matrix, name + "offset or block_step is out of range");
  const int64_t num_blocks = (b.rows + kLowRankBlock - 1) / kLowRankBlock;
  const int64_t last = part.offset + (num_blocks - 1) * part.block_step + (b.rows - 1) % kLowRankBlock;
  require(last < num_features, matrix, name + "its outputs pass the matrix' end");
}

}  // namespace

Adapter::Adapter(const Plan& plan, std::vector<AdaptedMatrix> matrices)
    : matrices_(std::move(matrices)), places_(plan.matrices.size(), -1) {
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const AdaptedMatrix& matrix = matrices_[i];
    const bool is_adaptable = std::ranges::any_of(
        plan.ops, [&](const Op& op) { return op.kind == OpKind::kAdapt && op.matrix == matrix.matrix; });
    require(is_adaptable, matrix, "the plan adapts no such matrix");
    const WeightMatrix& weights = plan.matrices[static_cast<size_t>(matrix.matrix)];
    require(matrix.cols == weights.cols, matrix, "A is not as wide as the matrix");
    int32_t& place = places_[static_cast<size_t>(matrix.matrix)];
    require(place == -1, matrix, "there are two entries");
    place = static_cast<int32_t>(i);
    for (size_t p = 0; p < matrix.parts.size(); ++p) check_part(matrix, matrix.parts[p], weights.view.rows, p);
    most_ranks_ = std::max(most_ranks_, matrix.a.rows);
  }
}

}  // namespace headrace
