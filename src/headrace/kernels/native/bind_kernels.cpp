// One kernel at a time, single-threaded, for tests and benchmarks. Serving runs programs instead (bind_program.cpp).
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "bind_types.h"
#include "ceilings.h"

namespace headrace {
namespace {

using FloatArray = nb::ndarray<nb::numpy, float>;

int32_t row_count(int64_t rows, const std::string& name) {
  if (rows > std::numeric_limits<int32_t>::max()) throw std::invalid_argument(name + ": too many rows");
  return static_cast<int32_t>(rows);
}

// Activations quantised for one call, with the memory they live in.
struct Quantized {
  Quantized(int32_t num_rows, int32_t padded_width)
      : codes(static_cast<size_t>(num_rows) * padded_width),
        scales(codes.size() / kGroup),
        sums(codes.size() / kGroup),
        width(padded_width) {}

  Q8View view(int64_t row = 0) {
    const int64_t groups = width / kGroup;
    return {codes.data() + row * width, scales.data() + row * groups, sums.data() + row * groups, width};
  }

  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<float> sums;
  int32_t width;
};

Quantized quantized(const Kernels& kernels, const ArrayView<const float, 2>& x, int32_t padded_width) {
  Quantized result(row_count(x.shape[0], "x"), padded_width);
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    kernels.quantize(x.data + row * x.shape[1], static_cast<int32_t>(x.shape[1]), result.view(row));
  }
  return result;
}

ArrayView<const float, 2> checked_input(const AnyArray& x_array, const Matrix& matrix) {
  const auto x = view<const float, 2>(x_array, "x");
  if (x.shape[1] != matrix.cols) {
    throw std::invalid_argument("x: has " + std::to_string(x.shape[1]) + " features, the matrix " +
                                std::to_string(matrix.cols));
  }
  return x;
}

FloatArray linear(const AnyArray& x_array, const Matrix& matrix, const std::string& variant) {
  const auto x = checked_input(x_array, matrix);
  const Kernels& kernels = named_kernels(variant);
  Quantized input = quantized(kernels, x, matrix.view.groups * kGroup);
  const int64_t num_rows = matrix.view.rows;
  std::unique_ptr<float[]> out(new float[x.shape[0] * num_rows]());
  {
    const nb::gil_scoped_release released;
    kernels.linear({.matrix = matrix.view,
                    .x = input.view(),
                    .num_tokens = static_cast<int32_t>(x.shape[0]),
                    .block_begin = 0,
                    .block_end = matrix.view.row_blocks,
                    .bias = nullptr,
                    .out = out.get(),
                    .stride = num_rows,
                    .accumulate = false});
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(num_rows)});
}

FloatArray gated(const AnyArray& x_array, const Matrix& matrix, int activation, const std::string& variant) {
  const auto x = checked_input(x_array, matrix);
  if (matrix.view.rows % (2 * kGroup) != 0) {
    throw std::invalid_argument("matrix: a gated product needs rows in pairs of 32, it has " +
                                std::to_string(matrix.view.rows));
  }
  if (activation != 0 && activation != 1) throw std::invalid_argument("activation: must be 0 or 1");
  const Kernels& kernels = named_kernels(variant);
  Quantized input = quantized(kernels, x, matrix.view.groups * kGroup);
  const int64_t num_features = matrix.view.rows / 2;
  std::unique_ptr<float[]> out(new float[x.shape[0] * num_features]());
  {
    const nb::gil_scoped_release released;
    kernels.gated({.matrix = matrix.view,
                   .x = input.view(),
                   .num_tokens = static_cast<int32_t>(x.shape[0]),
                   .pair_begin = 0,
                   .pair_end = matrix.view.rows / (2 * kGroup),
                   .activation = static_cast<Activation>(activation),
                   .out = {.f32 = out.get(), .stride = num_features, .q8 = {}}});
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(num_features)});
}

FloatArray activate(const AnyArray& x_array, int activation, const std::string& variant) {
  const auto x = view<const float, 2>(x_array, "x");
  if (x.shape[1] % (2 * kGroup) != 0) throw std::invalid_argument("x: its features must come in pairs of 32");
  if (activation != 0 && activation != 1) throw std::invalid_argument("activation: must be 0 or 1");
  const Kernels& kernels = named_kernels(variant);
  const auto num_pairs = static_cast<int32_t>(x.shape[1] / (2 * kGroup));
  const int64_t width = x.shape[1] / 2;
  std::unique_ptr<float[]> out(new float[x.shape[0] * width]());
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    kernels.activate(x.data + row * x.shape[1], num_pairs, static_cast<Activation>(activation),
                     {.f32 = out.get() + row * width, .stride = width, .q8 = {}});
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(width)});
}

FloatArray layer_norm(const AnyArray& x_array, const AnyArray& weight_array, const AnyArray& bias_array, double eps,
                      const std::string& variant) {
  const auto x = view<const float, 2>(x_array, "x");
  const auto weight = view<const float, 1>(weight_array, "weight");
  const auto bias = view<const float, 1>(bias_array, "bias");
  if (weight.shape[0] != x.shape[1] || bias.shape[0] != x.shape[1]) {
    throw std::invalid_argument("weight, bias: must be as wide as x, " + std::to_string(x.shape[1]));
  }
  const Kernels& kernels = named_kernels(variant);
  const int32_t width = row_count(x.shape[1], "x");
  std::unique_ptr<float[]> out(new float[x.shape[0] * x.shape[1]]());
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    kernels.layer_norm(x.data + row * width, weight.data, bias.data, width, static_cast<float>(eps),
                       out.get() + row * width);
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(x.shape[1])});
}

FloatArray pointwise(const AnyArray& x_array, int activation, const std::string& variant) {
  const auto x = view<const float, 2>(x_array, "x");
  if (activation < 0 || activation >= kNumActivations) throw std::invalid_argument("activation: is not known");
  const Kernels& kernels = named_kernels(variant);
  const int32_t width = row_count(x.shape[1], "x");
  std::unique_ptr<float[]> out(new float[x.shape[0] * x.shape[1]]());
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    kernels.pointwise(x.data + row * width, width, static_cast<Activation>(activation), out.get() + row * width);
  }
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(x.shape[1])});
}

FloatArray softcap(const AnyArray& x_array, float cap, const std::string& variant) {
  const auto x = view<const float, 2>(x_array, "x");
  if (!(cap > 0.0f)) throw std::invalid_argument("cap: must be above 0");
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<float[]> out(new float[x.shape[0] * x.shape[1]]);
  std::copy_n(x.data, x.shape[0] * x.shape[1], out.get());
  for (int64_t row = 0; row < x.shape[0]; ++row) kernels.softcap(out.get() + row * x.shape[1], x.shape[1], cap);
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(x.shape[0]), static_cast<size_t>(x.shape[1])});
}

FloatArray low_rank(const AnyArray& u_array, const AnyArray& blocks, int64_t rows, double factor,
                    const std::string& variant) {
  const auto u = view<const float, 2>(u_array, "u");
  const auto bytes = view<const uint8_t, 1>(blocks, "blocks");
  const int64_t rank = u.shape[1];
  if (rank < 1 || rank > kMostRank) throw std::invalid_argument("u: the rank is not in [1, 256]");
  const int64_t block_bytes = low_rank_block_bytes(static_cast<int32_t>(rank));
  const int32_t num_rows = row_count(rows, "rows");
  const int32_t num_blocks = (num_rows + kLowRankBlock - 1) / kLowRankBlock;
  if (bytes.shape[0] != num_blocks * block_bytes) throw std::invalid_argument("blocks: wrong size");
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<float[]> out(new float[u.shape[0] * rows]());
  kernels.add_low_rank({.b = {bytes.data, num_rows, static_cast<int32_t>(rank), static_cast<int32_t>(block_bytes),
                              static_cast<float>(factor)},
                        .u = u.data,
                        .u_stride = rank,
                        .num_tokens = row_count(u.shape[0], "u"),
                        .block_begin = 0,
                        .block_end = num_blocks,
                        .out = out.get(),
                        .stride = rows,
                        .block_step = kLowRankBlock});
  return to_numpy<float, 2>(std::move(out), {static_cast<size_t>(u.shape[0]), static_cast<size_t>(rows)});
}

std::tuple<nb::ndarray<nb::numpy, int8_t>, FloatArray, FloatArray> quantize(const AnyArray& x_array,
                                                                            const std::string& variant, bool rotates) {
  const auto x = view<const float, 2>(x_array, "x");
  const auto num_rows = static_cast<size_t>(row_count(x.shape[0], "x"));
  const auto width = static_cast<size_t>((x.shape[1] + kGroup - 1) / kGroup * kGroup);
  const size_t groups = width / kGroup;
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<int8_t[]> codes(new int8_t[num_rows * width]());
  std::unique_ptr<float[]> scales(new float[num_rows * groups]());
  std::unique_ptr<float[]> sums(new float[num_rows * groups]());
  for (size_t row = 0; row < num_rows; ++row) {
    const auto quantize_one = rotates ? kernels.quantize_rotated : kernels.quantize;
    quantize_one(x.data + row * x.shape[1], static_cast<int32_t>(x.shape[1]),
                 {codes.get() + row * width, scales.get() + row * groups, sums.get() + row * groups,
                  static_cast<int32_t>(width)});
  }
  return {to_numpy<int8_t, 2>(std::move(codes), {num_rows, width}),
          to_numpy<float, 2>(std::move(scales), {num_rows, groups}),
          to_numpy<float, 2>(std::move(sums), {num_rows, groups})};
}

nb::ndarray<nb::numpy, uint16_t> narrow(const AnyArray& x_array, const std::string& variant) {
  const auto x = view<const float, 1>(x_array, "x");
  const auto count = static_cast<size_t>(row_count(x.shape[0], "x"));
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<uint16_t[]> halves(new uint16_t[count]());
  kernels.narrow(x.data, static_cast<int32_t>(count), halves.get());
  return to_numpy<uint16_t, 1>(std::move(halves), {count});
}

double ceiling(Threads& threads, const std::string& variant) {
  const Kernels& kernels = named_kernels(variant);
  const nb::gil_scoped_release released;
  return multiply_rate(threads, kernels);
}

std::tuple<nb::ndarray<nb::numpy, int8_t>, FloatArray> quantize_heads(const AnyArray& x_array,
                                                                      const std::string& variant) {
  const auto x = view<const float, 2>(x_array, "x");
  const auto num_rows = static_cast<size_t>(row_count(x.shape[0], "x"));
  const auto head_dim = static_cast<size_t>(row_count(x.shape[1], "x"));
  const Kernels& kernels = named_kernels(variant);
  std::unique_ptr<int8_t[]> codes(new int8_t[num_rows * head_dim]());
  std::unique_ptr<float[]> scales(new float[num_rows]());
  for (size_t row = 0; row < num_rows; ++row) {
    kernels.quantize_head(x.data + row * head_dim, static_cast<int32_t>(head_dim), codes.get() + row * head_dim,
                          scales.get() + row);
  }
  return {to_numpy<int8_t, 2>(std::move(codes), {num_rows, head_dim}),
          to_numpy<float, 1>(std::move(scales), {num_rows})};
}

}  // namespace

const Kernels& named_kernels(const std::string& variant) {
  if (variant.empty()) return current_kernels();
  const Kernels* kernels = best_kernels(variant.c_str());
  if (kernels == nullptr) {
    throw std::invalid_argument("variant: '" + variant + "' cannot run here; variants() lists those that can");
  }
  return *kernels;
}

void bind_kernels(nb::module_& module) {
  module.def("linear", &linear, nb::arg("x"), nb::arg("matrix"), nb::arg("variant") = "");
  module.def("gated", &gated, nb::arg("x"), nb::arg("matrix"), nb::arg("activation"), nb::arg("variant") = "");
  module.def("activate", &activate, nb::arg("x"), nb::arg("activation"), nb::arg("variant") = "");
  module.def("layer_norm", &layer_norm, nb::arg("x"), nb::arg("weight"), nb::arg("bias"), nb::arg("eps"),
             nb::arg("variant") = "");
  module.def("pointwise", &pointwise, nb::arg("x"), nb::arg("activation"), nb::arg("variant") = "");
  module.def("softcap", &softcap, nb::arg("x"), nb::arg("cap"), nb::arg("variant") = "");
  module.def("low_rank", &low_rank, nb::arg("u"), nb::arg("blocks"), nb::arg("rows"), nb::arg("factor") = 1.0,
             nb::arg("variant") = "");
  module.def("quantize", &quantize, nb::arg("x"), nb::arg("variant") = "", nb::arg("rotates") = false);
  module.def("multiply_rate", &ceiling, nb::arg("threads"), nb::arg("variant") = "");
  module.def("quantize_heads", &quantize_heads, nb::arg("x"), nb::arg("variant") = "");
  module.def("narrow", &narrow, nb::arg("x"), nb::arg("variant") = "");
}

}  // namespace headrace
