// Ranks that are threads of one process: they leave a pointer where the others find it, and meet at barriers.
#include <algorithm>
#include <barrier>
#include <cstring>

#include "communicator.h"

namespace credence {

namespace {

struct Meeting {
  explicit Meeting(int size) : barrier(size), given(size) {}
  std::barrier<> barrier;
  std::vector<const void*> given;
};

class ThreadRank : public Communicator {
 public:
  ThreadRank(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(meeting_->given.size()); }
  void all_reduce_sum(float* values, size_t count) override { sum(values, count); }
  void all_reduce_sum(double* values, size_t count) override { sum(values, count); }
  void broadcast(void* data, size_t bytes, int from) override {
    meeting_->given[rank_] = data;
    barrier();
    if (rank_ != from) std::memcpy(data, meeting_->given[from], bytes);
    barrier();
  }
  void barrier() override { meeting_->barrier.arrive_and_wait(); }

 private:
  template <class T>
  void sum(T* values, size_t count) {
    meeting_->given[rank_] = values;
    barrier();
    std::vector<T> total(count, T{0});
    for (const void* given : meeting_->given) {
      for (size_t i = 0; i < count; ++i) total[i] += static_cast<const T*>(given)[i];
    }
    barrier();  // nobody reads any more
    std::copy(total.begin(), total.end(), values);
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

}  // namespace

std::vector<std::shared_ptr<Communicator>> threads_of_one_process(int size) {
  const auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::shared_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) ranks.push_back(std::make_shared<ThreadRank>(meeting, rank));
  return ranks;
}

}  // namespace credence
