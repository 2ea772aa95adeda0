// The pool's waiting and waking; the protocol is told in threads.h.
#include "threads.h"

#include <chrono>
#include <stdexcept>
#include <string>

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTicketBits = 24;
constexpr uint64_t kUnclaimedMask = (uint64_t{1} << kTicketBits) - 1;
constexpr int kMaxSpinUs = 1'000'000;
// Reading the clock costs about as much as this many polls, so it is read once in so many.
constexpr int kPollsPerClock = 32;
// The caller waits this many polls for the last task before it offers its core to whoever holds that task.
constexpr int kPollsBeforeYield = 2000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count, int spin_us) : count_(count), spin_us_(spin_us) {
  if (count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("count: " + std::to_string(count) + " is not in [1, " + std::to_string(kMaxThreads) +
                                "]; give the number of cores to use");
  }
  if (spin_us < 0 || spin_us > kMaxSpinUs) {
    throw std::invalid_argument("spin_us: " + std::to_string(spin_us) + " is not in [0, " + std::to_string(kMaxSpinUs) +
                                "]");
  }
  workers_.reserve(static_cast<size_t>(count - 1));
  try {
    for (int thread = 1; thread < count; ++thread) workers_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

Threads::~Threads() { stop(); }

void Threads::stop() {
  is_stopping_.store(true);
  wake_parked();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void Threads::close() {
  if (is_busy_.exchange(true, std::memory_order_acquire)) {
    throw std::runtime_error("these threads are running a step; close them when it has ended");
  }
  if (!is_closed_) stop();
  is_closed_ = true;
  is_busy_.store(false, std::memory_order_release);
}

bool Threads::claim(int32_t& task) {
  uint64_t ticket = ticket_.load(std::memory_order_relaxed);
  while ((ticket & kUnclaimedMask) != 0) {
    if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire, std::memory_order_relaxed)) {
      task = num_tasks_ - static_cast<int32_t>(ticket & kUnclaimedMask);
      return true;
    }
  }
  return false;
}

void Threads::work(int thread) {
  int polls = 0;
  Clock::time_point deadline = Clock::now() + std::chrono::microseconds(spin_us_);
  bool was_working = false;
  while (!is_stopping_.load(std::memory_order_relaxed)) {
    int32_t task;
    if (claim(task)) {
      function_(context_, task, thread);
      num_done_.fetch_add(1, std::memory_order_release);
      was_working = true;
      continue;
    }
    relax();
    if (++polls % kPollsPerClock != 0) continue;
    const Clock::time_point now = Clock::now();
    if (was_working) {
      deadline = now + std::chrono::microseconds(spin_us_);
      was_working = false;
    } else if (now >= deadline) {
      park();
      deadline = Clock::now() + std::chrono::microseconds(spin_us_);
    }
  }
}

void Threads::park() {
  std::unique_lock lock(mutex_);
  const uint64_t seen = num_wakes_;
  // Sequentially consistent with the caller's publishing: either it sees us parked, or we see its ticket.
  num_parked_.fetch_add(1, std::memory_order_seq_cst);
  if ((ticket_.load(std::memory_order_seq_cst) & kUnclaimedMask) == 0) {
    woken_.wait(lock, [&] { return num_wakes_ != seen || is_stopping_.load(std::memory_order_relaxed); });
  }
  num_parked_.fetch_sub(1, std::memory_order_relaxed);
}

void Threads::wake_parked() {
  {
    const std::lock_guard lock(mutex_);
    ++num_wakes_;
  }
  woken_.notify_all();
}

Threads::Step::Step(Threads& threads) : threads_(threads) {
  if (threads.is_busy_.exchange(true, std::memory_order_acquire)) {
    throw std::runtime_error("these threads are already running a step; give each engine thread its own Threads");
  }
  if (threads.is_closed_) {
    threads.is_busy_.store(false, std::memory_order_release);
    throw std::runtime_error("these threads are closed; make new ones");
  }
  if (threads.num_parked_.load(std::memory_order_relaxed) > 0) threads.wake_parked();
}

Threads::Step::~Step() { threads_.is_busy_.store(false, std::memory_order_release); }

void Threads::Step::run(int32_t num_tasks, TaskFunction function, const void* context) {
  if (num_tasks <= 1 || threads_.count_ == 1) {
    for (int32_t task = 0; task < num_tasks; ++task) function(context, task, 0);
    return;
  }
  Threads& pool = threads_;
  pool.function_ = function;
  pool.context_ = context;
  pool.num_tasks_ = num_tasks;
  pool.num_done_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = (pool.ticket_.load(std::memory_order_relaxed) >> kTicketBits) + 1;
  pool.ticket_.exchange(epoch << kTicketBits | static_cast<uint64_t>(num_tasks), std::memory_order_seq_cst);
  if (pool.num_parked_.load(std::memory_order_seq_cst) > 0) pool.wake_parked();
  int32_t num_mine = 0;
  for (int32_t task; pool.claim(task); ++num_mine) function(context, task, 0);
  for (int polls = 0; pool.num_done_.load(std::memory_order_acquire) != num_tasks - num_mine; ++polls) {
    if (polls < kPollsBeforeYield) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace headrace
