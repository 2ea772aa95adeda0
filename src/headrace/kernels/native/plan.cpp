// Decoding and checking of plans: a table of operands, then one check per kind. After it no operand can be out of
// range.
#include "plan.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

namespace headrace {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxCount = int64_t{1} << 28;
constexpr size_t kMaxList = size_t{1} << 20;

struct Signature {
  const char* name;
  std::vector<std::pair<const char*, int32_t Op::*>> ints;
  std::vector<std::pair<const char*, float Op::*>> floats;
};

const std::vector<Signature>& signatures() {
  static const std::vector<Signature> table = {
      {"EMBED", {{"matrix", &Op::matrix}, {"out", &Op::out}}, {{"scale", &Op::scale}}},
      {"RMS_NORM", {{"x", &Op::x}, {"weight", &Op::vector}, {"out", &Op::out}}, {{"eps", &Op::eps}}},
      {"QUANTIZE", {{"x", &Op::x}, {"out", &Op::out}}, {}},
      {"HEAD_NORM",
       {{"x", &Op::x},
        {"weight", &Op::vector},
        {"offset", &Op::offset},
        {"num_heads", &Op::num_heads},
        {"head_dim", &Op::head_dim}},
       {{"eps", &Op::eps}}},
      {"ROPE",
       {{"x", &Op::x},
        {"table", &Op::vector},
        {"offset", &Op::offset},
        {"num_heads", &Op::num_heads},
        {"head_dim", &Op::head_dim},
        {"rotary_dim", &Op::rotary_dim},
        {"style", &Op::style}},
       {}},
      {"STORE_KV",
       {{"x", &Op::x}, {"layer", &Op::layer}, {"k_offset", &Op::k_offset}, {"v_offset", &Op::v_offset}},
       {}},
      {"LINEAR",
       {{"x", &Op::x},
        {"matrix", &Op::matrix},
        {"bias", &Op::vector},
        {"out", &Op::out},
        {"accumulate", &Op::accumulate}},
       {}},
      {"GATED", {{"x", &Op::x}, {"matrix", &Op::matrix}, {"out", &Op::out}, {"activation", &Op::activation}}, {}},
      {"ATTENTION",
       {{"x", &Op::x},
        {"out", &Op::out},
        {"layer", &Op::layer},
        {"q_offset", &Op::offset},
        {"num_heads", &Op::num_heads},
        {"mode", &Op::mode},
        {"window", &Op::window}},
       {{"scale", &Op::scale}, {"softcap", &Op::softcap}}},
      {"ADD", {{"x", &Op::x}, {"out", &Op::out}}, {}},
      {"SELECT", {{"x", &Op::x}, {"out", &Op::out}}, {}},
      {"HADAMARD",
       {{"x", &Op::x}, {"offset", &Op::offset}, {"num_heads", &Op::num_heads}, {"head_dim", &Op::head_dim}},
       {}},
      {"ADAPT", {{"x", &Op::x}, {"matrix", &Op::matrix}, {"out", &Op::out}}, {}},
      {"ACTIVATE", {{"x", &Op::x}, {"out", &Op::out}, {"activation", &Op::activation}}, {}},
      {"LAYER_NORM",
       {{"x", &Op::x}, {"weight", &Op::vector}, {"bias", &Op::bias}, {"out", &Op::out}},
       {{"eps", &Op::eps}}},
      {"POINTWISE", {{"x", &Op::x}, {"out", &Op::out}, {"activation", &Op::activation}}, {}},
      {"POSITION", {{"table", &Op::vector}, {"offset", &Op::offset}, {"out", &Op::out}}, {}},
      {"SEGMENT", {{"table", &Op::vector}, {"out", &Op::out}}, {}},
      {"ROTATE", {{"x", &Op::x}, {"out", &Op::out}}, {}},
      {"SOFTCAP", {{"x", &Op::x}}, {{"cap", &Op::softcap}}},
      {"ROUTE", {{"x", &Op::x}, {"weight", &Op::vector}, {"out", &Op::out}, {"renormalise", &Op::renormalise}}, {}},
      {"EXPERTS",
       {{"x", &Op::x},
        {"route", &Op::other},
        {"matrix", &Op::matrix},
        {"down", &Op::down},
        {"out", &Op::out},
        {"num_experts", &Op::num_experts},
        {"accumulate", &Op::accumulate},
        {"activation", &Op::activation}},
       {}},
      {"ADD_GATED", {{"x", &Op::x}, {"weight", &Op::vector}, {"y", &Op::other}, {"out", &Op::out}}, {}},
      {"ACTIVATED",
       {{"x", &Op::x},
        {"matrix", &Op::matrix},
        {"bias", &Op::vector},
        {"out", &Op::out},
        {"activation", &Op::activation},
        {"rotates", &Op::rotates}},
       {}},
  };
  return table;
}

int64_t padded_width(int64_t width) { return (width + kGroup - 1) / kGroup * kGroup; }

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

// Checks one op; every refusal names the op's index, its kind and the operand.
class OpCheck {
 public:
  OpCheck(const Plan& plan, size_t index) : plan_(plan), op_(plan.ops[index]), index_(index) {}

  void run() const {
    switch (op_.kind) {
      case OpKind::kEmbed:
        return embed();
      case OpKind::kRmsNorm:
        return rms_norm();
      case OpKind::kQuantize:
        return quantize();
      case OpKind::kHeadNorm:
        return head_norm();
      case OpKind::kRope:
        return rope();
      case OpKind::kStoreKv:
        return store_kv();
      case OpKind::kLinear:
        return linear();
      case OpKind::kGated:
        return gated();
      case OpKind::kAttention:
        return attention();
      case OpKind::kAdd:
        return add();
      case OpKind::kSelect:
        return select();
      case OpKind::kHadamard:
        return hadamard();
      case OpKind::kAdapt:
        return adapt();
      case OpKind::kActivate:
        return activate();
      case OpKind::kRotate:
        return rotate();
      case OpKind::kActivated:
        return activated();
      case OpKind::kLayerNorm:
        return layer_norm();
      case OpKind::kPointwise:
        return pointwise();
      case OpKind::kPosition:
        return position();
      case OpKind::kSegment:
        return segment();
      case OpKind::kSoftcap:
        return softcap();
      case OpKind::kRoute:
        return route();
      case OpKind::kExperts:
        return experts();
      case OpKind::kAddGated:
        return add_gated();
    }
  }

 private:
  void require(bool holds, const char* operand, const std::string& why) const {
    if (holds) return;
    refuse("ops[" + std::to_string(index_) + "] " + signatures()[static_cast<size_t>(op_.kind)].name + ": " + operand +
           " " + why);
  }

  const Buffer& buffer(int32_t index, const char* operand) const {
    require(index >= 0 && static_cast<size_t>(index) < plan_.buffers.size(), operand,
            "names buffer " + std::to_string(index) + ", which does not exist");
    return plan_.buffers[index];
  }

  const Buffer& buffer(int32_t index, BufferKind kind, const char* operand) const {
    const Buffer& found = buffer(index, operand);
    require(found.kind == kind, operand, kind == BufferKind::kF32 ? "must be a F32 buffer" : "must be a Q8 buffer");
    return found;
  }

  const WeightMatrix& matrix() const { return matrix(op_.matrix, "matrix"); }

  const WeightMatrix& matrix(int32_t index, const char* operand) const {
    require(index >= 0 && static_cast<size_t>(index) < plan_.matrices.size(), operand,
            "names matrix " + std::to_string(index) + ", which does not exist");
    return plan_.matrices[index];
  }

  int64_t size_of(int32_t vector, const char* operand) const {
    require(vector >= 0 && static_cast<size_t>(vector) < plan_.vectors.size(), operand,
            "names vector " + std::to_string(vector) + ", which does not exist");
    return plan_.vectors[vector].size;
  }

  void vector_of(int32_t vector, int64_t size, const char* operand) const {
    const int64_t found = size_of(vector, operand);
    require(found == size, operand, "has " + std::to_string(found) + " values, not " + std::to_string(size));
  }

  void vector_of(int64_t size, const char* operand) const { vector_of(op_.vector, size, operand); }

  // The rows of a table that are added to the rows of `out`.
  int64_t table_rows(const char* operand) const {
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    require(out.rows == Rows::kTokens, "out", "must have one row per token");
    const int64_t size = size_of(op_.vector, operand);
    require(size >= out.width && size % out.width == 0, operand,
            "has " + std::to_string(size) + " values, which are no rows of " + std::to_string(out.width));
    return size / out.width;
  }

  void same_rows(const Buffer& x, const Buffer& out) const {
    require(x.rows == out.rows, "out", "has rows of another kind than x");
  }

  // `out` holds `width` features, padded to whole groups if it is quantised.
  void holds(const Buffer& out, int64_t width) const {
    const int64_t expected = out.kind == BufferKind::kQ8 ? padded_width(width) : width;
    require(out.width == expected, "out", "is " + std::to_string(out.width) + " wide, not " + std::to_string(expected));
  }

  void heads_fit(const Buffer& x, int64_t offset, int64_t heads, int64_t head_dim, const char* operand) const {
    require(offset >= 0 && heads >= 1 && head_dim >= 1 && offset + heads * head_dim <= x.width, operand,
            "with its heads does not lie inside x, which is " + std::to_string(x.width) + " wide");
  }

  void layer_exists() const {
    require(op_.layer >= 0 && op_.layer < plan_.cache.num_layers, "layer",
            std::to_string(op_.layer) + " is not one of the cache's " + std::to_string(plan_.cache.num_layers));
  }

  void embed() const {
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    require(out.rows == Rows::kTokens, "out", "must have one row per token");
    require(matrix().view.rows >= plan_.vocab_size, "matrix", "has fewer rows than the vocabulary");
    require(out.width == matrix().cols, "out", "is not as wide as the matrix");
  }

  void rms_norm() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, "out");
    same_rows(x, out);
    holds(out, x.width);
    vector_of(x.width, "weight");
  }

  void quantize() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kQ8, "out");
    same_rows(x, out);
    holds(out, x.width);
  }

  void rotate() const {
    quantize();
    require(plan_.buffers[op_.x].width % kGroup == 0, "x", "must have its features in groups of 32");
  }

  void head_norm() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    heads_fit(x, op_.offset, op_.num_heads, op_.head_dim, "offset");
    vector_of(op_.head_dim, "weight");
  }

  void hadamard() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    heads_fit(x, op_.offset, op_.num_heads, op_.head_dim, "offset");
    require((op_.head_dim & (op_.head_dim - 1)) == 0, "head_dim", "must be a power of two");
  }

  void rope() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    require(x.rows == Rows::kTokens, "x", "must have one row per token");
    heads_fit(x, op_.offset, op_.num_heads, op_.head_dim, "offset");
    require(op_.rotary_dim >= 2 && op_.rotary_dim % 2 == 0 && op_.rotary_dim <= op_.head_dim, "rotary_dim",
            "must be even and at most head_dim");
    require(op_.style == 0 || op_.style == 1, "style", "must be 0 or 1");
    vector_of(static_cast<int64_t>(plan_.max_positions) * op_.rotary_dim, "table");
  }

  void store_kv() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    require(x.rows == Rows::kTokens, "x", "must have one row per token");
    layer_exists();
    heads_fit(x, op_.k_offset, plan_.cache.num_kv_heads, plan_.cache.head_dim, "k_offset");
    heads_fit(x, op_.v_offset, plan_.cache.num_kv_heads, plan_.cache.head_dim, "v_offset");
  }

  void linear() const {
    const Buffer& x = buffer(op_.x, BufferKind::kQ8, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(x.width == padded_width(matrix().cols), "x", "is not as wide as the matrix");
    require(out.width == matrix().view.rows, "out", "is not as wide as the matrix has rows");
    if (op_.vector != -1) vector_of(matrix().view.rows, "bias");
    require(op_.accumulate == 0 || op_.accumulate == 1, "accumulate", "must be 0 or 1");
  }

  void gated() const {
    const Buffer& x = buffer(op_.x, BufferKind::kQ8, "x");
    const Buffer& out = buffer(op_.out, "out");
    same_rows(x, out);
    require(op_.x != op_.out, "out", "must be another buffer than x");
    require(x.width == padded_width(matrix().cols), "x", "is not as wide as the matrix");
    require(matrix().view.rows % (2 * kGroup) == 0, "matrix", "must have its rows in pairs of 32");
    holds(out, matrix().view.rows / 2);
    require(op_.activation == 0 || op_.activation == 1, "activation", "must be 0 or 1");
  }

  void activated() const {
    const Buffer& x = buffer(op_.x, BufferKind::kQ8, "x");
    const Buffer& out = buffer(op_.out, "out");
    same_rows(x, out);
    require(op_.x != op_.out, "out", "must be another buffer than x");
    require(x.width == padded_width(matrix().cols), "x", "is not as wide as the matrix");
    require(matrix().view.rows % kGroup == 0, "matrix", "must have its rows in groups of 32");
    holds(out, matrix().view.rows);
    if (op_.vector != -1) vector_of(matrix().view.rows, "bias");
    require(op_.rotates == 0 || op_.rotates == 1, "rotates", "must be 0 or 1");
    known_activation();
  }

  void known_activation() const {
    require(op_.activation >= 0 && op_.activation < kNumActivations, "activation",
            "must be below " + std::to_string(kNumActivations));
  }

  void adapt() const {
    const Buffer& x = buffer(op_.x, BufferKind::kQ8, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(x.width == padded_width(matrix().cols), "x", "is not as wide as the matrix");
    require(out.width == matrix().view.rows, "out", "is not as wide as the matrix has rows");
  }

  void activate() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, "out");
    same_rows(x, out);
    require(op_.x != op_.out, "out", "must be another buffer than x");
    require(x.width % (2 * kGroup) == 0, "x", "must have its features in pairs of 32");
    holds(out, x.width / 2);
    require(op_.activation == 0 || op_.activation == 1, "activation", "must be 0 or 1");
  }

  void layer_norm() const {
    rms_norm();
    vector_of(op_.bias, plan_.buffers[op_.x].width, "bias");
  }

  void pointwise() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, "out");
    same_rows(x, out);
    holds(out, x.width);
    known_activation();
  }

  void position() const {
    require(op_.offset >= 0, "offset", "must not be negative");
    const int64_t needed = static_cast<int64_t>(plan_.max_positions) + op_.offset;
    const int64_t rows = table_rows("table");
    require(rows >= needed, "table", "has " + std::to_string(rows) + " rows, not " + std::to_string(needed));
  }

  void segment() const { table_rows("table"); }

  void softcap() const {
    buffer(op_.x, BufferKind::kF32, "x");
    require(op_.softcap > 0.0f, "cap", "must be above 0");
  }

  void route() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(op_.x != op_.out, "out", "must be another buffer than x");
    require(op_.vector >= 0 && static_cast<size_t>(op_.vector) < plan_.vectors.size(), "weight",
            "names vector " + std::to_string(op_.vector) + ", which does not exist");
    const int64_t size = plan_.vectors[op_.vector].size;
    require(size % x.width == 0 && size / x.width <= kMostExperts, "weight",
            "must hold one row as wide as x for each of at most " + std::to_string(kMostExperts) + " experts");
    require(out.width % 2 == 0 && out.width / 2 <= size / x.width, "out",
            "must be twice as wide as experts are chosen, and no more are chosen than there are");
    require(op_.renormalise == 0 || op_.renormalise == 1, "renormalise", "must be 0 or 1");
  }

  void experts() const {
    const Buffer& x = buffer(op_.x, BufferKind::kQ8, "x");
    const Buffer& routes = buffer(op_.other, BufferKind::kF32, "route");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(routes.rows == x.rows, "route", "has rows of another kind than x");
    require(op_.other != op_.out, "out", "must be another buffer than route");
    require(op_.num_experts >= 1 && op_.num_experts <= kMostExperts, "num_experts",
            "must be in [1, " + std::to_string(kMostExperts) + "]");
    require(routes.width % 2 == 0 && routes.width / 2 <= op_.num_experts, "route",
            "must be twice as wide as experts are chosen, and no more are chosen than there are");
    const int64_t count = op_.num_experts;
    require(x.width == padded_width(matrix().cols), "x", "is not as wide as the matrix");
    require(matrix().view.rows % (2 * kGroup * count) == 0, "matrix",
            "must have each expert's rows in pairs of 32, as many for each");
    const WeightMatrix& down = matrix(op_.down, "down");
    require(padded_width(down.cols) == matrix().view.rows / count / 2, "down",
            "is not as wide as the matrix has pairs");
    require(down.view.rows % (kTileRows * count) == 0 && down.view.rows / count - out.width >= 0 &&
                down.view.rows / count - out.width < kTileRows,
            "down", "must have as many rows for each expert as out is wide, padded to whole tiles of 16");
    require(op_.accumulate == 0 || op_.accumulate == 1, "accumulate", "must be 0 or 1");
    require(op_.activation == 0 || op_.activation == 1, "activation", "must be 0 or 1");
  }

  void add_gated() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& y = buffer(op_.other, BufferKind::kF32, "y");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(y.rows == out.rows, "y", "has rows of another kind than out");
    require(y.width == out.width, "out", "is not as wide as y");
    vector_of(x.width, "weight");
  }

  void attention() const {
    const CacheShape& cache = plan_.cache;
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, "out");
    require(x.rows == Rows::kTokens, "x", "must have one row per token");
    same_rows(x, out);
    require(op_.x != op_.out, "out", "must be another buffer than x");
    layer_exists();
    heads_fit(x, op_.offset, op_.num_heads, cache.head_dim, "q_offset");
    require(op_.num_heads % cache.num_kv_heads == 0, "num_heads", "is not a multiple of the cache's KV heads");
    require(out.kind == BufferKind::kF32 || cache.head_dim % kGroup == 0, "out",
            "can be Q8 only if head_dim is a multiple of 32");
    holds(out, static_cast<int64_t>(op_.num_heads) * cache.head_dim);
    require(op_.mode >= 0 && op_.mode <= 2, "mode", "must be 0, 1 or 2");
    require(op_.mode != 1 || op_.window >= 1, "window", "must be at least 1");
  }

  void add() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    same_rows(x, out);
    require(x.width == out.width, "out", "is not as wide as x");
  }

  void select() const {
    const Buffer& x = buffer(op_.x, BufferKind::kF32, "x");
    const Buffer& out = buffer(op_.out, BufferKind::kF32, "out");
    require(x.rows == Rows::kTokens, "x", "must have one row per token");
    require(out.rows == Rows::kSelected, "out", "must have one row per selected token");
    require(x.width == out.width, "out", "is not as wide as x");
  }

  const Plan& plan_;
  const Op& op_;
  const size_t index_;
};

Buffer decode_buffer(const RawBuffer& raw, size_t index) {
  const std::string name = "buffers[" + std::to_string(index) + "]: ";
  if (raw.kind != 0 && raw.kind != 1) refuse(name + "kind must be 0 or 1");
  if (raw.rows != 0 && raw.rows != 1) refuse(name + "rows must be 0 or 1");
  if (raw.width < 1 || raw.width > kMaxWidth) refuse(name + "width is not in [1, 2^24]");
  if (raw.kind == 1 && raw.width % kGroup != 0) refuse(name + "width must be a multiple of 32 for Q8");
  return {static_cast<BufferKind>(raw.kind), static_cast<int32_t>(raw.width), static_cast<Rows>(raw.rows)};
}

Op decode_op(const RawOp& raw, size_t index) {
  const std::string name = "ops[" + std::to_string(index) + "]: ";
  if (raw.kind < 0 || static_cast<size_t>(raw.kind) >= signatures().size()) {
    refuse(name + "kind " + std::to_string(raw.kind) + " is not a kernel");
  }
  const Signature& signature = signatures()[static_cast<size_t>(raw.kind)];
  if (raw.ints.size() != signature.ints.size() || raw.floats.size() != signature.floats.size()) {
    refuse(name + signature.name + " takes " + std::to_string(signature.ints.size()) + " integers and " +
           std::to_string(signature.floats.size()) + " floats");
  }
  Op op;
  op.kind = static_cast<OpKind>(raw.kind);
  for (size_t i = 0; i < raw.ints.size(); ++i) {
    if (raw.ints[i] < -1 || raw.ints[i] > kMaxCount) refuse(name + signature.ints[i].first + " is out of range");
    op.*signature.ints[i].second = static_cast<int32_t>(raw.ints[i]);
  }
  for (size_t i = 0; i < raw.floats.size(); ++i) {
    const auto value = static_cast<float>(raw.floats[i]);
    if (!std::isfinite(value)) refuse(name + signature.floats[i].first + " is not a finite number");
    op.*signature.floats[i].second = value;
  }
  return op;
}

int32_t in_range(int64_t value, int64_t low, int64_t high, const char* name) {
  if (value < low || value > high) {
    refuse(std::string(name) + ": " + std::to_string(value) + " is not in [" + std::to_string(low) + ", " +
           std::to_string(high) + "]");
  }
  return static_cast<int32_t>(value);
}

// Rows of the shortest table of segments; 1 where there is none, so that every token is of segment 0.
int32_t segments_of(const Plan& plan) {
  int64_t fewest = kMaxCount;
  bool has_table = false;
  for (const Op& op : plan.ops) {
    if (op.kind != OpKind::kSegment) continue;
    has_table = true;
    fewest = std::min(fewest, plan.vectors[op.vector].size / plan.buffers[op.out].width);
  }
  return has_table ? static_cast<int32_t>(fewest) : 1;
}

}  // namespace

Plan make_plan(const std::vector<RawBuffer>& buffers, const std::vector<RawOp>& ops, std::vector<WeightMatrix> matrices,
               std::vector<WeightVector> vectors, const PlanFacts& facts) {
  if (buffers.size() > kMaxList) refuse("buffers: too many");
  if (ops.size() > kMaxList) refuse("ops: too many");
  Plan plan{.buffers = {},
            .ops = {},
            .matrices = std::move(matrices),
            .vectors = std::move(vectors),
            .cache = {.num_layers = in_range(facts.num_layers, 1, 1 << 16, "cache: num_layers"),
                      .num_kv_heads = in_range(facts.num_kv_heads, 1, 1 << 12, "cache: num_kv_heads"),
                      .head_dim = in_range(facts.head_dim, 1, kMostHeadDim, "cache: head_dim")},
            .vocab_size = in_range(facts.vocab_size, 1, kMaxWidth, "vocab_size"),
            .max_positions = in_range(facts.max_positions, 1, kMaxCount, "max_positions"),
            .output = 0,
            .num_segments = 1};
  for (size_t i = 0; i < buffers.size(); ++i) plan.buffers.push_back(decode_buffer(buffers[i], i));
  for (size_t i = 0; i < ops.size(); ++i) plan.ops.push_back(decode_op(ops[i], i));
  for (size_t i = 0; i < ops.size(); ++i) OpCheck(plan, i).run();
  plan.num_segments = segments_of(plan);
  plan.output = in_range(facts.output, 0, static_cast<int64_t>(buffers.size()) - 1, "output");
  const Buffer& output = plan.buffers[plan.output];
  if (output.kind != BufferKind::kF32 || output.rows != Rows::kSelected) {
    refuse("output: buffer " + std::to_string(plan.output) + " must be F32, one row per selected token");
  }
  return plan;
}

bool is_rowwise(OpKind kind) {
  return kind != OpKind::kLinear && kind != OpKind::kGated && kind != OpKind::kAttention && kind != OpKind::kAdapt &&
         kind != OpKind::kExperts && kind != OpKind::kActivated;
}

Rows rows_of(const Plan& plan, const Op& op) { return plan.buffers[op.out != -1 ? op.out : op.x].rows; }

}  // namespace headrace
