// The boundary between the executor and the compute kernels: plain functions on views.
//
// Ownership: the caller owns every byte, before and after; nothing here allocates, throws or keeps a pointer.
// Threads: each function computes only the range it is given and is called from many threads at once.
// Float order: for one output element the sequence of float operations depends on that element alone, never on the
// range, the number of tokens or the thread, so that results are equal in every batch. Within one variant this holds
// bit for bit; variants agree with `reference.py` within the limits named in the tests.
//
// Variants: portable.cpp (any CPU, the readable one), avx2.cpp, avx512.cpp (VNNI), amx.cpp (tables of bytes besides),
// neon.cpp (ARM dot products). `best_kernels` picks by CPU features once;
// HEADRACE_KERNELS=portable|avx2|avx512|amx|neon forces one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace headrace {

inline constexpr int kGroup = 32;       // columns per quantisation group
inline constexpr int kTileRows = 16;    // rows per weight tile
inline constexpr int kPageTokens = 32;  // tokens per KV page
inline constexpr int kMostHeadDim = 4096;
inline constexpr int kMostExperts = 4096;
inline constexpr int kSpanTokens = 512;  // attention partials cover key positions [512 i, 512 (i+1)), merged in order

// A packed matrix (layout: grouped.py). Tile t of row block b starts at tiles + (b * groups + t) * tile_bytes.
struct MatrixView {
  const uint8_t* tiles;
  int32_t rows;        // real rows; the last tile may hold padding
  int32_t row_blocks;  // ceil(rows / 16)
  int32_t groups;      // padded columns / 32
  int32_t bits;        // 4 or 8
  bool has_minimum;
  int32_t tile_bytes;
};

// Quantised activations of n tokens: codes [n][width], scales and sums [n][width / 32]; sums = scale * sum of the
// codes.
struct Q8View {
  int8_t* codes;
  float* scales;
  float* sums;
  int32_t width;  // multiple of 32
};

// Where a product goes: exactly one of f32 and q8.codes is set.
struct Output {
  float* f32;      // [n][stride]
  int64_t stride;  // floats per row of f32
  Q8View q8;
};

// kGelu is the exact one, x * Phi(x). Gated products take the first two only.
enum class Activation : int32_t { kSilu = 0, kGeluTanh = 1, kGelu = 2, kTanh = 3, kRelu = 4 };
inline constexpr int32_t kNumActivations = 5;

struct LinearTask {
  MatrixView matrix;
  Q8View x;  // first token of the range
  int32_t num_tokens;
  int32_t block_begin, block_end;  // row blocks of 16
  const float* bias;               // [rows] or null
  float* out;                      // first token of the range, [num_tokens][stride]; only real rows are written
  int64_t stride;
  bool accumulate;  // out += instead of out =
};

struct GatedTask {
  MatrixView matrix;  // 32 gate rows, 32 up rows, alternating: pair p is row blocks 4p .. 4p+3
  Q8View x;
  int32_t num_tokens;
  int32_t pair_begin, pair_end;  // each pair gives 32 output features, i.e. one quantised group
  Activation activation;
  Output out;  // first token of the range
};

// out = activation(x @ matrix^T + bias), rotated as quantize_rotated has it where asked for.
struct ActivatedTask {
  MatrixView matrix;
  Q8View x;  // first token of the range
  int32_t num_tokens;
  int32_t group_begin, group_end;  // groups of 32 outputs, two row blocks each
  const float* bias;               // [rows] or null
  Activation activation;
  bool rotates;
  Output out;  // first token of the range
};

// The second factor of a low-rank product (layout: low_rank.py): outputs in blocks of 32, each block codes int8
// [ceil(rank / 2)][32][2], then fp16 scales [ceil(rank / 32)][32].
struct LowRankView {
  const uint8_t* blocks;
  int32_t rows;  // real outputs; the last block may hold padding
  int32_t rank;
  int32_t block_bytes;
  float factor;
};

inline constexpr int kLowRankBlock = 32;  // outputs of a block
inline constexpr int kMostRank = 256;

constexpr int32_t low_rank_block_bytes(int32_t rank) {
  return kLowRankBlock * ((rank + 1) / 2 * 2 + 2 * ((rank + kGroup - 1) / kGroup));
}

// out += factor * B u: u [num_tokens][u_stride] holds `rank` floats a token, at most kMostRank, which are rounded to 16
// bits in groups of 32 (code = round-half-even(u * 32767 / amax)); block i of the outputs is the features i *
// block_step and following of a token.
struct LowRankTask {
  LowRankView b;
  const float* u;
  int64_t u_stride;
  int32_t num_tokens;
  int32_t block_begin, block_end;
  float* out;  // first token, feature 0 of the part: [num_tokens][stride]; only real outputs are touched
  int64_t stride;
  int64_t block_step;
};

// How keys and values are stored. It belongs to a pool, not to a plan.
enum class KvKind : int32_t { kHalf = 0, kInt8 = 1 };

// The pages of one layer. The plane of page p and KV head h starts at
// pool + p * page_stride + layer_offset + h * head_stride, all in bytes. What a plane holds:
//   kHalf  keys fp16 [head_dim][32], values fp16 [32][head_dim]
//   kInt8  (head_dim a multiple of 32) keys uint8 [head_dim / 4][32 tokens][4]: code + 128; values int8
//          [8 token quads][head_dim][4 tokens]; key scales float [32], value scales float [32]: one per token,
//          as quantize_head gives them
// Pages always hold finite numbers (a pool starts at zero, stores clamp), so masked slots may be read.
struct PagesView {
  const uint8_t* pool;
  int64_t page_stride;
  int64_t layer_offset;
  int64_t head_stride;
  KvKind kind;
};

// Bytes of one plane.
constexpr int64_t kv_plane_bytes(KvKind kind, int64_t head_dim) {
  return kind == KvKind::kHalf ? 4 * head_dim * kPageTokens : (2 * head_dim + 8) * kPageTokens;
}

// Some new tokens of one sequence: the members of an attention task.
struct AttentionRows {
  const int32_t* page_table;
  const float* q;      // first query token; query head h at q + h * head_dim
  int32_t position;    // of the first query token; the others follow
  int32_t num_tokens;  // at least 1
  int32_t num_keys;    // keys in the sequence (positions 0 .. num_keys - 1), for bidirectional
  Output out;          // first query token; feature = query head * head_dim + d (q8 only if head_dim % 32 == 0)
};

// Attention of all members under one KV head. The query rows, counted through the members, are token by token the
// heads_per_kv heads; together at most attention_tokens_per_task(heads_per_kv) tokens. For every page index, maximal
// runs of neighbouring members with the same page are one product, so sequences that share pages should be neighbours.
// A row's result does not depend on its neighbours, nor on how the spans are divided among tasks.
//
// Partials, for one long context on many threads: with `partials` set, nothing is written to the outputs; for each span
// in span_begin..span_end every row's partial sum goes to partials[span - span_begin][row], in a form that
// merge_attention of the same variant knows: attention_partial_floats(1, head_dim) floats a row.
struct AttentionTask {
  PagesView pages;
  const AttentionRows* members;
  int32_t num_members;
  int64_t q_stride;  // floats between tokens
  int32_t kv_head;
  int32_t heads_per_kv;  // query heads kv_head * heads_per_kv ...
  int32_t head_dim;      // vector variants: a multiple of 8; 64 and 128 are the fast ones
  int32_t mode;          // 0 causal, 1 window, 2 bidirectional
  int32_t window;        // keys a query sees in mode 1, its own included
  float scale;
  float softcap;                 // 0 = none; else s = softcap * tanh(s / softcap)
  int32_t span_begin, span_end;  // spans of kSpanTokens keys; looked at only with `partials`
  float* partials;               // null: all spans are merged and written out
  float* scratch;                // attention_scratch_floats() floats, private to the calling thread
};

// Merges partials [num_spans][rows] of spans 0, 1, ... in order and writes the members' outputs. The result has the
// bits of one task without partials.
struct AttentionMergeTask {
  const AttentionRows* members;  // as they were in the tasks that wrote the partials
  int32_t num_members;
  int32_t kv_head, heads_per_kv, head_dim;
  const float* partials;
  int32_t num_spans;
  float* scratch;
};

struct Kernels {
  const char* name;
  void (*linear)(const LinearTask&);
  void (*gated)(const GatedTask&);
  void (*activated)(const ActivatedTask&);
  void (*attention)(const AttentionTask&);
  void (*merge_attention)(const AttentionMergeTask&);
  // code = round-half-even(x * 127 / amax), scale = amax / 127 (all zero if amax is 0), sum = scale * sum(codes);
  // columns from `width` up to out.width are written as zero. One row.
  void (*quantize)(const float* x, int32_t width, const Q8View& out);
  // The same of x rotated, width being whole groups: every group of 32 times the orthonormal Walsh-Hadamard matrix
  // (Sylvester's order; added up neighbours first).
  void (*quantize_rotated)(const float* x, int32_t width, const Q8View& out);
  // y = x / sqrt(mean(x^2) + eps) * weight; y may be x.
  void (*rms_norm)(const float* x, const float* weight, int32_t width, float eps, float* y);
  // y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias; y may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, int32_t width, float eps, float* y);
  // y[i] = activation(x[i]); y may be x.
  void (*pointwise)(const float* x, int32_t count, Activation activation, float* y);
  // halves[i] = float_to_half(x[i]), bit for bit.
  void (*narrow)(const float* x, int32_t count, uint16_t* halves);
  // The ceiling of this variant's products: integer multiply-adds as its 4-bit product makes them, on data that never
  // leaves the registers (portable: the first-level cache). Returns the operations done, two a multiply-add, and adds
  // to *sink a value that needs them all.
  int64_t (*multiply)(int64_t rounds, int32_t* sink);
  // One head of a key, value or query: codes[i] = round-half-even(x[i] * 127 / amax), *scale = amax / 127, after
  // clamping x (NaN too) to what fp16 holds; all zero if amax is 0. Returns the sum of the codes.
  int32_t (*quantize_head)(const float* x, int32_t count, int8_t* codes, float* scale);
  void (*add_low_rank)(const LowRankTask&);
  // The end of gated() alone, with its bits: x holds `num_pairs` times 32 gate and 32 up features. One row.
  void (*activate)(const float* x, int32_t num_pairs, Activation activation, const Output& out);
  // In place: x = cap * tanh(x / cap); NaN where x is infinite or NaN, so that a broken row still shows.
  void (*softcap)(float* x, int64_t count, float cap);
  // out[r] = x . row r of `rows` [num_rows][width], in float32.
  void (*dot_rows)(const float* x, const float* rows, int32_t width, int32_t num_rows, float* out);
};

// Scratch that one thread needs for attention() and merge_attention() with up to `max_rows` query rows (tokens of all
// members times heads_per_kv).
size_t attention_scratch_floats(int32_t max_rows, int32_t head_dim);

// Floats of one span's partials of so many query rows.
size_t attention_partial_floats(int32_t num_rows, int32_t head_dim);

// The most tokens one AttentionTask may carry for this many heads_per_kv (keeps the scratch in L2).
int32_t attention_tokens_per_task(int32_t heads_per_kv);

// The kernels whose attention takes this head_dim: `kernels`, or the portable ones.
const Kernels& attention_kernels(const Kernels& kernels, int32_t head_dim);

const Kernels* portable_kernels();
const Kernels* avx2_kernels();    // null when not compiled in or the CPU lacks AVX2+FMA+F16C
const Kernels* avx512_kernels();  // null when not compiled in or the CPU lacks AVX-512 F/BW/VL/DQ + VNNI
const Kernels* amx_kernels();     // null when the AVX-512 ones are, or the CPU or the system has no AMX for bytes
const Kernels* neon_kernels();    // null when not compiled in or the CPU lacks the dot-product instructions
std::vector<const Kernels*> runnable_kernels();   // every variant that can run here, best first
const Kernels* best_kernels(const char* forced);  // forced: null, or a name; null result when unavailable

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);  // round to nearest even, clamped to +-65504

}  // namespace headrace
