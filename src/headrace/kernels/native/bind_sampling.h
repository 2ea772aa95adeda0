// The sampling dictionary as checked views, and room for what a step samples. Part of the binding: types and shapes are
// checked here, values in sampling.cpp.
#pragma once

#include <nanobind/nanobind.h>

#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "arrays.h"
#include "sampling.h"

namespace headrace {

// tokens [R], logprobs [R], top_tokens [R, T], top_logprobs [R, T]
using SampledArrays = std::tuple<nb::ndarray<nb::numpy, int32_t>, nb::ndarray<nb::numpy, float>,
                                 nb::ndarray<nb::numpy, int32_t>, nb::ndarray<nb::numpy, float>>;

inline void expect(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

inline int32_t count_of(int64_t count, const std::string& name) {
  expect(count <= std::numeric_limits<int32_t>::max(), name + ": too many entries");
  return static_cast<int32_t>(count);
}

// Holds the arrays even if the dictionary changes during the call.
class SamplingArrays {
 public:
  // Throws std::invalid_argument naming the array that does not fit so many rows or this vocabulary.
  SamplingArrays(const nb::dict& sampling, int64_t num_rows, int64_t vocab_size);

  const Sampling& parameters() const { return parameters_; }
  // The most alternatives that any row wants.
  int32_t most_top() const { return most_top_; }

 private:
  template <typename T, size_t kDims>
  ArrayView<const T, kDims> array(const nb::dict& sampling, const char* key);
  template <typename T>
  const T* column(const nb::dict& sampling, const char* key, int64_t size);
  template <typename T>
  const T* required(const nb::dict& sampling, const char* key);
  template <typename T>
  const T* optional(const nb::dict& sampling, const char* key);
  void read_adjustments(const nb::dict& sampling);
  void read_masks(const nb::dict& sampling, int64_t vocab_size);
  void read_num_top(const nb::dict& sampling);

  int64_t num_rows_;
  int32_t most_top_ = 0;
  std::vector<AnyArray> keep_;
  Sampling parameters_{};
};

// Room for a step's samples, and its way to Python.
class SampledRoom {
 public:
  SampledRoom(int64_t num_rows, int32_t num_top);

  Sampled view() const { return {tokens_.get(), logprobs_.get(), top_tokens_.get(), top_logprobs_.get(), num_top_}; }
  // Once.
  SampledArrays arrays();

 private:
  size_t num_rows_;
  int32_t num_top_;
  std::unique_ptr<int32_t[]> tokens_, top_tokens_;
  std::unique_ptr<float[]> logprobs_, top_logprobs_;
};

}  // namespace headrace
