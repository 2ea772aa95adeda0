// The objects that cross the Python boundary and the parts the binding is made of.
#pragma once

#include <string>

#include "arrays.h"
#include "kernels.h"
#include "threads.h"

namespace headrace {

// A packed matrix that keeps the array it looks into alive.
struct Matrix {
  Matrix(AnyArray tiles, int64_t rows, int64_t cols, int bits, bool has_minimum);

  AnyArray keep;
  MatrixView view;
  int32_t cols;
};

// The variant chosen at import.
const Kernels& current_kernels();

// The variant of that name, or the one chosen at import for "".
const Kernels& named_kernels(const std::string& variant);

void bind_kernels(nb::module_& module);    // per-kernel entry points for tests and benchmarks
void bind_attention(nb::module_& module);  // attention alone, for the same
void bind_sampling(nb::module_& module);   // the sampler alone, its noise, its shards
void bind_program(nb::module_& module);    // Program

}  // namespace headrace
