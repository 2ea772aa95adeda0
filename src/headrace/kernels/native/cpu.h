// What the CPU offers, by the names users see. Knows no kernel.
#pragma once

#include <string_view>
#include <vector>

namespace headrace {

struct CpuFeature {
  const char* name;
  bool is_there;  // and, for vector registers, kept by the operating system
};

// Every feature we look for on this kind of CPU.
std::vector<CpuFeature> cpu_features();

// False for names that this kind of CPU does not know.
bool cpu_has(std::string_view name);

}  // namespace headrace
