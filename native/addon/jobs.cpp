#include "jobs.h"

namespace credence::addon {

Worker::Worker() : state_(std::make_shared<State>()) {
  std::thread([state = state_] {
    for (;;) {
      std::function<void()> work;
      {
        std::unique_lock lock(state->mutex);
        state->changed.wait(lock, [&] { return state->closing || !state->queue.empty(); });
        if (state->queue.empty()) return;
        work = std::move(state->queue.front());
        state->queue.pop_front();
      }
      work();
    }
  }).detach();
}

Worker::~Worker() {
  std::lock_guard lock(state_->mutex);
  state_->closing = true;
  state_->changed.notify_one();
}

void Worker::post(std::function<void()> work) {
  std::lock_guard lock(state_->mutex);
  state_->queue.push_back(std::move(work));
  state_->changed.notify_one();
}

Environment& Environment::of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

void Environment::open(Napi::Env env) {
  auto* environment = new Environment();
  env.SetInstanceData<Environment>(environment);
  env.AddCleanupHook([environment] {
    std::lock_guard lock(environment->mutex_);
    for (const auto& weak : environment->jobs_) {
      if (const auto job = weak.lock()) job->abort_.store(true);
    }
  });
}

void Environment::enrol(const std::shared_ptr<Job>& job) {
  std::lock_guard lock(mutex_);
  std::erase_if(jobs_, [](const auto& weak) { return weak.expired(); });
  jobs_.push_back(job);
}

void Job::call(std::function<void(Napi::Env)> body) {
  // Every callback has its own catch: while an environment ends JavaScript may not run, and an exception that escapes ends the process.
  to_js_.NonBlockingCall([job = shared_from_this(), body = std::move(body)](Napi::Env env, Napi::Function) {
    if (env == nullptr) return;
    try {
      Napi::HandleScope scope(env);
      body(env);
    } catch (const Napi::Error& error) {
      if (job->callback_error_.IsEmpty()) {
        job->callback_error_ = Napi::Persistent(error.Value().As<Napi::Object>());
        job->callback_error_.SuppressDestruct();
      }
      job->abort_.store(true);
    } catch (...) {
      job->abort_.store(true);
    }
  });
}

void Job::listen(Napi::Env env, const Napi::Value& signal) {
  if (absent(signal)) return;
  const Napi::Object object = object_of(signal, "signal");
  if (object.Get("aborted").ToBoolean().Value()) abort_.store(true);
  signal_ = Napi::Persistent(object);
  listener_ = Napi::Persistent(Napi::Function::New(env, [weak = weak_from_this()](const Napi::CallbackInfo&) {
    if (const auto job = weak.lock()) job->abort_.store(true);
  }));
  // A job may die on the worker, where no reference may be touched: they are released in settle() alone.
  signal_.SuppressDestruct();
  listener_.SuppressDestruct();
  object.Get("addEventListener")
      .As<Napi::Function>()
      .Call(object, {Napi::String::New(env, "abort"), listener_.Value()});
}

void Job::settle(Napi::Env env) {
  callback.Reset();
  callback_error_.Reset();
  if (signal_.IsEmpty()) return;
  Napi::Object object = signal_.Value();
  object.Get("removeEventListener")
      .As<Napi::Function>()
      .Call(object, {Napi::String::New(env, "abort"), listener_.Value()});
  signal_.Reset();
  listener_.Reset();
}

}  // namespace credence::addon
