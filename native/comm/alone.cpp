#include "communicator.h"

namespace credence {

namespace {

class Alone : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(float*, size_t) override {}
  void all_reduce_sum(double*, size_t) override {}
  void broadcast(void*, size_t, int) override {}
  void barrier() override {}
};

}  // namespace

std::shared_ptr<Communicator> alone() {
  static const auto only = std::make_shared<Alone>();
  return only;
}

}  // namespace credence
