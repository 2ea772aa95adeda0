// See cpu.h.
#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
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

// Linux lets a process use the tables of AMX once it has asked, for all its threads
// (Documentation/arch/x86/xstate.rst); it refuses where it does not keep them, or where a thread's stack for signals is
// too small to hold them.
bool may_use_tables() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTableData = 18;
  static const bool may = syscall(SYS_arch_prctl, kRequestPermission, kTableData) == 0;
  return may;
#else
  return false;
#endif
}

bool has_tables(int bit) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> bit & 1u) != 0 && may_use_tables();
}
#elif defined(__aarch64__)
// Every CPU of this kind has NEON; the dot products came with ARMv8.2 and are asked for the way each system offers.
bool has_dot_products() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
  int is_there = 0;
  size_t size = sizeof is_there;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &is_there, &size, nullptr, 0) == 0 && is_there != 0;
#else
  return false;
#endif
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
          {"avx512vnni", __builtin_cpu_supports("avx512vnni") != 0},
          {"amx_tile", has_tables(24)},
          {"amx_int8", has_tables(25)}};
#elif defined(__aarch64__)
  return {{"neon", true}, {"neon_dotprod", has_dot_products()}};
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
