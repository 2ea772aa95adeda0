// fp16 <-> float32 in plain integer arithmetic, so that every CPU rounds alike. Owns nothing else.
#include <bit>

#include "kernels.h"

namespace headrace {

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN keep their meaning
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude << 13 & 0x7fffffu));
  }
  // Read as if the exponents were biased alike, then multiply by 2^(127 - 15): exact, subnormals included.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(scaled));
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (!(magnitude < 0x477fe000u)) {  // 65504 and beyond; NaN too, because cache pages must stay finite
    return static_cast<uint16_t>(sign | 0x7bffu);
  }
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the FPU round to multiples of 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t odd = magnitude >> 13 & 1u;
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + odd;
  return static_cast<uint16_t>(sign | rounded >> 13);
}

}  // namespace headrace
