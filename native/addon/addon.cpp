// Registration, and the calls that belong to no object.
#include <unistd.h>

#include <thread>

#include "models.h"
#include "native/engine/bench.h"
#include "native/engine/golden.h"
#include "native/engine/logistic.h"
#include "native/engine/machine.h"
#include "native/kernels/cuda_library.h"
#include "objects.h"

namespace credence::addon {

namespace {

Napi::Value open_base(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string path = string_of(call[0], "path");
    const DeviceOptions options = device_options(call[1]);
    auto worker = std::make_shared<Worker>();
    return start<std::shared_ptr<Base>>(
        env, *worker, env.Undefined(), [path, options](Job&) { return Base::open(path, options); },
        [worker](Napi::Env to, std::shared_ptr<Base>& base) -> Napi::Value {
          return BaseObject::create(to, base, worker);
        });
  });
}

/// Work that needs no base: a thread of its own for each call.
template <class Result>
Napi::Value run_apart(Napi::Env env, std::function<Result(Job&)> work,
                      std::function<Napi::Value(Napi::Env, Result&)> convert) {
  auto worker = std::make_shared<Worker>();
  return start<Result>(env, *worker, env.Undefined(), std::move(work),
                       [worker, convert](Napi::Env to, Result& result) { return convert(to, result); });
}

Napi::Value text(Napi::Env env, std::string& value) { return Napi::String::New(env, value); }

Napi::Value fit(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object options = object_of(call[0], "options");
    struct Problem {
      std::vector<double> x, targets, towards;
      int rows, width;
      double penalty;
      std::string isa;
    };
    auto p = std::make_shared<Problem>();
    p->x = doubles(options.Get("features"), "features");
    p->targets = doubles(options.Get("targets"), "targets");
    p->rows = integer_of(options.Get("rows"), "rows");
    p->width = integer_of(options.Get("width"), "width");
    p->penalty = number_of(options.Get("penalty"), "penalty");
    p->isa = string_or(options, "isa", "auto");
    if (!absent(options.Get("towards"))) p->towards = doubles(options.Get("towards"), "towards");
    if (p->rows < 1 || p->width < 1 || p->x.size() != static_cast<size_t>(p->rows) * p->width ||
        p->targets.size() != static_cast<size_t>(p->rows)) {
      fail("BAD_OPTION", "fitLogistic: %zu features and %zu targets are not %d rows of %d", p->x.size(),
           p->targets.size(), p->rows, p->width);
    }
    if (!p->towards.empty() && p->towards.size() != static_cast<size_t>(p->width) + 1) {
      fail("BAD_OPTION", "towards: expected %d numbers but received %zu", p->width + 1, p->towards.size());
    }
    return run_apart<std::vector<double>>(
        env,
        [p](Job&) {
          return fit_logistic(p->x.data(), p->rows, p->width, p->targets.data(), p->penalty,
                              p->towards.empty() ? nullptr : p->towards.data(), 1, p->isa);
        },
        [](Napi::Env to, std::vector<double>& weights) -> Napi::Value { return double_array(to, weights); });
  });
}

Napi::Value run_golden(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    GoldenOptions options;
    options.directory = string_of(call[0], "directory");
    options.device = device_options(call[1]);
    options.write = string_or(object_of(call[1], "options"), "write", "");
    return run_apart<std::string>(env, [options](Job&) { return golden(options).text(2); }, text);
  });
}

void set_error(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    if (!call[0].IsFunction()) fail("BAD_OPTION", "errors: expected a class that takes a code and a message");
    Environment::of(call.Env()).error = Napi::Persistent(call[0].As<Napi::Function>());
  });
}

void cuda_package(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const std::string name = string_of(call[0], "name");
    if (absent(call[1])) set_cuda_package(name.c_str(), nullptr);
    else set_cuda_package(name.c_str(), string_of(call[1], "library").c_str());
  });
}

Napi::Value machine_info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  Napi::Object out = Napi::Object::New(env);
  Napi::Array isas = Napi::Array::New(env);
  for (const IsaStatus& status : cpu_isas()) {
    if (status.unavailable.empty()) isas.Set(isas.Length(), status.isa);
  }
  out.Set("isas", isas);
  out.Set("cpu", cpu_name());
  out.Set("cores", std::thread::hardware_concurrency());
  out.Set("memoryBytes", static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE)));
  const std::string cuda = cuda_unavailable();
  out.Set("cuda", cuda.empty() ? "available" : cuda);
  return out;
}

Napi::Value measured_peaks(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const int threads = integer_of(call[0], "threads");
    const std::string isa = absent(call[1]) ? "auto" : string_of(call[1], "isa");
    return run_apart<Peaks>(
        env, [threads, isa](Job&) { return measure_peaks(threads, isa); },
        [](Napi::Env to, Peaks& peaks) -> Napi::Value {
          Napi::Object out = Napi::Object::New(to);
          out.Set("f32Gflops", peaks.f32_gflops);
          out.Set("bf16Gflops", peaks.bf16_gflops);
          out.Set("readGBs", peaks.read_gbs);
          return out;
        });
  });
}

Napi::Value run_bench(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const std::string what = string_of(call[0], "what");
    BenchOptions options;
    options.device = device_options(call[1]);
    if (!absent(call[1])) {
      const Napi::Object object = object_of(call[1], "options");
      options.model = string_or(object, "model", "");
      options.shape = string_or(object, "shape", "");
      options.workload = string_or(object, "workload", "full");
      options.only = string_or(object, "only", "");
      options.batch = integer_or(object, "batch", options.batch);
      options.length = integer_or(object, "length", options.length);
      options.rank = integer_or(object, "rank", options.rank);
      options.train = string_or(object, "train", options.train.c_str());
      options.repeats = integer_or(object, "repeats", options.repeats);
      options.tokens = integer_or(object, "tokens", options.tokens);
    }
    return run_apart<std::string>(env, [what, options](Job&) { return bench(what, options).text(); }, text);
  });
}

}  // namespace

Napi::Object init(Napi::Env env, Napi::Object exports) {
  Environment::open(env);
  BaseObject::init(env);
  PolicyObject::init(env);
  TrainerObject::init(env);
  register_models(env, exports);
  exports.Set("errors", Napi::Function::New(env, set_error, "errors"));
  exports.Set("openBase", Napi::Function::New(env, open_base, "openBase"));
  exports.Set("fitLogistic", Napi::Function::New(env, fit, "fitLogistic"));
  exports.Set("golden", Napi::Function::New(env, run_golden, "golden"));
  exports.Set("cudaPackage", Napi::Function::New(env, cuda_package, "cudaPackage"));
  exports.Set("machine", Napi::Function::New(env, machine_info, "machine"));
  exports.Set("peaks", Napi::Function::New(env, measured_peaks, "peaks"));
  exports.Set("bench", Napi::Function::New(env, run_bench, "bench"));
  return exports;
}

NODE_API_MODULE(credence, init)

}  // namespace credence::addon
