// The constants and the arithmetic of a product's cut; see product_cut.h.
#include "product_cut.h"

#include <algorithm>

#include "threads.h"

namespace headrace {
namespace {

// Activations of one token chunk stay in half of a small second-level cache while weights stream past.
constexpr int64_t kChunkBytes = 192 * 1024;
constexpr int32_t kChunkStep = 16;

// A rough price of work in nanoseconds of one thread, good enough to cut it: bytes of weights, and multiply-adds.
constexpr double kBytesPerNs = 16.0;
constexpr double kProductsPerNs = 150.0;

// A claim should dwarf its own cost (some 50 ns), and the last one should not keep the others waiting for long. Few
// tasks of a product that memory bounds: each is a stream of weights that has to get going (12 a thread read a quarter
// slower than 2).
constexpr double kSmallestTaskNs = 1000.0;
constexpr double kLargestTaskNs = 20000.0;
constexpr int32_t kTasksPerThread = 2;

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

int32_t token_chunks_of(const MatrixView& matrix, int32_t num_tokens) {
  const int64_t token_bytes = static_cast<int64_t>(matrix.groups) * (kGroup + 8);
  return ceil_div(num_tokens, std::max<int64_t>(kChunkStep, kChunkBytes / token_bytes));
}

int32_t tokens_of(int32_t num_tokens, int32_t token_chunks) {
  return ceil_div(ceil_div(num_tokens, token_chunks), kChunkStep) * kChunkStep;
}

double block_ns(const MatrixView& matrix, int32_t num_tokens) {
  return static_cast<double>(matrix.groups) *
         (matrix.tile_bytes / kBytesPerNs + num_tokens * (kTileRows * kGroup / kProductsPerNs));
}

}  // namespace

double product_ns(const MatrixView& matrix, int32_t num_tokens) {
  const int32_t token_chunks = token_chunks_of(matrix, num_tokens);
  const int32_t tokens = std::min(tokens_of(num_tokens, token_chunks), num_tokens);
  return block_ns(matrix, tokens) * matrix.row_blocks * token_chunks;
}

double task_ns(double total_ns, int num_threads) {
  return std::clamp(total_ns / (num_threads * kTasksPerThread), kSmallestTaskNs, kLargestTaskNs);
}

ProductCut cut_product_by(const MatrixView& matrix, int32_t blocks_per_unit, int32_t num_tokens, double task_ns) {
  ProductCut cut{num_tokens, num_tokens, matrix.row_blocks / blocks_per_unit, 0, 1};
  const int32_t token_chunks = token_chunks_of(matrix, num_tokens);
  cut.tokens_per_task = tokens_of(num_tokens, token_chunks);
  const double unit_ns = blocks_per_unit * block_ns(matrix, std::min(cut.tokens_per_task, num_tokens));
  cut.units_per_task = std::clamp(static_cast<int32_t>(task_ns / unit_ns + 0.5), 1, cut.num_units);
  cut.unit_chunks = ceil_div(cut.num_units, cut.units_per_task);
  return cut;
}

ProductCut cut_product(const MatrixView& matrix, int32_t blocks_per_unit, int32_t num_tokens, int num_threads) {
  const double wanted_ns = task_ns(product_ns(matrix, num_tokens), num_threads);
  ProductCut cut = cut_product_by(matrix, blocks_per_unit, num_tokens, wanted_ns);
  // What a task cannot be numbered by, it must be larger by.
  while (static_cast<int64_t>(cut.unit_chunks) * token_chunks_of(matrix, num_tokens) > kMaxTasks) {
    cut.units_per_task *= 2;
    cut.unit_chunks = ceil_div(cut.num_units, cut.units_per_task);
  }
  return cut;
}

}  // namespace headrace
