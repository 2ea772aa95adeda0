// See storage.h.
#include "storage.h"

#include <algorithm>
#include <cstring>

namespace headrace {
namespace {

constexpr int64_t kLine = 64;

int64_t lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

}  // namespace

AlignedBytes::AlignedBytes(size_t size) : memory_(static_cast<uint8_t*>(::operator new[](size, std::align_val_t{64}))) {
  std::memset(memory_.get(), 0, size);
}

Storage::Storage(const Plan& plan) : output_(plan.output) {
  for (const Buffer& buffer : plan.buffers) {
    const bool is_lent = slots_.size() == static_cast<size_t>(output_);
    slots_.push_back({.kind = buffer.kind, .rows = buffer.rows, .width = buffer.width, .is_lent = is_lent});
  }
}

void Storage::reserve(int32_t num_tokens, int32_t num_selected) {
  if (num_tokens > token_capacity_) {
    // Half as much again, so that slowly growing batches do not allocate every step.
    const int64_t capacity = std::max<int64_t>(num_tokens, token_capacity_ + token_capacity_ / 2);
    grow(Rows::kTokens, capacity, token_memory_);
    token_capacity_ = capacity;
  }
  if (num_selected > selected_capacity_) {
    const int64_t capacity = std::max<int64_t>(num_selected, selected_capacity_ + selected_capacity_ / 2);
    grow(Rows::kSelected, capacity, selected_memory_);
    selected_capacity_ = capacity;
  }
}

void Storage::grow(Rows rows, int64_t num_rows, AlignedBytes& memory) {
  int64_t total = kLine;
  for (const Slot& slot : slots_) {
    if (slot.rows != rows || slot.is_lent) continue;
    const int64_t values = num_rows * slot.width;
    total += slot.kind == BufferKind::kF32 ? lines(values * 4) : lines(values) + 2 * lines(values / kGroup * 4);
  }
  memory = AlignedBytes(static_cast<size_t>(total));
  uint8_t* next = memory.get();
  const auto take = [&next](int64_t bytes) {
    uint8_t* taken = next;
    next += lines(bytes);
    return taken;
  };
  for (Slot& slot : slots_) {
    if (slot.rows != rows || slot.is_lent) continue;
    const int64_t values = num_rows * slot.width;
    if (slot.kind == BufferKind::kF32) {
      slot.f32 = reinterpret_cast<float*>(take(values * 4));
      continue;
    }
    slot.codes = reinterpret_cast<int8_t*>(take(values));
    slot.scales = reinterpret_cast<float*>(take(values / kGroup * 4));
    slot.sums = reinterpret_cast<float*>(take(values / kGroup * 4));
  }
}

}  // namespace headrace
