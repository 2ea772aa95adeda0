// The last product of a plan, logits of the selected rows, and the cap that some models put on them: computed by tiles
// into a thread's own scratch and looked at there, so that no row of logits is ever written. Knows the product's
// operands; not what its logits are for.
#pragma once

#include <vector>

#include "logit_blocks.h"
#include "plan.h"
#include "storage.h"

namespace headrace {

class Head final : public LogitSource {
 public:
  // How many of a plan's last ops a Head can take the place of: a product into logits that nothing else touches (1),
  // or one and a cap of its logits (2); else 0.
  static size_t num_ops(const Plan& plan);

  // The plan must end so, and outlive this.
  Head(const Plan& plan, const Kernels& kernels);

  // The rows that `tile` counts from; throws std::bad_alloc.
  void begin(int num_threads, const Q8View& rows);

  LogitTile tile(int32_t first_row, int32_t num_rows, int32_t quad_begin, int32_t quad_end, int thread) const override;
  double quad_ns(int32_t num_rows) const override;

 private:
  const Kernels& kernels_;
  const MatrixView matrix_;
  const float* const bias_;  // null = none
  const float cap_;          // 0 = none
  Q8View rows_{};
  std::vector<AlignedBytes> scratch_;  // per thread
};

}  // namespace headrace
