// The objects JavaScript holds: a base, its policies, their trainers.
#pragma once

#include "jobs.h"

namespace credence::addon {

/// A handle that may have been disposed of; work in flight keeps its own reference, so disposing never pulls memory away.
template <class T>
class Handle {
 public:
  void set(std::shared_ptr<T> value) { value_ = std::move(value); }
  const std::shared_ptr<T>& get(const char* what) const {
    if (!value_) fail("DISPOSED", "this %s was disposed of", what);
    return value_;
  }
  void dispose() { value_.reset(); }

 private:
  std::shared_ptr<T> value_;
};

class BaseObject : public Napi::ObjectWrap<BaseObject> {
 public:
  static void init(Napi::Env env);
  explicit BaseObject(const Napi::CallbackInfo& info);
  static Napi::Value create(Napi::Env env, std::shared_ptr<Base> base, std::shared_ptr<Worker> worker);

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  void set_vocabulary(const Napi::CallbackInfo& info);
  Napi::Value policy(const Napi::CallbackInfo& info);
  Napi::Value memory(const Napi::CallbackInfo& info);
  Napi::Value advantages(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  Handle<Base> base_;
  std::shared_ptr<Worker> worker_;
};

class PolicyObject : public Napi::ObjectWrap<PolicyObject> {
 public:
  static void init(Napi::Env env);
  explicit PolicyObject(const Napi::CallbackInfo& info);
  static Napi::Value create(Napi::Env env, std::shared_ptr<Policy> policy, std::shared_ptr<Worker> worker);

 private:
  Napi::Value trainable(const Napi::CallbackInfo& info);
  Napi::Value owns_weights(const Napi::CallbackInfo& info);
  Napi::Value tensors(const Napi::CallbackInfo& info);
  void set_tensors(const Napi::CallbackInfo& info);
  Napi::Value generate(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value read_head(const Napi::CallbackInfo& info);
  Napi::Value trainer(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  Handle<Policy> policy_;
  std::shared_ptr<Worker> worker_;
};

class TrainerObject : public Napi::ObjectWrap<TrainerObject> {
 public:
  static void init(Napi::Env env);
  explicit TrainerObject(const Napi::CallbackInfo& info);
  static Napi::Value create(Napi::Env env, std::shared_ptr<Trainer> trainer, std::shared_ptr<Worker> worker);

 private:
  Napi::Value accumulate(const Napi::CallbackInfo& info);
  Napi::Value ppo_sums_so_far(const Napi::CallbackInfo& info);
  Napi::Value accumulate_head(const Napi::CallbackInfo& info);
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);
  Napi::Value update(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);
  void clear_gradients(const Napi::CallbackInfo& info);
  Napi::Value state(const Napi::CallbackInfo& info);
  Napi::Value average(const Napi::CallbackInfo& info);
  void restore(const Napi::CallbackInfo& info);
  Napi::Value pass_size(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);

  Handle<Trainer> trainer_;
  std::shared_ptr<Worker> worker_;
};

}  // namespace credence::addon
