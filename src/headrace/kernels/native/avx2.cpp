// The avx2 variant: not here yet, so nobody can choose it.
#include "variants.h"

namespace headrace {

const Kernels* avx2_variant() { return nullptr; }

}  // namespace headrace
