// The threads of a CPU back end. A launch is short (a token step has some 180 of them), so workers spin for a moment before
// they sleep, and a launch waits only for workers that took part: one that was still asleep costs nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

namespace credence::cpu {

class ThreadPool {
 public:
  /// The caller is one of `threads`; 0 or less: as many as this process may run on.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  /// Calls task(context, index, thread) for every index in [0, tasks), each once, and returns when all are done. `thread` in
  /// [0, threads()) is the caller of this task and its alone: an index for scratch. Who gets which index is left to chance, so
  /// a task's result must not depend on it. One launch at a time, and none from inside a task.
  void run(int64_t tasks, void (*task)(void* context, int64_t index, int thread), void* context);

  /// run() with a callable (int64_t index, int thread). The callable's type is unique to its call, hence to its instruction set.
  template <class Task>
  void parallel(int64_t tasks, Task&& task) {
    using Plain = std::remove_reference_t<Task>;
    run(
        tasks, [](void* context, int64_t index, int thread) { (*static_cast<Plain*>(context))(index, thread); },
        const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  void work(int thread);
  void take(int thread);

  const int threads_;
  std::unique_ptr<std::thread[]> workers_;

  // The job. Written while no worker is inside (active_ is 0 and epoch_ even).
  void (*task_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;

  alignas(64) std::atomic<uint64_t> epoch_{0};  // odd: a job is open
  alignas(64) std::atomic<int64_t> next_{0};    // the next index nobody has taken
  alignas(64) std::atomic<int> active_{0};      // workers that may be reading the job
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace credence::cpu
