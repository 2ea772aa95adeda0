// The avx512 variant: not here yet, so nobody can choose it.
#include "variants.h"

namespace headrace {

const Kernels* avx512_variant() { return nullptr; }

}  // namespace headrace
