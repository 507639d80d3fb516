#include "thread_pool.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace credence::cpu {

namespace {

constexpr int kWorkerSpins = 4000;   // about 50 us: longer than the gap between two launches of a token step
constexpr int kCallerSpins = 20000;  // then the cores are shared with others: let them run

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int usable(int threads) {
  if (threads > 0) return threads;
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  return all > 0 ? all : 1;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(usable(threads)), workers_(new std::thread[threads_]) {
  for (int i = 1; i < threads_; ++i) workers_[i] = std::thread([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (int i = 1; i < threads_; ++i) workers_[i].join();
}

int ThreadPool::threads() const { return threads_; }

void ThreadPool::take(int thread) {
  const int64_t tasks = tasks_;
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) task_(context_, i, thread);
}

void ThreadPool::run(int64_t tasks, void (*task)(void*, int64_t, int), void* context) {
  if (threads_ == 1 || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) task(context, i, 0);
    return;
  }
  task_ = task;
  context_ = context;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  epoch_.fetch_add(1);
  if (sleepers_.load() > 0) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
    }  // a worker between its look at epoch_ and its sleep holds the mutex
    wake_.notify_all();
  }
  take(0);
  // Closed before active_ is read: a worker that counts itself in later finds the job closed (both are sequentially consistent).
  epoch_.fetch_add(1);
  for (int spins = 0; active_.load() != 0; ++spins) {
    if (spins < kCallerSpins) relax();
    else std::this_thread::yield();
  }
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    uint64_t epoch;
    while (((epoch = epoch_.load()) == seen || epoch % 2 == 0) && !stop_.load(std::memory_order_relaxed)) {
      if (++spins < kWorkerSpins) {
        relax();
        continue;
      }
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return stop_.load() || ((epoch = epoch_.load()) != seen && epoch % 2 == 1); });
      sleepers_.fetch_sub(1);
    }
    if (stop_.load()) return;
    active_.fetch_add(1);
    seen = epoch_.load();
    if (seen % 2 == 1) take(thread);
    active_.fetch_sub(1);
  }
}

}  // namespace credence::cpu
