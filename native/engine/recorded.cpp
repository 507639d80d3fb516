#include "recorded.h"

namespace credence {

void Recorded::run(int key, const std::function<void()>& body) {
  const credence_table& table = device_->table();
  credence_backend* const backend = device_->backend();
  if (!table.record || device_->dry()) return body();
  if (scratch_ != device_->scratch_address()) forget();  // another call has needed more of it, or given it back
  const auto [found, first] = graphs_.try_emplace(key, nullptr);
  if (first) {
    body();
    if (scratch_ == device_->scratch_address()) return;
    forget();  // it has needed more workspace than the others
    graphs_.emplace(key, nullptr);
    scratch_ = device_->scratch_address();
    return;
  }
  if (!found->second) {
    device_->check(table.record(backend), "record");
    try {
      body();
    } catch (...) {
      if (credence_graph* const part = table.recorded(backend)) table.free_graph(backend, part);
      throw;
    }
    found->second = table.recorded(backend);
    device_->check(found->second ? 0 : 1, "record");
  }
  device_->check(table.replay(backend, found->second), "replay");
}

void Recorded::forget() {
  for (const auto& [key, graph] : graphs_)
    if (graph) device_->table().free_graph(device_->backend(), graph);
  graphs_.clear();
}

}  // namespace credence
