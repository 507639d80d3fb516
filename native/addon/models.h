// Calls about whole models as files, which belong to no object.
#pragma once

#include "jobs.h"

namespace credence::addon {

void register_models(Napi::Env env, Napi::Object exports);

}  // namespace credence::addon
