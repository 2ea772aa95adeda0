// See shard.h.
#include "shard.h"

#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace headrace {
namespace {

constexpr uint64_t kMagic = 0x3130647261685348;  // "HShard01"

void expect(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

class Writer {
 public:
  template <typename T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    append(&value, sizeof value);
  }

  template <typename T>
  void put(const std::vector<T>& values) {
    put(static_cast<uint64_t>(values.size()));
    append(values.data(), values.size() * sizeof(T));
  }

  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  void append(const void* data, size_t size) {
    const size_t at = bytes_.size();
    bytes_.resize(at + size);
    if (size > 0) std::memcpy(bytes_.data() + at, data, size);
  }

  std::vector<std::byte> bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  void get(T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::memcpy(&value, next(1, sizeof value), sizeof value);
  }

  template <typename T>
  void get(std::vector<T>& values) {
    uint64_t size;
    get(size);
    const std::byte* data = next(size, sizeof(T));
    values.resize(size);
    if (size > 0) std::memcpy(values.data(), data, size * sizeof(T));
  }

  bool is_at_end() const { return bytes_.empty(); }

 private:
  const std::byte* next(uint64_t count, size_t size) {
    expect(count <= bytes_.size() / size, "partial: ends too early");
    const std::byte* data = bytes_.data();
    bytes_ = bytes_.subspan(count * size);
    return data;
  }

  std::span<const std::byte> bytes_;
};

// Calls `use` on everything that a row holds, in the order of the bytes.
template <class Row, class Use>
void for_each_part(Row& row, Use use) {
  use(row.first.logit), use(row.first.index);
  use(row.best.value), use(row.best.noise), use(row.best.token.logit), use(row.best.token.index);
  use(row.largest_lost), use(row.unchanged_largest), use(row.target_logit);
  use(row.survivors), use(row.top);
  use(row.maxima), use(row.scaled_sums), use(row.unchanged_maxima), use(row.sums), use(row.entries);
}

template <typename T>
void append(std::vector<T>& left, const std::vector<T>& right) {
  left.insert(left.end(), right.begin(), right.end());
}

size_t num_blocks(const Shard& shard) {
  return static_cast<size_t>((shard.end_token - shard.first_token + kQuadTokens - 1) / kQuadTokens) * kBlockQuad;
}

bool are_inside(const std::vector<Survivor>& tokens, const Shard& shard) {
  return std::ranges::all_of(tokens, [&](const Survivor& token) {
    return token.index >= shard.first_token && token.index < shard.end_token && token.logit > kMinusInf;
  });
}

bool is_inside(const Survivor& token, const Shard& shard) {
  return token.index == -1 || (token.index >= shard.first_token && token.index < shard.end_token);
}

// So that nothing that is decided by them can be out of bounds.
void check_row(const RowPartial& row, const Shard& shard) {
  const size_t blocks = num_blocks(shard);
  for (const auto* sums : {&row.maxima, &row.scaled_sums, &row.unchanged_maxima, &row.sums}) {
    expect(sums->empty() || sums->size() == blocks, "partial: its sums are not those of its shard");
  }
  expect(are_inside(row.survivors, shard) && are_inside(row.top, shard) && is_inside(row.first, shard) &&
             is_inside(row.best.token, shard),
         "partial: holds tokens that are not in its shard");
  // Cuts count from the largest.
  expect(std::ranges::all_of(row.survivors, [&](const Survivor& token) { return token.logit <= row.first.logit; }),
         "partial: holds a larger logit than its largest");
}

void check_fit(const RowPartial& row, const RowRules& rules, const Shard& shard) {
  const size_t blocks = num_blocks(shard);
  expect(row.sums.size() == (rules.wants_logprob ? blocks : 0) && row.unchanged_maxima.size() == row.sums.size() &&
             row.scaled_sums.size() == (rules.needs_total() ? blocks : 0) &&
             row.maxima.size() == row.scaled_sums.size() &&
             row.entries.size() == static_cast<size_t>(rules.change.count),
         "partial: was scanned with another sampling");
}

}  // namespace

void check_shard(const Shard& shard) {
  expect(shard.vocab_size >= 1 && shard.vocab_size <= 1 << 24, "shard: the vocabulary is not in [1, 2^24]");
  expect(shard.first_token >= 0 && shard.first_token < shard.end_token && shard.end_token <= shard.vocab_size,
         "shard: its tokens are not a piece of the vocabulary");
  expect(shard.first_token % kQuadTokens == 0, "shard: must start at a multiple of 256");
  expect(shard.end_token % kQuadTokens == 0 || shard.end_token == shard.vocab_size,
         "shard: must end at a multiple of 256 or with the vocabulary");
}

std::vector<std::byte> Partial::to_bytes() const {
  Writer writer;
  writer.put(kMagic);
  writer.put(shard);
  writer.put(static_cast<uint64_t>(rows.size()));
  for (const RowPartial& row : rows) for_each_part(row, [&](const auto& part) { writer.put(part); });
  return writer.take();
}

Partial Partial::from_bytes(std::span<const std::byte> bytes) {
  Reader reader(bytes);
  Partial partial;
  uint64_t magic;
  uint64_t num_rows;
  reader.get(magic);
  expect(magic == kMagic, "partial: is none, or of another version");
  reader.get(partial.shard);
  check_shard(partial.shard);
  reader.get(num_rows);
  for (uint64_t i = 0; i < num_rows; ++i) {
    RowPartial& row = partial.rows.emplace_back();
    for_each_part(row, [&](auto& part) { reader.get(part); });
    check_row(row, partial.shard);
  }
  expect(reader.is_at_end(), "partial: goes on after its end");
  return partial;
}

Partial join(Partial left, const Partial& right) {
  expect(left.shard.vocab_size == right.shard.vocab_size && left.rows.size() == right.rows.size(),
         "partials: are of different vocabularies or batches");
  expect(left.shard.end_token == right.shard.first_token,
         "partials: are not neighbours; join each with the one that begins where it ends");
  left.shard.end_token = right.shard.end_token;
  for (size_t i = 0; i < left.rows.size(); ++i) {
    RowPartial& row = left.rows[i];
    const RowPartial& other = right.rows[i];
    if (other.first.index >= 0 && other.first.comes_before(row.first)) row.first = other.first;
    if (other.best.token.index >= 0 && row.best.is_beaten_by(other.best)) row.best = other.best;
    row.largest_lost = std::max(row.largest_lost, other.largest_lost);
    row.unchanged_largest = std::max(row.unchanged_largest, other.unchanged_largest);
    row.target_logit = std::max(row.target_logit, other.target_logit);
    append(row.survivors, other.survivors);
    append(row.top, other.top);
    append(row.maxima, other.maxima);
    append(row.scaled_sums, other.scaled_sums);
    append(row.unchanged_maxima, other.unchanged_maxima);
    append(row.sums, other.sums);
    append(row.entries, other.entries);
  }
  return left;
}

std::vector<int32_t> decide(const Partial& whole, const Sampling& sampling, const Sampled& out) {
  expect(whole.shard.first_token == 0 && whole.shard.end_token == whole.shard.vocab_size,
         "partial: is not of the whole vocabulary; join all of them first");
  std::vector<int32_t> again;
  Choice choice;
  for (size_t i = 0; i < whole.rows.size(); ++i) {
    const RowPartial& row = whole.rows[i];
    const auto out_row = static_cast<int32_t>(i);
    const RowRules rules(sampling, out_row, whole.shard.vocab_size);
    check_fit(row, rules, whole.shard);
    RowFindings findings{.first = row.first,
                         .best = row.best,
                         .largest_lost = row.largest_lost,
                         .scaled = {row.maxima.data(), row.scaled_sums.data(), row.maxima.size()},
                         .unchanged_largest = row.unchanged_largest,
                         .target_logit = row.target_logit,
                         .unchanged = {row.unchanged_maxima.data(), row.sums.data(), row.sums.size()},
                         .entries = row.entries.data(),
                         .top = {}};
    findings.top.begin(rules.num_top);
    for (const Survivor& token : row.top) findings.top.add(token);
    choice.reserve(whole.shard.vocab_size, row.survivors.size());
    choice.survivors().clear();
    for (const Survivor& token : row.survivors) {
      if (token.logit > row.largest_lost) choice.survivors().push_back(token);
    }
    Survivor token = decide(rules, findings, choice);
    if (token.index == Choice::kNeedsAll) {
      again.push_back(out_row);
      token = {kMinusInf, -1};
    }
    tell(rules, findings, token, out_row, out);
  }
  return again;
}

}  // namespace headrace
