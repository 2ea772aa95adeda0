// See cpu.h.
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace headrace {
namespace {

#if defined(__x86_64__)
// Bits that `__builtin_cpu_supports` of older compilers (clang 14, gcc 10) does not know by name.
bool cpuid_bit(unsigned leaf, unsigned subleaf, bool in_ecx, int bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx) == 0) return false;
  return ((in_ecx ? ecx : eax) >> bit & 1u) != 0;
}
#endif

}  // namespace

std::vector<CpuFeature> cpu_features() {
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  return {{"avx2", has_avx2},
          {"fma", __builtin_cpu_supports("fma") != 0},
          // Both use the registers of AVX2, so they are there only if the operating system keeps those.
          {"f16c", has_avx2 && cpuid_bit(1, 0, true, 29)},
          {"avxvnni", has_avx2 && cpuid_bit(7, 1, false, 4)},
          {"avx512f", __builtin_cpu_supports("avx512f") != 0},
          {"avx512bw", __builtin_cpu_supports("avx512bw") != 0},
          {"avx512vl", __builtin_cpu_supports("avx512vl") != 0},
          {"avx512dq", __builtin_cpu_supports("avx512dq") != 0},
          {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0}};
#elif defined(__ARM_FEATURE_DOTPROD)
  return {{"neon", true}, {"neon_dotprod", true}};
#elif defined(__aarch64__)
  return {{"neon", true}};
#else
  return {};
#endif
}

bool cpu_has(std::string_view name) {
  for (const CpuFeature& feature : cpu_features()) {
    if (feature.name == name) return feature.is_there;
  }
  return false;
}

}  // namespace headrace
