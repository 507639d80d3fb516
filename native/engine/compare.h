// Whether two models say the same.
#pragma once

#include <string>
#include <vector>

#include "pass.h"

namespace credence {

struct ComparedModel {
  std::string model;
  /// A PEFT folder, and a file of weights that stand in for the model's; empty: none.
  std::string adapter, weights;
};

struct LogitDifference {
  /// Of the logits, over every token of the text and every token both vocabularies have.
  double largest_difference = 0, largest_logit = 0;
  /// Rows, and rows in which both find the same token likeliest.
  int rows = 0, same_choice = 0;
};

/// Runs both over the same tokens, one after the other, so that one is in memory at a time.
LogitDifference compare_models(const ComparedModel& source, const ComparedModel& written,
                               const std::vector<int32_t>& tokens, const DeviceOptions& device,
                               const AbortFlag* abort = nullptr);

}  // namespace credence
