// See bind_sampling.h.
#include "bind_sampling.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "bind_types.h"
#include "sampler.h"

namespace headrace {
namespace {

// Keys that go together: all of them or none.
constexpr std::initializer_list<const char*> kAdjustments = {"adjust_starts", "adjust_tokens", "adjust_bias",
                                                             "adjust_repetition", "adjust_minus"};
constexpr std::initializer_list<const char*> kMasks = {"masks", "mask_rows"};

constexpr std::initializer_list<const char*> kKeys = {
    "temperature",       "top_k",        "top_p",     "min_p",         "seed",          "choice",
    "position",          "logprobs",     "typical_p", "adjust_starts", "adjust_tokens", "adjust_bias",
    "adjust_repetition", "adjust_minus", "masks",     "mask_rows",     "num_top",       "targets"};

std::string named(const char* key) { return std::string("sampling: ") + key; }

void refuse_unknown_keys(const nb::dict& sampling) {
  for (const auto& [key, value] : sampling) {
    const std::string name = nb::cast<std::string>(nb::str(key));
    expect(std::ranges::any_of(kKeys, [&](const char* known) { return name == known; }),
           "sampling: unknown key '" + name + "'");
  }
}

bool has_all(const nb::dict& sampling, std::initializer_list<const char*> keys) {
  bool has_any = false;
  for (const char* key : keys) has_any = has_any || sampling.contains(key);
  if (!has_any) return false;
  for (const char* key : keys) expect(sampling.contains(key), named(key) + " is missing beside the arrays of its kind");
  return true;
}

}  // namespace

SamplingArrays::SamplingArrays(const nb::dict& sampling, int64_t num_rows, int64_t vocab_size) : num_rows_(num_rows) {
  refuse_unknown_keys(sampling);
  parameters_.temperature = required<float>(sampling, "temperature");
  parameters_.top_k = required<int32_t>(sampling, "top_k");
  parameters_.top_p = required<float>(sampling, "top_p");
  parameters_.min_p = required<float>(sampling, "min_p");
  parameters_.seed = required<uint64_t>(sampling, "seed");
  parameters_.choice = required<uint32_t>(sampling, "choice");
  parameters_.position = required<uint32_t>(sampling, "position");
  parameters_.logprobs = optional<bool>(sampling, "logprobs");
  parameters_.typical_p = optional<float>(sampling, "typical_p");
  parameters_.targets = optional<int32_t>(sampling, "targets");
  read_adjustments(sampling);
  read_masks(sampling, vocab_size);
  read_num_top(sampling);
}

template <typename T, size_t kDims>
ArrayView<const T, kDims> SamplingArrays::array(const nb::dict& sampling, const char* key) {
  AnyArray array;
  expect(nb::try_cast(sampling[key], array), named(key) + " is not an array");
  const auto values = headrace::view<const T, kDims>(array, named(key));
  keep_.push_back(std::move(array));
  return values;
}

template <typename T>
const T* SamplingArrays::column(const nb::dict& sampling, const char* key, int64_t size) {
  const auto values = array<T, 1>(sampling, key);
  expect(values.shape[0] == size,
         named(key) + ": has " + std::to_string(values.shape[0]) + " entries, not " + std::to_string(size));
  return values.data;
}

template <typename T>
const T* SamplingArrays::required(const nb::dict& sampling, const char* key) {
  expect(sampling.contains(key), named(key) + " is missing");
  return column<T>(sampling, key, num_rows_);
}

template <typename T>
const T* SamplingArrays::optional(const nb::dict& sampling, const char* key) {
  return sampling.contains(key) ? column<T>(sampling, key, num_rows_) : nullptr;
}

void SamplingArrays::read_adjustments(const nb::dict& sampling) {
  if (!has_all(sampling, kAdjustments)) return;
  const auto tokens = array<int32_t, 1>(sampling, "adjust_tokens");
  expect(tokens.shape[0] <= std::numeric_limits<int32_t>::max(), "sampling: adjust_tokens: too many entries");
  parameters_.num_adjustments = tokens.shape[0];
  parameters_.adjust_tokens = tokens.data;
  parameters_.adjust_starts = column<int32_t>(sampling, "adjust_starts", num_rows_ + 1);
  parameters_.adjust_bias = column<float>(sampling, "adjust_bias", tokens.shape[0]);
  parameters_.adjust_repetition = column<float>(sampling, "adjust_repetition", tokens.shape[0]);
  parameters_.adjust_minus = column<float>(sampling, "adjust_minus", tokens.shape[0]);
}

void SamplingArrays::read_masks(const nb::dict& sampling, int64_t vocab_size) {
  if (!has_all(sampling, kMasks)) return;
  const auto masks = array<uint32_t, 2>(sampling, "masks");
  expect(masks.shape[1] == mask_words(vocab_size), "sampling: masks: has " + std::to_string(masks.shape[1]) +
                                                       " words a row, not " + std::to_string(mask_words(vocab_size)) +
                                                       ", one bit per token");
  expect(masks.shape[0] <= std::numeric_limits<int32_t>::max(), "sampling: masks: too many rows");
  parameters_.masks = masks.data;
  parameters_.num_masks = static_cast<int32_t>(masks.shape[0]);
  parameters_.mask_rows = column<int32_t>(sampling, "mask_rows", num_rows_);
}

// Looked at here already, since results are as wide as it says.
void SamplingArrays::read_num_top(const nb::dict& sampling) {
  parameters_.num_top = optional<int32_t>(sampling, "num_top");
  if (parameters_.num_top == nullptr) return;
  for (int64_t row = 0; row < num_rows_; ++row) {
    const int32_t count = parameters_.num_top[row];
    expect(count >= 0 && count <= kMostTop, "sampling: num_top[" + std::to_string(row) + "]: " + std::to_string(count) +
                                                " is not in [0, " + std::to_string(kMostTop) + "]");
    most_top_ = std::max(most_top_, count);
  }
}

SampledRoom::SampledRoom(int64_t num_rows, int32_t num_top)
    : num_rows_(static_cast<size_t>(num_rows)),
      num_top_(num_top),
      tokens_(new int32_t[num_rows_]()),
      top_tokens_(new int32_t[num_rows_ * static_cast<size_t>(num_top)]()),
      logprobs_(new float[num_rows_]()),
      top_logprobs_(new float[num_rows_ * static_cast<size_t>(num_top)]()) {}

SampledArrays SampledRoom::arrays() {
  const auto width = static_cast<size_t>(num_top_);
  return {to_numpy<int32_t, 1>(std::move(tokens_), {num_rows_}), to_numpy<float, 1>(std::move(logprobs_), {num_rows_}),
          to_numpy<int32_t, 2>(std::move(top_tokens_), {num_rows_, width}),
          to_numpy<float, 2>(std::move(top_logprobs_), {num_rows_, width})};
}

namespace {

int64_t vocabulary(int64_t size) {
  expect(size >= 1 && size <= (int64_t{1} << 24), "logits: the vocabulary is not in [1, 2^24]");
  return size;
}

SampledArrays sample(Threads& threads, const AnyArray& logits, const nb::dict& sampling, int32_t most_survivors) {
  expect(most_survivors >= 0, "most_survivors: must not be negative");
  const auto rows = view<const float, 2>(logits, "logits");
  const int32_t num_rows = count_of(rows.shape[0], "logits");
  const auto vocab_size = static_cast<int32_t>(vocabulary(rows.shape[1]));
  const SamplingArrays arrays(sampling, num_rows, vocab_size);
  const Sampling& parameters = arrays.parameters();
  SampledRoom room(num_rows, arrays.most_top());
  {
    const nb::gil_scoped_release released;
    check_sampling(parameters, num_rows, vocab_size);
    Threads::Step step(threads);
    Sampler sampler;
    sampler.limit_survivors(most_survivors);
    sampler.run(step, StoredLogits(rows.data, vocab_size), num_rows, vocab_size, parameters, room.view());
  }
  return room.arrays();
}

nb::ndarray<nb::numpy, float> noise(uint64_t seed, uint32_t choice, uint32_t position, uint32_t first_token,
                                    uint32_t count) {
  std::unique_ptr<float[]> values(new float[count]());
  for (uint32_t i = 0; i < count; ++i) values[i] = gumbel_noise({seed, choice, position}, first_token + i);
  return to_numpy<float, 1>(std::move(values), {count});
}

nb::ndarray<nb::numpy, float> noise_of_words(const AnyArray& words) {
  const auto in = view<const uint32_t, 1>(words, "words");
  const auto size = static_cast<size_t>(in.shape[0]);
  std::unique_ptr<float[]> values(new float[size]());
  for (size_t i = 0; i < size; ++i) values[i] = noise_of(BlockDraw{in.data[i], 0}.shortest());
  return to_numpy<float, 1>(std::move(values), {size});
}

nb::bytes bytes_of(const Partial& partial) {
  const std::vector<std::byte> bytes = partial.to_bytes();
  return nb::bytes(bytes.data(), bytes.size());
}

Partial partial_of(const nb::bytes& bytes) {
  return Partial::from_bytes({static_cast<const std::byte*>(bytes.data()), bytes.size()});
}

nb::bytes scan_shard(Threads& threads, const AnyArray& logits, const nb::dict& sampling,
                     std::tuple<int64_t, int64_t> place, bool keeps_all, int32_t most_survivors) {
  expect(most_survivors >= 0, "most_survivors: must not be negative");
  const auto rows = view<const float, 2>(logits, "logits");
  const int32_t num_rows = count_of(rows.shape[0], "logits");
  const int32_t num_tokens = count_of(vocabulary(rows.shape[1]), "logits");
  const auto [first_token, vocab_size] = place;
  expect(first_token >= 0 && first_token <= vocabulary(vocab_size), "place: the first token is not in the vocabulary");
  const Shard shard{static_cast<int32_t>(vocab_size), static_cast<int32_t>(first_token),
                    static_cast<int32_t>(first_token) + num_tokens};
  check_shard(shard);
  const SamplingArrays arrays(sampling, num_rows, vocab_size);
  Partial partial;
  {
    const nb::gil_scoped_release released;
    check_sampling(arrays.parameters(), num_rows, shard.vocab_size);
    Threads::Step step(threads);
    Sampler sampler;
    sampler.limit_survivors(most_survivors);
    partial = sampler.scan(step, StoredLogits(rows.data, num_tokens), num_rows, shard, arrays.parameters(), keeps_all);
  }
  return bytes_of(partial);
}

nb::bytes join_shards(const nb::bytes& left, const nb::bytes& right) {
  return bytes_of(join(partial_of(left), partial_of(right)));
}

std::tuple<SampledArrays, std::vector<int32_t>> decide_shards(const nb::bytes& whole, const nb::dict& sampling) {
  const Partial partial = partial_of(whole);
  const int32_t num_rows = count_of(static_cast<int64_t>(partial.rows.size()), "partial");
  const SamplingArrays arrays(sampling, num_rows, partial.shard.vocab_size);
  check_sampling(arrays.parameters(), num_rows, partial.shard.vocab_size);
  SampledRoom room(num_rows, arrays.most_top());
  std::vector<int32_t> again = decide(partial, arrays.parameters(), room.view());
  return {room.arrays(), std::move(again)};
}

}  // namespace

void bind_sampling(nb::module_& module) {
  module.def("sample", &sample, nb::arg("threads"), nb::arg("logits"), nb::arg("sampling"),
             nb::arg("most_survivors") = 0);
  module.def("gumbel_noise", &noise, nb::arg("seed"), nb::arg("choice"), nb::arg("position"), nb::arg("first_token"),
             nb::arg("count"));
  module.def("gumbel_of", &noise_of_words, nb::arg("words"));
  module.def("scan_shard", &scan_shard, nb::arg("threads"), nb::arg("logits"), nb::arg("sampling"), nb::arg("place"),
             nb::arg("keeps_all") = false, nb::arg("most_survivors") = 0);
  module.def("join_shards", &join_shards, nb::arg("left"), nb::arg("right"));
  module.def("decide_shards", &decide_shards, nb::arg("whole"), nb::arg("sampling"));
}

}  // namespace headrace
