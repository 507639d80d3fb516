// A sample has the same bits alone, in a batch, in any order; what it scored while sampling is what a scoring pass gives.
#include <algorithm>
#include <map>

#include "engine/generation.h"
#include "engine_support.h"

using namespace credence;
using namespace credence::testing;

namespace {

using Key = std::pair<int, int>;

std::map<Key, Sample> run(const std::shared_ptr<Policy>& policy, GenerateOptions options) {
  std::map<Key, Sample> out;
  generate(policy, options, [&](std::vector<Sample>&& samples) {
    for (Sample& sample : samples) out[{sample.prompt, sample.sample}] = std::move(sample);
  });
  return out;
}

/// 13 prompts of 1 to 130 tokens; the first is sampled four times in `samples` runs.
GenerateOptions options_for_tests() {
  std::mt19937 random(17);
  GenerateOptions options;
  for (const int length : {70, 1, 5, 64, 63, 65, 130, 9, 33, 128, 2, 40, 17})
    options.prompts.push_back(random_tokens(random, length));
  options.samples = 4;
  options.temperature = 0.9;
  options.top_k = 40;
  options.top_p = 0.95;
  options.max_new_tokens = 12;
  options.stop_tokens = {2, 30, 31};
  options.seed = 99;
  return options;
}

bool same(const Sample& a, const Sample& b) {
  return a.tokens == b.tokens && a.logprobs == b.logprobs && a.stopped == b.stopped &&
         a.answer_hidden == b.answer_hidden && a.prompt_hidden == b.prompt_hidden;
}

}  // namespace

TEST(a_sample_is_its_own_whatever_runs_beside_it) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    const auto policy = small_policy(folder.path(), device);
    GenerateOptions options = options_for_tests();
    options.collect = {0, 1, 2};
    const auto together = run(policy, options);
    EXPECT_EQ(together.size(), options.prompts.size() * 4);
    for (const int max_batch : {1, 3, 16}) {
      options.max_batch = max_batch;
      const auto again = run(policy, options);
      for (const auto& [key, sample] : together) EXPECT(same(sample, again.at(key)));
    }
    DeviceOptions two = device;
    two.threads = 2;
    options.max_batch = 16;
    const auto threaded = run(small_policy(folder.path(), two), options);
    for (const auto& [key, sample] : together) EXPECT(same(sample, threaded.at(key)));
    // Another order, and one prompt alone.
    GenerateOptions reversed = options;
    std::reverse(reversed.prompts.begin(), reversed.prompts.end());
    const int last = static_cast<int>(options.prompts.size()) - 1;
    const auto backwards = run(policy, reversed);
    for (const auto& [key, sample] : together) EXPECT(same(sample, backwards.at({last - key.first, key.second})));
    GenerateOptions alone = options;
    alone.prompts = {options.prompts[6]};
    alone.samples = 1;
    EXPECT(same(run(policy, alone).at({0, 0}), together.at({6, 0})));
  });
}

TEST(samples_of_a_prompt_differ_and_a_seed_changes_them) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  GenerateOptions options = options_for_tests();
  const auto first = run(policy, options);
  EXPECT(first.at({0, 0}).tokens != first.at({0, 1}).tokens);
  options.seed = 100;
  EXPECT(run(policy, options).at({0, 0}).tokens != first.at({0, 0}).tokens);
}

TEST(what_was_scored_while_sampling_is_what_a_scoring_pass_gives) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  each_device([&](const DeviceOptions& device) {
    for (const bool adapter : {true, false}) {
      const auto policy = small_policy(folder.path(), device);
      GenerateOptions options = options_for_tests();
      options.adapter = adapter;
      options.collect = {1, 2};
      const auto samples = run(policy, options);
      std::vector<std::vector<int32_t>> sequences;
      std::vector<Key> keys;
      PassRequest request;
      request.adapter = adapter;
      request.logprobs = true;
      request.collect = {1, 2};
      for (const auto& [key, sample] : samples) {
        std::vector<int32_t> sequence = options.prompts[key.first];
        const int prompt = static_cast<int>(sequence.size());
        sequence.insert(sequence.end(), sample.tokens.begin(), sample.tokens.end());
        const int end = static_cast<int>(sequence.size());
        request.spans.push_back({static_cast<int>(sequences.size()), std::min(prompt, end - 1), end});
        sequences.push_back(sequence);
        keys.push_back(key);
      }
      const HostBatch batch = batch_of(sequences);
      const PassResult scored = Pass(policy).forward(batch, request);
      const int width = policy->base()->family().hidden;
      for (size_t i = 0; i < keys.size(); ++i) {
        const Sample& sample = samples.at(keys[i]);
        const int start = batch.offsets[i] + static_cast<int>(options.prompts[keys[i].first].size());
        for (size_t t = 0; t < sample.tokens.size(); ++t) EXPECT_EQ(scored.logprobs[start + t], sample.logprobs[t]);
        for (int d = 0; d < 2 * width; ++d) EXPECT_EQ(scored.collected[i * 2 * width + d], sample.answer_hidden[d]);
      }
    }
  });
}

TEST(heads_read_while_generating_are_the_heads_read_afterwards) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  HeadSpec linear{"sure", 1, {}, 1, 4}, mlp{"deep", -1, {9, 5}, 1, 6};
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1}, {linear, mlp});
  GenerateOptions options = options_for_tests();
  options.answer_heads = {"sure", "deep"};
  options.prompt_heads = {"deep"};
  for (const auto& [key, sample] : run(policy, options)) {
    std::vector<int32_t> sequence = options.prompts[key.first];
    const int prompt = static_cast<int>(sequence.size());
    sequence.insert(sequence.end(), sample.tokens.begin(), sample.tokens.end());
    const int end = static_cast<int>(sequence.size());
    PassRequest request;
    const ReadSpan answer{0, std::min(prompt, end - 1), end}, last{0, prompt - 1, prompt};
    request.heads = {{"sure", {answer}}, {"deep", {answer}}};
    PassResult got = Pass(policy).forward(batch_of({sequence}), request);
    EXPECT_EQ(got.heads.at("sure")[0], sample.answer_heads[0]);
    EXPECT_EQ(got.heads.at("deep")[0], sample.answer_heads[1]);
    request.heads = {{"deep", {last}}};
    EXPECT_EQ(Pass(policy).forward(batch_of({sequence}), request).heads.at("deep")[0], sample.prompt_heads[0]);
  }
}

TEST(stop_tokens_strings_and_lengths) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  GenerateOptions options = options_for_tests();
  options.stop_tokens.clear();
  const auto free = run(policy, options);
  for (const auto& [key, sample] : free) {
    EXPECT_EQ(sample.tokens.size(), 12u);
    EXPECT(!sample.stopped);
  }
  // Stop on the third token of one sample: two tokens are left and three log-probabilities.
  const std::vector<int32_t>& tokens = free.at({0, 0}).tokens;
  const size_t place = std::find(tokens.begin(), tokens.end(), tokens[2]) - tokens.begin();
  options.stop_tokens = {tokens[2]};
  const auto token_stopped = run(policy, options);
  EXPECT_EQ(token_stopped.at({0, 0}).tokens.size(), place);
  EXPECT_EQ(token_stopped.at({0, 0}).logprobs.size(), place + 1);
  EXPECT(token_stopped.at({0, 0}).stopped);
  EXPECT_EQ(token_stopped.at({0, 0}).stop_token, tokens[2]);
  // The same by a string that spans two tokens.
  options.stop_tokens.clear();
  for (int id = 0; id < 97; ++id) policy->base()->vocabulary_pieces.push_back("<" + std::to_string(id) + ">");
  options.stop_strings = {std::to_string(tokens[1]) + "><" + std::to_string(tokens[2]) + ">"};
  const Sample string_stopped = run(policy, options).at({0, 0});
  EXPECT(string_stopped.stopped);
  EXPECT_EQ(string_stopped.stop_token, -1);
  EXPECT_EQ(string_stopped.tokens.size(), 3u);
}

TEST(a_row_ends_when_it_is_told_to_and_the_others_go_on) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  GenerateOptions options = options_for_tests();
  options.first_samples.assign(options.prompts.size(), 0);
  options.first_samples[3] = 5;  // numbers and rows are told apart
  for (const int max_batch : {3, 0}) {
    options.max_batch = max_batch;
    options.ended = nullptr;
    options.chosen = nullptr;
    const auto free = run(policy, options);
    // Each row's tokens as they come; those of odd rows are enough after 1 to 7 of them.
    std::map<int32_t, std::vector<int32_t>> heard;
    const auto enough = [](int32_t row) { return row % 2 ? static_cast<size_t>(1 + row % 7) : size_t{1000}; };
    options.ended = std::make_shared<std::vector<std::atomic<bool>>>(options.prompts.size() * options.samples);
    options.chosen = [&](const std::vector<Chosen>& tokens) {
      for (const auto [row, token] : tokens) {
        heard[row].push_back(token);
        if (heard[row].size() == enough(row)) (*options.ended)[row] = true;
      }
    };
    int ended = 0;
    const auto told = run(policy, options);
    EXPECT_EQ(told.size(), free.size());
    for (const auto& [key, whole] : free) {
      const Sample& sample = told.at(key);
      const int32_t row = key.first * options.samples + key.second - options.first_samples[key.first];
      const size_t length = std::min(whole.tokens.size(), enough(row));
      EXPECT(sample.tokens == heard[row]);
      EXPECT(
          std::equal(sample.tokens.begin(), sample.tokens.end(), whole.tokens.begin(), whole.tokens.begin() + length));
      const bool early = length < whole.tokens.size();
      const size_t scored = early ? length : whole.logprobs.size();
      EXPECT(sample.logprobs == std::vector<float>(whole.logprobs.begin(), whole.logprobs.begin() + scored));
      EXPECT_EQ(sample.stopped, early || whole.stopped);
      ended += early;
    }
    EXPECT(ended > 10);
  }
}

TEST(a_sample_is_its_numbers_whichever_comes_first) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  GenerateOptions options = options_for_tests();
  const auto all = run(policy, options);
  options.samples = 1;
  for (size_t p = 0; p < options.prompts.size(); ++p) options.first_samples.push_back(static_cast<int>(p % 4));
  for (const auto& [key, sample] : run(policy, options)) EXPECT(same(sample, all.at(key)));
}

TEST(greedy_takes_the_largest_and_a_repetition_penalty_changes_it) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  GenerateOptions options = options_for_tests();
  options.temperature = 0;
  options.samples = 1;
  options.stop_tokens.clear();
  const auto greedy = run(policy, options);
  PassRequest request;
  request.logits = true;
  const std::vector<float> logits = Pass(policy).forward(batch_of({options.prompts[0]}), request).logits;
  const auto last = logits.end() - 97;
  EXPECT_EQ(greedy.at({0, 0}).tokens[0], static_cast<int32_t>(std::max_element(last, logits.end()) - last));
  options.repetition_penalty = 5;
  bool changed = false;
  for (const auto& [key, sample] : run(policy, options)) changed = changed || sample.tokens != greedy.at(key).tokens;
  EXPECT(changed);
}

TEST(an_abort_stops_and_bad_options_are_named) {
  TemporaryFolder folder;
  write_small_model(folder.path());
  const auto policy = small_policy(folder.path(), {"cpu", "f32", "auto", 1});
  const AbortFlag abort{true};
  const auto ignore = [](std::vector<Sample>&&) {};
  EXPECT_THROWS(generate(policy, options_for_tests(), ignore, &abort), "stopped as asked");
  auto with = [&](auto&& change) {
    GenerateOptions options = options_for_tests();
    change(options);
    return options;
  };
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.samples = 0; }), ignore), "samples");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.top_p = 0; }), ignore), "topP");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.prompts[2][0] = 97; }), ignore), "token id 97");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.max_new_tokens = 400; }), ignore), "context of 400");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.collect = {3}; }), ignore), "depth 3");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.answer_heads = {"none"}; }), ignore), "no head \"none\"");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.stop_strings = {"x"}; }), ignore), "setVocabulary");
  EXPECT_THROWS(generate(policy, with([](auto& o) { o.first_samples = {1}; }), ignore), "firstSamples: expected 13");
  const auto flags = [](int count) { return std::make_shared<std::vector<std::atomic<bool>>>(count); };
  EXPECT_THROWS(generate(policy, with([&](auto& o) { o.ended = flags(13); }), ignore), "expected 52 flags");
  const auto collecting = with([&](auto& o) {
    o.ended = flags(52);
    o.collect = {1};
  });
  EXPECT_THROWS(generate(policy, collecting, ignore), "does not go with hidden states");
}

TESTING_MAIN
