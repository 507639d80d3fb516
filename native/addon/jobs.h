// Long calls: work on the engine's own thread, promises and callbacks on the JavaScript thread.
#pragma once

#include <napi.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "convert.h"

namespace credence::addon {

/// One native thread with a queue. Closing lets what is queued finish; the thread outlives the object until then.
class Worker {
 public:
  Worker();
  ~Worker();
  void post(std::function<void()> work);

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    bool closing = false;
  };
  std::shared_ptr<State> state_;
};

/// What a running job shares with JavaScript: how to stop it, and a way to call back.
class Job : public std::enable_shared_from_this<Job> {
 public:
  const AbortFlag* abort() const { return &abort_; }
  /// From the worker: runs on the JavaScript thread, in order. An exception there stops the job and rejects its promise.
  void call(std::function<void(Napi::Env)> body);

  /// Called from the worker through `call`, released on the JavaScript thread.
  Napi::FunctionReference callback;

 private:
  template <class Result>
  friend Napi::Promise start(Napi::Env, Worker&, Napi::Value, std::function<Result(Job&)>,
                             std::function<Napi::Value(Napi::Env, Result&)>);
  void listen(Napi::Env env, const Napi::Value& signal);
  void settle(Napi::Env env);

  friend struct Environment;

  AbortFlag abort_{false};
  Napi::ThreadSafeFunction to_js_;
  Napi::ObjectReference signal_;
  Napi::FunctionReference listener_;
  Napi::ObjectReference callback_error_;
};

/// What belongs to one JavaScript environment (the main thread, a worker thread): nothing is shared between them.
struct Environment {
  static Environment& of(Napi::Env env);
  /// Jobs of an environment that is going away stop at their next safe point.
  static void open(Napi::Env env);
  void enrol(const std::shared_ptr<Job>& job);

  Napi::FunctionReference base, policy, trainer;  // constructors
  Napi::FunctionReference error;                  // of (code, message): what a failure is thrown as; empty: an Error

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Job>> jobs_;
};

template <class Result>
Napi::Promise start(Napi::Env env, Worker& worker, Napi::Value signal, std::function<Result(Job&)> work,
                    std::function<Napi::Value(Napi::Env, Result&)> convert) {
  auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  auto job = std::make_shared<Job>();
  job->listen(env, signal);
  job->to_js_ =
      Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "credence", 0, 1);
  Environment::of(env).enrol(job);
  worker.post([job, deferred, work = std::move(work), convert = std::move(convert)]() mutable {
    auto result = std::make_shared<std::unique_ptr<Result>>();
    std::exception_ptr error;
    try {
      *result = std::make_unique<Result>(work(*job));
    } catch (...) {
      error = std::current_exception();
    }
    work = nullptr;  // what it captured dies before the promise settles
    job->call([job, deferred, result, error, convert = std::move(convert)](Napi::Env to) {
      Napi::HandleScope scope(to);
      try {
        if (!job->callback_error_.IsEmpty()) {
          deferred->Reject(job->callback_error_.Value());
        } else if (error) {
          try {
            std::rethrow_exception(error);
          } catch (const std::exception& e) {
            deferred->Reject(to_error(to, e).Value());
          }
        } else {
          deferred->Resolve(convert(to, **result));
        }
      } catch (const Napi::Error& e) {
        deferred->Reject(e.Value());
      }
      job->settle(to);
    });
    job->to_js_.Release();
  });
  return deferred->Promise();
}

}  // namespace credence::addon
