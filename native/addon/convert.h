// Conversions between JavaScript values and plain structs, with messages that name the option.
#pragma once

#include <napi.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "native/engine/advantages.h"
#include "native/engine/error.h"
#include "native/engine/generation.h"
#include "native/engine/trainer.h"

namespace credence::addon {

/// A JavaScript error with the engine's code and sentence.
Napi::Error to_error(Napi::Env env, const std::exception& error);

/// Runs `body`, turning an engine error into a JavaScript exception.
template <class Body>
auto guarded(Napi::Env env, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw to_error(env, error);
  }
}

bool absent(const Napi::Value& value);
Napi::Object object_of(const Napi::Value& value, const char* name);
std::string string_of(const Napi::Value& value, const char* name);
double number_of(const Napi::Value& value, const char* name);
int integer_of(const Napi::Value& value, const char* name);
bool boolean_of(const Napi::Value& value, const char* name);

/// A member of an options object, or the default where it is absent.
double number_or(const Napi::Object& options, const char* name, double otherwise);
int integer_or(const Napi::Object& options, const char* name, int otherwise);
bool boolean_or(const Napi::Object& options, const char* name, bool otherwise);
std::string string_or(const Napi::Object& options, const char* name, const char* otherwise);
std::vector<std::string> strings_or_none(const Napi::Object& options, const char* name);
std::vector<int> integers_or_none(const Napi::Object& options, const char* name);

std::vector<uint8_t> bytes(const Napi::Value& value, const char* name);
std::vector<int32_t> int32s(const Napi::Value& value, const char* name);
std::vector<float> floats(const Napi::Value& value, const char* name);
std::vector<double> doubles(const Napi::Value& value, const char* name);
Napi::Float32Array float_array(Napi::Env env, const std::vector<float>& values);
Napi::Int32Array int_array(Napi::Env env, const std::vector<int32_t>& values);
Napi::Float64Array double_array(Napi::Env env, const std::vector<double>& values);

DeviceOptions device_options(const Napi::Value& value);
HostBatch batch_of(const Napi::Value& value);
std::vector<ReadSpan> spans_of(const Napi::Value& value, const char* name);
std::vector<HeadSpec> heads_of(const Napi::Value& value);
ClosedSetRead closed_set_of(const Napi::Value& value);
Divergence divergence_of(const Napi::Value& value);
/// The read-outs that a pass held open and one that is not have in common.
PassRequest request_of(const Napi::Object& options);
Loss loss_of(const Napi::Value& value);
AdapterSpec adapter_of(const Napi::Object& value);
OwnedSpec owned_of(const Napi::Value& value);
std::map<Group, GroupSettings> groups_of(const Napi::Value& value);
std::vector<NamedTensor> tensors_of(const Napi::Value& value, const char* name);
/// [{name, shape, data}] of parameters in a flat buffer.
Napi::Array tensor_array(Napi::Env env, const std::vector<Parameter>& parameters, const std::vector<float>& flat,
                         const std::string& prefix = "");
/// {weights, adapter, heads}: the tensors of a policy whose flat buffer has these numbers.
Napi::Object policy_tensors(Napi::Env env, const Policy& policy, const std::vector<float>& flat);
Napi::Object pass_result(Napi::Env env, const PassResult& result, bool collected);

// convert_ppo.cpp
PpoLoss ppo_loss_of(const Napi::Value& value);
Napi::Object ppo_sums(Napi::Env env, const PpoSums& sums);
AdvantageInput advantage_input(const Napi::Value& value);
Napi::Object advantage_output(Napi::Env env, const AdvantageOutput& output);

}  // namespace credence::addon
