// An adapter as the executor holds it: for some of a plan's matrices two thin factors, out += factor * B (A x), checked
// once against the plan. Knows shapes; the owner of the bytes keeps them alive.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "plan.h"

namespace headrace {

// B of one of the checkpoint tensors that a matrix is made of; its inputs are some of the rows of A.
struct AdapterPart {
  LowRankView b;
  int32_t first_rank;  // first row of A
  int64_t offset;      // first feature of the matrix' output
  int64_t block_step;  // features from one block of 32 outputs to the next
};

struct AdaptedMatrix {
  int32_t matrix;  // of the plan
  MatrixView a;    // [sum of ranks][cols]
  int32_t cols;
  std::vector<AdapterPart> parts;
};

class Adapter {
 public:
  // Throws std::invalid_argument naming the matrix and the part that does not fit the plan.
  Adapter(const Plan& plan, std::vector<AdaptedMatrix> matrices);

  // What is added to a matrix of the plan; null: nothing.
  const AdaptedMatrix* find(int32_t matrix) const {
    const int32_t place = places_[static_cast<size_t>(matrix)];
    return place < 0 ? nullptr : &matrices_[static_cast<size_t>(place)];
  }

  int32_t most_ranks() const { return most_ranks_; }  // rows of the highest A

 private:
  std::vector<AdaptedMatrix> matrices_;
  std::vector<int32_t> places_;  // by matrix of the plan; -1 = none
  int32_t most_ranks_ = 0;
};

}  // namespace headrace
