// See ceilings.h. Sums keep the compiler from dropping what is measured; the best pass is the least disturbed one.
#include "ceilings.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

constexpr int kPasses = 5;
constexpr int kMaxMegabytes = 16384;
constexpr int64_t kSliceWords = (int64_t{1} << 20) / 8;

struct Slices {
  const uint64_t* words;
  std::atomic<uint64_t>* sink;
};

void read_slice(const void* context, int32_t slice, int) {
  const auto& slices = *static_cast<const Slices*>(context);
  const uint64_t* words = slices.words + slice * kSliceWords;
  uint64_t sums[16] = {};
  for (int64_t i = 0; i < kSliceWords; i += 16) {
    for (int lane = 0; lane < 16; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t lane : sums) sum += lane;
  slices.sink->fetch_add(sum, std::memory_order_relaxed);
}

constexpr int32_t kMultiplyTasksPerThread = 16;
constexpr std::chrono::duration<double> kMultiplyTask{1e-3};

struct Multiplications {
  const Kernels& kernels;
  int64_t rounds;
  std::atomic<int64_t>* operations;
  std::atomic<int32_t>* sink;
};

void multiply_rounds(const void* context, int32_t, int) {
  const auto& work = *static_cast<const Multiplications*>(context);
  int32_t sum = 0;
  work.operations->fetch_add(work.kernels.multiply(work.rounds, &sum), std::memory_order_relaxed);
  work.sink->fetch_xor(sum, std::memory_order_relaxed);
}

// Rounds that take about `kMultiplyTask`: clock and hand-over are then nothing beside them.
int64_t rounds_of_task(const Kernels& kernels) {
  int32_t sum = 0;
  for (int64_t rounds = 1024;; rounds *= 2) {
    const auto begin = std::chrono::steady_clock::now();
    kernels.multiply(rounds, &sum);
    if (std::chrono::steady_clock::now() - begin >= kMultiplyTask) return rounds;
  }
}

}  // namespace

double read_bandwidth(Threads& threads, int megabytes) {
  if (megabytes < 1 || megabytes > kMaxMegabytes) {
    throw std::invalid_argument("megabytes: " + std::to_string(megabytes) + " is not in [1, " +
                                std::to_string(kMaxMegabytes) + "]");
  }
  const int64_t num_words = megabytes * kSliceWords;
  const std::unique_ptr<uint64_t[]> words(new uint64_t[num_words]);
  std::fill_n(words.get(), num_words, uint64_t{1});
  std::atomic<uint64_t> sink{0};
  const Slices slices{words.get(), &sink};
  Threads::Step step(threads);
  double best = 0.0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    step.run(megabytes, &read_slice, &slices);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(num_words) * 8.0 / elapsed.count());
  }
  return best;
}

double multiply_rate(Threads& threads, const Kernels& kernels) {
  std::atomic<int64_t> operations{0};
  std::atomic<int32_t> sink{0};
  Threads::Step step(threads);
  const Multiplications work{kernels, rounds_of_task(kernels), &operations, &sink};
  double best = 0.0;
  for (int pass = 0; pass < kPasses; ++pass) {
    operations.store(0, std::memory_order_relaxed);
    const auto begin = std::chrono::steady_clock::now();
    step.run(kMultiplyTasksPerThread * threads.count(), &multiply_rounds, &work);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    best = std::max(best, static_cast<double>(operations.load(std::memory_order_relaxed)) / elapsed.count());
  }
  return best;
}

}  // namespace headrace
