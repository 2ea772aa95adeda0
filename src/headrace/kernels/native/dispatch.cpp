// Which kernel variant runs: asks the CPU once, honours a forced name. Knows no arithmetic.
#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "cpu.h"
#include "kernels.h"
#include "variants.h"

namespace headrace {
namespace {

bool has_all(std::initializer_list<const char*> features) { return std::ranges::all_of(features, cpu_has); }

}  // namespace

const Kernels* avx2_kernels() { return has_all({"avx2", "fma", "f16c"}) ? avx2_variant() : nullptr; }

const Kernels* avx512_kernels() {
  const bool runs = avx2_kernels() != nullptr && has_all({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"});
  return runs ? avx512_variant() : nullptr;
}

const Kernels* amx_kernels() {
  return avx512_kernels() != nullptr && has_all({"amx_tile", "amx_int8"}) ? amx_variant() : nullptr;
}

const Kernels* neon_kernels() { return cpu_has("neon_dotprod") ? neon_variant() : nullptr; }

std::vector<const Kernels*> runnable_kernels() {
  std::vector<const Kernels*> found;
  for (const Kernels* kernels : {amx_kernels(), avx512_kernels(), avx2_kernels(), neon_kernels(), portable_kernels()}) {
    if (kernels != nullptr) found.push_back(kernels);
  }
  return found;
}

const Kernels* best_kernels(const char* forced) {
  for (const Kernels* kernels : runnable_kernels()) {
    if (forced == nullptr || std::strcmp(kernels->name, forced) == 0) return kernels;
  }
  return nullptr;
}

const Kernels& attention_kernels(const Kernels& kernels, int32_t head_dim) {
  return head_dim % 8 == 0 ? kernels : *portable_kernels();
}

size_t attention_scratch_floats(int32_t max_rows, int32_t head_dim) {
  // Queries, two sums and a span's scores per row, ten running values and (at most) one token's place per row, one
  // widened page. Every array is rounded up to 16 floats and the first starts on a 64-byte boundary, hence the slack.
  const auto rows = static_cast<size_t>(max_rows);
  const auto width = static_cast<size_t>(head_dim + kGroup - 1) / kGroup * kGroup;
  constexpr size_t kArrays = 16;
  constexpr size_t kPlace = 8;
  return rows * (3 * width + kSpanTokens + 10 + kPlace) + 2 * width * kPageTokens + 16 * (kArrays + 1);
}

size_t attention_partial_floats(int32_t num_rows, int32_t head_dim) {
  return static_cast<size_t>(num_rows) * (static_cast<size_t>(head_dim + kGroup - 1) / kGroup * kGroup + 2);
}

int32_t attention_tokens_per_task(int32_t heads_per_kv) { return std::max(1, kAttentionRows / heads_per_kv); }

}  // namespace headrace
