// Checked views of Python arrays, and results handed to Python. Part of the binding: knows nanobind, and no plan.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>

namespace headrace {

namespace nb = nanobind;

// Any array; what it must be is checked by `view`, so that a refusal names the argument.
using AnyArray = nb::ndarray<nb::ro>;
using AnyMutableArray = nb::ndarray<>;

template <typename T, size_t kDims>
struct ArrayView {
  T* data;
  std::array<int64_t, kDims> shape;
};

// A view of a C-contiguous array of exactly this type and number of dimensions; ValueError naming the argument
// otherwise.
template <typename T, size_t kDims, typename... Config>
ArrayView<T, kDims> view(const nb::ndarray<Config...>& array, const std::string& name) {
  using Element = std::remove_const_t<T>;
  if (array.dtype() != nb::dtype<Element>()) {
    throw std::invalid_argument(name + ": wrong element type; convert it with numpy.astype as native.pyi says");
  }
  if (array.ndim() != kDims) {
    throw std::invalid_argument(name + ": has " + std::to_string(array.ndim()) + " dimensions, not " +
                                std::to_string(kDims));
  }
  ArrayView<T, kDims> result;
  int64_t expected = 1;
  for (size_t i = kDims; i-- > 0;) {
    result.shape[i] = static_cast<int64_t>(array.shape(i));
    // Strides of an array without elements, or along an axis of one, mean nothing.
    if (array.size() > 0 && result.shape[i] > 1 && array.stride(i) != expected) {
      throw std::invalid_argument(name + ": is not C-contiguous; use numpy.ascontiguousarray");
    }
    expected *= result.shape[i];
  }
  result.data = static_cast<T*>(const_cast<void*>(static_cast<const void*>(array.data())));
  return result;
}

// A new NumPy array that owns `data`.
template <typename T, size_t kDims>
nb::ndarray<nb::numpy, T> to_numpy(std::unique_ptr<T[]> data, const std::array<size_t, kDims>& shape) {
  T* raw = data.get();
  nb::capsule owner(raw, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
  data.release();
  return nb::ndarray<nb::numpy, T>(raw, kDims, shape.data(), owner);
}

}  // namespace headrace
