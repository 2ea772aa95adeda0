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

}  // namespace

ProductCut cut_product(const MatrixView& matrix, int32_t blocks_per_unit, int32_t num_tokens, int num_threads) {
  ProductCut cut{num_tokens, num_tokens, matrix.row_blocks / blocks_per_unit, 0, 1};
  const int64_t token_bytes = static_cast<int64_t>(matrix.groups) * (kGroup + 8);
  const int64_t most_tokens = std::max<int64_t>(kChunkStep, kChunkBytes / token_bytes);
  const int32_t token_chunks = ceil_div(num_tokens, most_tokens);
  cut.tokens_per_task = ceil_div(ceil_div(num_tokens, token_chunks), kChunkStep) * kChunkStep;
  const int32_t tokens = std::min(cut.tokens_per_task, num_tokens);
  const double unit_ns = blocks_per_unit * static_cast<double>(matrix.groups) *
                         (matrix.tile_bytes / kBytesPerNs + tokens * (kTileRows * kGroup / kProductsPerNs));
  const double share = unit_ns * cut.num_units * token_chunks / (num_threads * kTasksPerThread);
  const double units = std::clamp(share, kSmallestTaskNs, kLargestTaskNs) / unit_ns;
  cut.units_per_task = std::clamp(static_cast<int32_t>(units + 0.5), 1, cut.num_units);
  cut.unit_chunks = ceil_div(cut.num_units, cut.units_per_task);
  // What a task cannot be numbered by, it must be larger by.
  while (static_cast<int64_t>(cut.unit_chunks) * token_chunks > kMaxTasks) {
    cut.units_per_task *= 2;
    cut.unit_chunks = ceil_div(cut.num_units, cut.units_per_task);
  }
  return cut;
}

}  // namespace headrace
