// The activation buffers of one program: 64-byte aligned, grown to the most rows a step has asked for, never shrunk.
// The output is not among them: whoever wants them written lends the memory. Knows shapes only.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "plan.h"

namespace headrace {

// Zeroed memory on a cache line's boundary.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t size);
  uint8_t* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<uint8_t[], Free> memory_;
};

class Storage {
 public:
  explicit Storage(const Plan& plan);

  // Makes room for so many rows; contents are lost when it grows. Throws std::bad_alloc and stays as it was.
  void reserve(int32_t num_tokens, int32_t num_selected);

  // Where the rows of the output lie until other memory is lent.
  void lend_output(float* memory) { slots_[output_].f32 = memory; }

  float* f32(int32_t buffer, int64_t row) const {
    const Slot& slot = slots_[buffer];
    return slot.f32 + row * slot.width;
  }

  // Row `row` and those behind it as a kernel's output.
  Output output(int32_t buffer, int64_t row) const {
    const Slot& slot = slots_[buffer];
    if (slot.kind == BufferKind::kF32) return {.f32 = f32(buffer, row), .stride = slot.width, .q8 = {}};
    return {.f32 = nullptr, .stride = 0, .q8 = q8(buffer, row)};
  }

  Q8View q8(int32_t buffer, int64_t row) const {
    const Slot& slot = slots_[buffer];
    const int64_t groups = slot.width / kGroup;
    return {slot.codes + row * slot.width, slot.scales + row * groups, slot.sums + row * groups, slot.width};
  }

 private:
  struct Slot {
    BufferKind kind;
    Rows rows;
    int32_t width;
    bool is_lent;
    float* f32 = nullptr;
    int8_t* codes = nullptr;
    float* scales = nullptr;
    float* sums = nullptr;
  };

  void grow(Rows rows, int64_t num_rows, AlignedBytes& memory);

  std::vector<Slot> slots_;
  int32_t output_;
  AlignedBytes token_memory_, selected_memory_;
  int64_t token_capacity_ = 0, selected_capacity_ = 0;
};

}  // namespace headrace
