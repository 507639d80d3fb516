// Several processes that train one policy together, each on rows of its own: what they say to each other. MPI and NCCL are
// to come behind the same interface.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace credence {

/// Every rank makes the same calls in the same order. Values are host memory.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// values[i] becomes its sum over ranks, added in rank order: the same bits on every rank and in every run.
  virtual void all_reduce_sum(float* values, size_t count) = 0;
  virtual void all_reduce_sum(double* values, size_t count) = 0;
  /// What rank `from` has.
  virtual void broadcast(void* data, size_t bytes, int from) = 0;
  /// Returns when all ranks have called it.
  virtual void barrier() = 0;
};

/// One rank: every call is done at once.
std::shared_ptr<Communicator> alone();

/// Ranks of one process, each to be used by a thread of its own.
std::vector<std::shared_ptr<Communicator>> threads_of_one_process(int size);

}  // namespace credence
