// Row arithmetic written once for every vector instruction set: exp, activations, quantisation, RMS norm.
// `V` names the instruction set (see avx2.cpp, avx512.cpp). Everything here has internal linkage and calls nothing from
// the standard library: each variant must get its own copy, compiled with its own flags, or the linker could hand
// AVX-512 code to a CPU without it.
#pragma once

#include "kernels.h"
#include "variants.h"

namespace headrace {
namespace {

inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

// Calls f<N>() with N = count, for count in 1..kMost.
template <int kMost, class Function>
inline void with_count(int32_t count, Function function) {
  if (count == kMost) {
    function.template operator()<kMost>();
  } else if constexpr (kMost > 1) {
    with_count<kMost - 1>(count, function);
  }
}

// exp(x) with a relative error below 3e-7; exactly 1 at 0, exactly 0 below -87 (minus infinity included).
template <class V>
inline typename V::F exponential(typename V::F x) {
  const typename V::F clamped = V::min(V::max(x, V::set(-88.0f)), V::set(88.0f));
  const typename V::F n = V::round(V::mul(clamped, V::set(1.44269504f)));
  // ln 2 in two pieces; the first has few enough bits for n * piece to be exact.
  typename V::F r = V::minus_product(n, V::set(0x1.62e4p-1f), clamped);
  r = V::minus_product(n, V::set(1.4286068e-06f), r);
  typename V::F y = V::set(1.0f / 5040);
  y = V::fma(y, r, V::set(1.0f / 720));
  y = V::fma(y, r, V::set(1.0f / 120));
  y = V::fma(y, r, V::set(1.0f / 24));
  y = V::fma(y, r, V::set(1.0f / 6));
  y = V::fma(y, r, V::set(0.5f));
  y = V::fma(y, r, V::set(1.0f));
  y = V::fma(y, r, V::set(1.0f));
  return V::zero_where_less(V::times_power_of_two(y, n), x, V::set(-87.0f));
}

template <class V>
inline float exponential_of(float x) {
  return V::first(exponential<V>(V::set(x)));
}

// 2^x for x <= 0 with a relative error below 3e-7; exactly 1 at 0 and 0 for minus infinity.
template <class V>
inline typename V::F power_of_two(typename V::F x) {
  typename V::F n = x;
  typename V::F r;
  if constexpr (V::kScalesByFloor) {
    r = V::fraction(x);
  } else {
    const typename V::F clamped = V::max(x, V::set(-126.0f));
    n = V::floor(clamped);
    r = V::sub(clamped, n);
  }
  // 2^r on [0, 1], largest relative error 8.2e-8 before rounding; minimax with the constant held at 1.
  typename V::F y = V::set(1.8671303e-03f);
  y = V::fma(y, r, V::set(9.0170298e-03f));
  y = V::fma(y, r, V::set(5.5799913e-02f));
  y = V::fma(y, r, V::set(2.4016444e-01f));
  y = V::fma(y, r, V::set(6.9315130e-01f));
  y = V::fma(y, r, V::set(1.0f));
  y = V::times_power_of_two(y, n);
  return V::kScalesByFloor ? y : V::zero_where_less(y, x, V::set(-126.0f));
}

template <class V>
inline typename V::F hyperbolic_tangent(typename V::F x) {
  const typename V::F e = exponential<V>(V::add(x, x));
  return V::sub(V::set(1.0f), V::div(V::set(2.0f), V::add(e, V::set(1.0f))));
}

// gelu(x) = x Phi(x) = max(x, 0) - m 2^q(m), m = |x|, q(m) = log2 Phi(-m): a minimax polynomial for the error of the
// product, below 2e-7 with its rounding. Beyond 5.75 less than 3e-8 is left to subtract.
template <class V>
inline typename V::F gelu(typename V::F x) {
  const typename V::F m = V::min(V::abs(x), V::set(5.75f));
  typename V::F q = V::set(2.9924189e-05f);
  q = V::fma(q, m, V::set(-7.3987426e-04f));
  q = V::fma(q, m, V::set(7.9774624e-03f));
  q = V::fma(q, m, V::set(-5.3238187e-02f));
  q = V::fma(q, m, V::set(-4.5891568e-01f));
  q = V::fma(q, m, V::set(-1.1511471e+00f));
  q = V::fma(q, m, V::set(-1.0f));
  return V::minus_product(m, power_of_two<V>(q), V::max(V::zero(), x));
}

// See Kernels::softcap.
template <class V>
void softcap_row(float* x, int64_t count, float cap) {
  const typename V::F most = V::set(cap);
  const auto capped = [&](typename V::F value) {
    // The exponential would take what is no number for a very small one.
    return V::add(V::mul(most, hyperbolic_tangent<V>(V::div(value, most))), V::sub(value, value));
  };
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store(x + i, capped(V::load(x + i)));
  if (i == count) return;
  alignas(64) float tail[V::kLanes] = {};
  __builtin_memcpy(tail, x + i, static_cast<size_t>(count - i) * sizeof(float));
  V::store(tail, capped(V::load(tail)));
  __builtin_memcpy(x + i, tail, static_cast<size_t>(count - i) * sizeof(float));
}

// silu(x) = x / (1 + exp(-x)); gelu_tanh(x) = x / (1 + exp(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3).
template <class V, Activation kActivation>
inline typename V::F activate(typename V::F x) {
  if constexpr (kActivation == Activation::kGelu) return gelu<V>(x);
  if constexpr (kActivation == Activation::kTanh) return hyperbolic_tangent<V>(x);
  if constexpr (kActivation == Activation::kRelu) return V::max(V::zero(), x);
  typename V::F exponent = V::sub(V::zero(), x);
  if constexpr (kActivation == Activation::kGeluTanh) {
    const typename V::F inner = V::fma(V::mul(V::mul(x, x), x), V::set(0.044715f), x);
    exponent = V::mul(inner, V::set(-1.5957691216057308f));
  }
  return V::div(x, V::add(V::set(1.0f), exponential<V>(exponent)));
}

// See Kernels::quantize_head.
template <class V>
int32_t quantize_head_row(const float* x, int32_t count, int8_t* codes, float* scale) {
  typename V::F magnitude = V::zero();
  int32_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) magnitude = V::max(V::abs(V::clamped(V::load(x + i))), magnitude);
  alignas(64) float tail[kGroup] = {};
  const int32_t tail_begin = count / kGroup * kGroup;
  for (int32_t j = tail_begin; j < count; ++j) tail[j - tail_begin] = x[j];
  for (int32_t j = 0; j < kGroup; j += V::kLanes) V::store(tail + j, V::clamped(V::load(tail + j)));
  if (i < count) {
    for (int32_t j = 0; j < kGroup; j += V::kLanes) magnitude = V::max(V::abs(V::load(tail + j)), magnitude);
  }
  const float amax = V::largest(magnitude);
  const bool is_zero = amax < kSmallestMagnitude;
  const typename V::F inverse = V::set(is_zero ? 0.0f : 127.0f / amax);
  int32_t total = 0;
  for (i = 0; i < tail_begin; i += kGroup) {
    alignas(64) float group[kGroup];
    for (int32_t j = 0; j < kGroup; j += V::kLanes) V::store(group + j, V::clamped(V::load(x + i + j)));
    total += V::store_codes(group, inverse, codes + i);
  }
  if (i < count) {
    int8_t last[kGroup];
    total += V::store_codes(tail, inverse, last);
    __builtin_memcpy(codes + i, last, static_cast<size_t>(count - i));
  }
  *scale = is_zero ? 0.0f : amax / 127.0f;
  return total;
}

template <class V>
inline void quantize_group(const float* x, int8_t* codes, float* scale, float* sum) {
  typename V::F magnitude = V::abs(V::load(x));
  for (int i = V::kLanes; i < kGroup; i += V::kLanes) magnitude = V::max(magnitude, V::abs(V::load(x + i)));
  const float amax = V::largest(magnitude);
  const bool is_zero = amax < kSmallestMagnitude;
  const int32_t total = V::store_codes(x, V::set(is_zero ? 0.0f : 127.0f / amax), codes);
  *scale = is_zero ? 0.0f : amax / 127.0f;
  *sum = *scale * static_cast<float>(total);
}

// Where one group of 32 features of one token goes: as floats, or quantised.
template <class V>
inline void store_group(const Output& out, int64_t token, int64_t feature, const float* values) {
  if (out.f32 != nullptr) {
    float* to = out.f32 + token * out.stride + feature;
    for (int i = 0; i < kGroup; i += V::kLanes) V::store(to + i, V::load(values + i));
    return;
  }
  const int64_t group = token * (out.q8.width / kGroup) + feature / kGroup;
  quantize_group<V>(values, out.q8.codes + token * out.q8.width + feature, out.q8.scales + group, out.q8.sums + group);
}

template <class V>
void quantize_row(const float* x, int32_t width, const Q8View& out) {
  for (int32_t begin = 0; begin < out.width; begin += kGroup) {
    const float* values = x + begin;
    alignas(64) float tail[kGroup] = {};
    if (begin + kGroup > width) {
      for (int32_t i = begin; i < width; ++i) tail[i - begin] = x[i];
      values = tail;
    }
    quantize_group<V>(values, out.codes + begin, out.scales + begin / kGroup, out.sums + begin / kGroup);
  }
}

// Sums of what lies kHalf lanes apart, and differences in the upper ones' places: x + partner, partner - x.
template <class V, int kHalf>
inline typename V::F sums_and_differences(typename V::F x) {
  alignas(64) float signs[V::kLanes];
  for (int i = 0; i < V::kLanes; ++i) signs[i] = (i & kHalf) == 0 ? 1.0f : -1.0f;
  return V::fma(x, V::load(signs), V::template exchange<kHalf>(x));
}

// See Kernels::quantize_rotated.
template <class V>
inline void rotate_group(const float* x, float* y) {
  constexpr int kVectors = kGroup / V::kLanes;
  typename V::F v[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    v[i] = sums_and_differences<V, 2>(sums_and_differences<V, 1>(V::load(x + i * V::kLanes)));
    if constexpr (V::kLanes > 4) v[i] = sums_and_differences<V, 4>(v[i]);
    if constexpr (V::kLanes > 8) v[i] = sums_and_differences<V, 8>(v[i]);
  }
  for (int half = 1; half < kVectors; half *= 2) {
    for (int i = 0; i < kVectors; ++i) {
      if ((i & half) != 0) continue;
      const typename V::F sum = V::add(v[i], v[i + half]);
      v[i + half] = V::sub(v[i], v[i + half]);
      v[i] = sum;
    }
  }
  for (int i = 0; i < kVectors; ++i) V::store(y + i * V::kLanes, V::mul(v[i], V::set(kRotationNorm)));
}

template <class V>
void quantize_rotated_row(const float* x, int32_t width, const Q8View& out) {
  for (int32_t begin = 0; begin < width; begin += kGroup) {
    alignas(64) float values[kGroup];
    rotate_group<V>(x + begin, values);
    quantize_group<V>(values, out.codes + begin, out.scales + begin / kGroup, out.sums + begin / kGroup);
  }
}

template <class V>
void rms_norm_row(const float* x, const float* weight, int32_t width, float eps, float* y) {
  typename V::F squares[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int32_t i = 0;
  for (; i + 4 * V::kLanes <= width; i += 4 * V::kLanes) {
    for (int j = 0; j < 4; ++j) {
      const typename V::F value = V::load(x + i + j * V::kLanes);
      squares[j] = V::fma(value, value, squares[j]);
    }
  }
  float total = V::total(V::add(V::add(squares[0], squares[1]), V::add(squares[2], squares[3])));
  for (; i < width; ++i) total += x[i] * x[i];
  const float inverse = 1.0f / __builtin_sqrtf(total / static_cast<float>(width) + eps);
  const typename V::F factor = V::set(inverse);
  for (i = 0; i + V::kLanes <= width; i += V::kLanes) {
    V::store(y + i, V::mul(V::mul(V::load(x + i), factor), V::load(weight + i)));
  }
  for (; i < width; ++i) y[i] = x[i] * inverse * weight[i];
}

// Some rows side by side, so that x is read once for them; each row's order of sums is its own.
template <class V, int kRows>
inline void dot_some_rows(const float* x, const float* rows, int64_t width, float* out) {
  constexpr int kSums = 2;
  typename V::F sums[kRows][kSums];
  for (int i = 0; i < kRows * kSums; ++i) (&sums[0][0])[i] = V::zero();
  int64_t i = 0;
  for (; i + kSums * V::kLanes <= width; i += kSums * V::kLanes) {
    for (int j = 0; j < kSums; ++j) {
      const typename V::F value = V::load(x + i + j * V::kLanes);
      for (int r = 0; r < kRows; ++r) {
        sums[r][j] = V::fma(value, V::load(rows + r * width + i + j * V::kLanes), sums[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float total = V::total(V::add(sums[r][0], sums[r][1]));
    for (int64_t t = i; t < width; ++t) total += x[t] * rows[r * width + t];
    out[r] = total;
  }
}

// See Kernels::dot_rows.
template <class V>
void dot_rows(const float* x, const float* rows, int32_t width, int32_t num_rows, float* out) {
  constexpr int kAtOnce = 4;
  int32_t row = 0;
  for (; row + kAtOnce <= num_rows; row += kAtOnce) {
    dot_some_rows<V, kAtOnce>(x, rows + static_cast<int64_t>(row) * width, width, out + row);
  }
  for (; row < num_rows; ++row) dot_some_rows<V, 1>(x, rows + static_cast<int64_t>(row) * width, width, out + row);
}

template <class V>
inline float sum_of(const float* x, int32_t width) {
  typename V::F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int32_t i = 0;
  for (; i + 4 * V::kLanes <= width; i += 4 * V::kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] = V::add(sums[j], V::load(x + i + j * V::kLanes));
  }
  float total = V::total(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
  for (; i < width; ++i) total += x[i];
  return total;
}

template <class V>
inline float squares_about(const float* x, int32_t width, float mean) {
  typename V::F squares[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  const typename V::F middle = V::set(mean);
  int32_t i = 0;
  for (; i + 4 * V::kLanes <= width; i += 4 * V::kLanes) {
    for (int j = 0; j < 4; ++j) {
      const typename V::F value = V::sub(V::load(x + i + j * V::kLanes), middle);
      squares[j] = V::fma(value, value, squares[j]);
    }
  }
  float total = V::total(V::add(V::add(squares[0], squares[1]), V::add(squares[2], squares[3])));
  for (; i < width; ++i) total += (x[i] - mean) * (x[i] - mean);
  return total;
}

template <class V>
void layer_norm_row(const float* x, const float* weight, const float* bias, int32_t width, float eps, float* y) {
  const float mean = sum_of<V>(x, width) / static_cast<float>(width);
  const float variance = squares_about<V>(x, width, mean) / static_cast<float>(width);
  const float inverse = 1.0f / __builtin_sqrtf(variance + eps);
  const typename V::F middle = V::set(mean);
  const typename V::F factor = V::set(inverse);
  int32_t i = 0;
  for (; i + V::kLanes <= width; i += V::kLanes) {
    const typename V::F scaled = V::mul(V::sub(V::load(x + i), middle), factor);
    V::store(y + i, V::fma(scaled, V::load(weight + i), V::load(bias + i)));
  }
  for (; i < width; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
}

template <class V, Activation kActivation>
inline void pointwise_all(const float* x, int32_t count, float* y) {
  int32_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store(y + i, activate<V, kActivation>(V::load(x + i)));
  if (i == count) return;
  float tail[V::kLanes] = {};
  for (int32_t j = i; j < count; ++j) tail[j - i] = x[j];
  V::store(tail, activate<V, kActivation>(V::load(tail)));
  for (int32_t j = i; j < count; ++j) y[j] = tail[j - i];
}

template <class V>
void pointwise_row(const float* x, int32_t count, Activation activation, float* y) {
  switch (activation) {
    case Activation::kSilu:
      return pointwise_all<V, Activation::kSilu>(x, count, y);
    case Activation::kGeluTanh:
      return pointwise_all<V, Activation::kGeluTanh>(x, count, y);
    case Activation::kGelu:
      return pointwise_all<V, Activation::kGelu>(x, count, y);
    case Activation::kTanh:
      return pointwise_all<V, Activation::kTanh>(x, count, y);
    case Activation::kRelu:
      return pointwise_all<V, Activation::kRelu>(x, count, y);
  }
}

template <class V>
void narrow_row(const float* x, int32_t count, uint16_t* halves) {
  int32_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) V::store_halves(halves + i, V::load(x + i));
  for (; i < count; ++i) halves[i] = float_to_half(x[i]);
}

}  // namespace
}  // namespace headrace
