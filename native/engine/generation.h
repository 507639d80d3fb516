// Generation: continuous batching over paged keys and values, each prompt evaluated once for all its samples.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pass.h"

namespace credence {

/// A token of an answer, as it is chosen; rows count prompts' samples: prompt * samples + place among them.
struct Chosen {
  int32_t row = 0, token = 0;
};

struct GenerateOptions {
  std::vector<std::vector<int32_t>> prompts;
  int samples = 1;
  std::vector<int> first_samples;  // [prompts] the number of each one's first sample; empty: 0
  double temperature = 1;          // 0: greedy
  double score_temperature = 1;    // log-probabilities are those of the logits divided by it
  int top_k = 0;                   // 0: all
  double top_p = 1;
  double repetition_penalty = 1;
  int max_new_tokens = 16;
  std::vector<int32_t> stop_tokens;
  std::vector<std::string> stop_strings;  // needs Base::vocabulary_pieces
  uint64_t seed = 0;
  bool adapter = true;
  std::vector<int> collect;  // depths, as HeadSpec::layer
  std::vector<std::string> answer_heads, prompt_heads;
  int max_batch = 0;  // 0: chosen from the model's size; under a limit of memory, as many of these as fit
  // Decoding may divide a sequence's keys among work items (credence_attention, split_keys): faster where they are many and sequences
  // few. Samples still depend on nothing beside them, but their log-probabilities and states are those of scoring to rounding alone.
  bool fast_decode = false;
  // Told of each step's tokens, on the generating thread. Whoever has seen enough of a row sets its flag, from any thread: it ends
  // as stopped before the next step. Not with collect or heads, whose means are over all that was written until then.
  std::function<void(const std::vector<Chosen>&)> chosen;
  std::shared_ptr<std::vector<std::atomic<bool>>> ended;  // [rows]
  bool record = true;  // steps that only decode are recorded and replayed where the device can, which changes no bit
};

struct Sample {
  int prompt = 0, sample = 0;
  std::vector<int32_t> tokens;  // without the stop token
  std::vector<float> logprobs;  // at the temperature of scoring, nothing cut; the stop token's last when it was one
  bool stopped = false;         // else the length ran out
  int32_t stop_token = -1;      // which stop token was chosen; -1: none
  std::vector<float> prompt_hidden, answer_hidden;  // [depths, H]
  std::vector<float> prompt_heads, answer_heads;    // one logit a head
};

struct GenerateStats {
  int64_t prompt_tokens = 0, new_tokens = 0;
  int64_t steps = 0;  // each waits for the device once
  double seconds = 0;
  int max_batch = 0;  // sequences decoded together at most
};

/// Samples arrive as they finish. A sample's numbers depend on (seed, prompt, sample number) alone: not on what else is being
/// generated, in which order, or on how many threads.
GenerateStats generate(const std::shared_ptr<Policy>& policy, const GenerateOptions& options,
                       const std::function<void(std::vector<Sample>&&)>& finished, const AbortFlag* abort = nullptr);

}  // namespace credence
