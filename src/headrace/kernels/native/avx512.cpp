// The AVX-512 variant, for CPUs with VNNI (products: products_avx512.h). Knows no threads and no plan. Compiled with
// this variant's flags only; dispatch.cpp asks the CPU before anybody comes here.
#include "variants.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX512VNNI__)

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the deliberately undefined registers inside its own intrinsics for mistakes (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include "low_rank.h"
#include "paged_attention.h"
#include "products_avx512.h"
#include "vector_math.h"
#include "vectors_avx512.h"

namespace headrace {
namespace {

// Sixteen chains of VNNI products: enough to cover the latency of one.
int64_t multiply(int64_t rounds, int32_t* sink) {
  constexpr int kChains = 16;
  __m512i codes = _mm512_set1_epi8(7);
  __m512i x = _mm512_set1_epi8(-3);
  HEADRACE_OPAQUE("+v", codes);
  HEADRACE_OPAQUE("+v", x);
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t round = 0; round < rounds; ++round) {
    for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, codes, x);
  }
  for (const __m512i sum : sums) *sink ^= _mm512_reduce_add_epi32(sum);
  return rounds * kChains * 2 * 64;
}

constexpr Kernels kAvx512{.name = "avx512",
                          .linear = linear_range<Avx512>,
                          .gated = gated_range<Avx512>,
                          .activated = activated_range<Avx512>,
                          .attention = attention_range<V512>,
                          .merge_attention = merge_attention_rows<V512>,
                          .quantize = quantize_row<V512>,
                          .quantize_rotated = quantize_rotated_row<V512>,
                          .rms_norm = rms_norm_row<V512>,
                          .layer_norm = layer_norm_row<V512>,
                          .pointwise = pointwise_row<V512>,
                          .narrow = narrow_row<V512>,
                          .multiply = multiply,
                          .quantize_head = quantize_head_row<V512>,
                          .add_low_rank = add_low_rank_range<V512>,
                          .activate = activate_row<V512>,
                          .softcap = softcap_row<V512>,
                          .dot_rows = dot_rows<V512>};

}  // namespace

const Kernels* avx512_variant() { return &kAvx512; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* avx512_variant() { return nullptr; }

}  // namespace headrace

#endif
