// A persistent pool of compute threads that run one stage of tasks at a time. Knows no plan and no kernel.
//
// One 64-bit ticket is the whole protocol: epoch << 24 | tasks nobody has claimed. A thread claims a task by lowering
// the ticket with compare-and-swap, so a thread that was late by any time finds another epoch or nothing left, and can
// never touch a stage that has ended. The stage's description is read only after a claim, and no stage ends before
// every claimed task is done: plain fields suffice. The caller takes tasks itself and advances the stages alone, so a
// worker that is parked or preempted costs its help and nothing else. Static halves lost: they wait for a preempted
// core.
//
// A worker without a task spins for a bounded time and then parks, which costs the next step a wake-up. The bound
// follows the pace of the steps: twice the last gap between two of them as long as that stays within `spin_us`, or else
// briefly. So workers stay awake while tokens come one after the other, and an idle engine uses no CPU.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace headrace {

inline constexpr int kMaxThreads = 1024;
inline constexpr int kMaxSpinUs = 1'000'000;
inline constexpr int32_t kMaxTasks = (1 << 24) - 1;

// Task numbers 0 .. count - 1; thread numbers 0 .. Threads::count() - 1, 0 being the caller. Must not throw.
using TaskFunction = void (*)(const void* context, int32_t task, int thread);

class Threads {
 public:
  // `cpus`: empty, or the CPU of each thread, the caller's first. Throws std::invalid_argument on a count, spin time or
  // CPU that cannot be.
  Threads(int count, int spin_us, std::vector<int> cpus);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return count_; }

  // Binds the calling thread to the first of the CPUs given; does nothing if none were. Throws std::invalid_argument.
  void pin_caller() const;

  // Stops and joins the workers. Throws std::runtime_error while a step runs; closing again does nothing.
  void close();

  // Exclusive use for one step. Construction throws std::runtime_error when the threads are busy or closed, and wakes
  // the workers, so that they are there when the first stage is.
  class Step {
   public:
    explicit Step(Threads& threads);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

    // Runs all tasks and returns when all are done. Lower task numbers are claimed first.
    void run(int32_t num_tasks, TaskFunction function, const void* context);
    int count() const { return threads_.count_; }

   private:
    Threads& threads_;
  };

 private:
  // Claims one task of the published stage; false when none is left.
  bool claim(int32_t& task);
  void work(int thread);
  std::chrono::steady_clock::duration patience() const;
  void park();
  void wake_parked();
  void stop();

  // The cache line that everybody polls, and the description that a successful claim reads next.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  TaskFunction function_ = nullptr;
  const void* context_ = nullptr;
  int32_t num_tasks_ = 0;

  alignas(64) std::atomic<int32_t> num_done_{0};  // tasks that workers finished in this stage

  alignas(64) std::atomic<int32_t> num_parked_{0};
  std::atomic<bool> is_stopping_{false};
  std::atomic<bool> is_busy_{false};
  bool is_closed_ = false;                               // guarded by is_busy_
  std::chrono::steady_clock::time_point last_step_end_;  // guarded by is_busy_
  std::atomic<int32_t> gap_us_{kMaxSpinUs};              // between the last two steps
  std::mutex mutex_;
  std::condition_variable woken_;
  uint64_t num_wakes_ = 0;  // guarded by mutex_

  const int count_;
  const int spin_us_;
  const std::vector<int> cpus_;
  std::vector<std::thread> workers_;
};

}  // namespace headrace
