// The AMX variant: as avx512.cpp, but with many tokens a weight tile's 16 rows times 32 columns meet 16 tokens in one
// instruction, in registers that are tables (tiles). An 8-bit weight tile is the table as it lies in memory, a 4-bit
// one is unpacked first. The sums are the same integers and what follows them the same floats, so that both variants
// give the same bits. Knows no threads and no plan. Compiled with this variant's flags only; dispatch.cpp asks the CPU,
// and cpu.cpp the system, before anybody comes here.
#include "variants.h"

#if defined(__AMX_INT8__) && defined(__AMX_TILE__) && defined(__AVX512VNNI__)

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

constexpr int32_t kTableTokens = 16;  // rows of a table of activations, and of sums

// Tables 0 and 1 are sums [16 tokens][16 rows], 2 and 3 activations [16 tokens][32 columns], 4 and 5 weights
// [8 quads of columns][16 rows][4].
struct alignas(64) TableShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, kGroup, kGroup, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, kQuads, kQuads};
};

// The compiler does not know that loads of tables read memory.
inline void settle_memory() { __asm__ volatile("" ::: "memory"); }

// The thread's tables while it computes a range; given up behind it, so that the system need not save them.
class Tables {
 public:
  explicit Tables(int32_t num_tokens) : are_used_(num_tokens >= kTableTokens) {
    if (!are_used_) return;
    const TableShapes shapes;
    _tile_loadconfig(&shapes);
  }
  ~Tables() {
    if (are_used_) _tile_release();
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;

 private:
  bool are_used_;
};

struct Amx : Avx512 {
  using Session = Tables;
  static constexpr int32_t kManyTokens = kTableTokens;

  template <int kBits, bool kMinimum>
  static void add_tile(const uint8_t* bytes, const Tokens& x, int32_t group, float* acc) {
    alignas(64) int8_t unpacked[kQuads * 64];
    alignas(64) int8_t padded[kTableTokens * kGroup];
    alignas(64) int32_t dots[kTokenTile * kTileRows];
    const uint8_t* codes = bytes;
    if constexpr (kBits == 4) {
      unpack(bytes, unpacked);
      codes = reinterpret_cast<const uint8_t*>(unpacked);
    }
    const int8_t* tokens = x.codes + group * kGroup;
    const int32_t whole = x.count / kTableTokens * kTableTokens;
    if (whole < x.count) {
      // Rows behind the last token are whatever was there: nobody reads their sums.
      for (int32_t n = whole; n < x.count; ++n) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(padded + (n - whole) * kGroup),
                           _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tokens + n * x.width)));
      }
    }
    settle_memory();
    _tile_loadd(4, codes, 64);
    _tile_zero(0);
    _tile_loadd(2, tokens, x.width);
    _tile_dpbssd(0, 2, 4);
    if (x.count > kTableTokens) {
      if (whole == kTokenTile) {
        _tile_loadd(3, tokens + kTableTokens * x.width, x.width);
      } else {
        _tile_loadd(3, padded, kGroup);
      }
      _tile_zero(1);
      _tile_dpbssd(1, 3, 4);
      _tile_stored(1, dots + kTableTokens * kTileRows, 64);
    }
    _tile_stored(0, dots, 64);
    settle_memory();
    scale_dots<kBits, kMinimum>(bytes, x, group, dots, acc);
  }

 private:
  // Codes of 0..15 as signed bytes, quad after quad.
  static void unpack(const uint8_t* bytes, int8_t* to) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; ++j) {
      const __m512i both = _mm512_loadu_si512(bytes + 64 * j);
      _mm512_store_si512(to + 64 * j, _mm512_and_si512(both, low));
      _mm512_store_si512(to + 64 * (j + 4), _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
    }
  }

  template <int kBits, bool kMinimum>
  static void scale_dots(const uint8_t* bytes, const Tokens& x, int32_t group, const int32_t* dots, float* acc) {
    const uint8_t* halves = bytes + 64 * kBits;
    const __m512 scale = V512::load(reinterpret_cast<const uint16_t*>(halves));
    const __m512 minimum = kMinimum ? V512::load(reinterpret_cast<const uint16_t*>(halves + 32)) : V512::zero();
    const float* x_scale = x.scales + group;
    const float* x_sum = x.sums + group;
    for (int32_t n = 0; n < x.count; ++n, acc += kTileRows, x_scale += x.groups, x_sum += x.groups) {
      const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots + n * kTileRows));
      __m512 sum = _mm512_fmadd_ps(dot, _mm512_mul_ps(scale, V512::set(*x_scale)), V512::load(acc));
      if constexpr (kMinimum) sum = _mm512_fmadd_ps(minimum, V512::set(*x_sum), sum);
      V512::store(acc, sum);
    }
  }
};

// Two tables of sums in turn, from tables that stay as they are.
int64_t multiply(int64_t rounds, int32_t* sink) {
  alignas(64) int8_t codes[kQuads * 64];
  alignas(64) int32_t sums[kTableTokens * kTileRows];
  __builtin_memset(codes, 3, sizeof codes);
  const Tables tables(kTableTokens);
  settle_memory();
  _tile_loadd(2, codes, kGroup);
  _tile_loadd(4, codes, 64);
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbssd(0, 2, 4);
    _tile_dpbssd(1, 2, 4);
  }
  for (int table = 0; table < 2; ++table) {
    if (table == 0) {
      _tile_stored(0, sums, 64);
    } else {
      _tile_stored(1, sums, 64);
    }
    settle_memory();
    for (const int32_t sum : sums) *sink ^= sum;
  }
  return rounds * 2 * 2 * kTableTokens * kTileRows * kGroup;
}

constexpr Kernels kAmx{.name = "amx",
                       .linear = linear_range<Amx>,
                       .gated = gated_range<Amx>,
                       .activated = activated_range<Amx>,
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

const Kernels* amx_variant() { return &kAmx; }

}  // namespace headrace

#else

namespace headrace {

const Kernels* amx_variant() { return nullptr; }

}  // namespace headrace

#endif
