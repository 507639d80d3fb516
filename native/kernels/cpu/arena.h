// An operator's workspace, handed out piece by piece. The same lines measure it (no base) and use it, so they cannot differ.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace credence::cpu {

/// Isa: nothing inline is shared by files of different instruction sets.
template <class Isa>
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  /// 64-byte aligned; null while measuring.
  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

}  // namespace credence::cpu
