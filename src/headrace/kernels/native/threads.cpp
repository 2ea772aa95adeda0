// The pool's waiting and waking; the protocol is told in threads.h.
#include "threads.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace headrace {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTicketBits = 24;
constexpr uint64_t kUnclaimedMask = (uint64_t{1} << kTicketBits) - 1;
// How long a worker spins when the next step is not expected soon: long enough for the caller's own work in a step.
constexpr int kShortSpinUs = 50;
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

void pin(std::thread::native_handle_type thread, int cpu) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
  if (pthread_setaffinity_np(thread, sizeof set, &set) == 0) return;
  throw std::invalid_argument("cpus: " + std::to_string(cpu) + " is no CPU that this process may run on");
#else
  (void)thread;
  throw std::invalid_argument("cpus: " + std::to_string(cpu) + " given, but this system binds no thread to a CPU");
#endif
}

}  // namespace

Threads::Threads(int count, int spin_us, std::vector<int> cpus)
    : count_(count), spin_us_(spin_us), cpus_(std::move(cpus)) {
  if (count < 1 || count > kMaxThreads) {
    throw std::invalid_argument("count: " + std::to_string(count) + " is not in [1, " + std::to_string(kMaxThreads) +
                                "]; give the number of cores to use");
  }
  if (spin_us < 0 || spin_us > kMaxSpinUs) {
    throw std::invalid_argument("spin_us: " + std::to_string(spin_us) + " is not in [0, " + std::to_string(kMaxSpinUs) +
                                "]");
  }
  if (!cpus_.empty() && cpus_.size() != static_cast<size_t>(count)) {
    throw std::invalid_argument("cpus: " + std::to_string(cpus_.size()) + " given for " + std::to_string(count) +
                                " threads; give one for each, or none");
  }
  workers_.reserve(static_cast<size_t>(count - 1));
  try {
    for (int thread = 1; thread < count; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
      if (!cpus_.empty()) pin(workers_.back().native_handle(), cpus_[static_cast<size_t>(thread)]);
    }
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

void Threads::pin_caller() const {
#ifdef __linux__
  if (!cpus_.empty()) pin(pthread_self(), cpus_[0]);
#endif
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

std::chrono::steady_clock::duration Threads::patience() const {
  const int expected_us = 2 * gap_us_.load(std::memory_order_relaxed);
  const int wanted_us = expected_us <= spin_us_ ? std::max(expected_us, kShortSpinUs) : kShortSpinUs;
  return std::chrono::microseconds(std::min(wanted_us, spin_us_));
}

void Threads::work(int thread) {
  int polls = 0;
  Clock::time_point deadline = Clock::now() + patience();
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
      deadline = now + patience();
      was_working = false;
    } else if (now >= deadline) {
      park();
      deadline = Clock::now() + patience();
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
  const auto gap = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - threads.last_step_end_);
  threads.gap_us_.store(static_cast<int32_t>(std::min<int64_t>(gap.count(), kMaxSpinUs)), std::memory_order_relaxed);
  if (threads.num_parked_.load(std::memory_order_relaxed) > 0) threads.wake_parked();
}

Threads::Step::~Step() {
  threads_.last_step_end_ = Clock::now();
  threads_.is_busy_.store(false, std::memory_order_release);
}

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
