#include "generation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>

#include "fit.h"
#include "random.h"
#include "recorded.h"

namespace credence {

namespace {

constexpr int kPrefillTokens = 512;               // prompt tokens a step takes on beside the sequences in flight
constexpr int64_t kPoolBytes = int64_t{1} << 30;  // pages of all layers together, unless one prompt needs more

/// Sequences decoded together where nothing limits memory.
int batch_of(const std::shared_ptr<Policy>& policy, const GenerateOptions& options) {
  if (options.max_batch < 0) fail("BAD_OPTION", "maxBatch: expected 1 or more but received %d", options.max_batch);
  return options.max_batch ? options.max_batch : parameter_count(policy->base()->family()) < 1000000000 ? 128 : 32;
}

int pages_for(int tokens) { return (tokens + CREDENCE_PAGE - 1) / CREDENCE_PAGE; }

/// A prompt's samples that decode together; its pages are shared by all of them.
struct Group {
  int prompt = 0, first_sample = 0, samples = 0;
};

struct Sequence {
  Sample out;
  int row = 0;  // as Chosen has it
  std::vector<int32_t> pages;
  int keys = 0;            // tokens whose keys are in the pages
  int32_t next = -1;       // sampled, not yet fed
  bool closing = false;    // finished: one last step feeds `next`, so that its hidden state can be collected
  std::vector<float> sum;  // [depths, H] over the answer's tokens fed so far
  int summed = 0;
  std::vector<float> at_prompt;  // [depths, H]
  std::string tail;              // the last bytes of the text, for stop strings
  std::set<int32_t> seen;        // for the repetition penalty
  uint64_t key = 0;              // of its random numbers
  int segment = 0;               // of the step's batch: its own, or its prompt's
};

class Generator {
 public:
  Generator(const std::shared_ptr<Policy>& policy, const GenerateOptions& options,
            const std::function<void(std::vector<Sample>&&)>& finished)
      : policy_(policy),
        base_(policy->base()),
        device_(base_->device()),
        options_(options),
        finished_(finished),
        batch_(device_) {
    check();
    for (int depth : options.collect) depths_.insert(depth);
    for (const auto* names : {&options.answer_heads, &options.prompt_heads}) {
      for (const std::string& name : *names) depths_.insert(policy->head(name).spec.layer);
    }
    max_batch_ = options.max_batch;
    adapter_ = options.adapter ? policy.get() : nullptr;
    for (size_t p = 0; p < options.prompts.size(); ++p) {
      const int first = first_sample(static_cast<int>(p));
      for (int s = 0; s < options.samples; s += max_batch_) {
        waiting_.push_back({static_cast<int>(p), first + s, std::min(max_batch_, options.samples - s)});
      }
    }
    std::reverse(waiting_.begin(), waiting_.end());  // taken from the back
    int longest = 0;
    for (const auto& prompt : options.prompts) longest = std::max(longest, static_cast<int>(prompt.size()));
    rotary_ = base_->rotary(longest + options.max_new_tokens);
    open_pools(longest);
    reserve(longest);
  }

  GenerateStats run(const AbortFlag* abort) {
    const auto start = std::chrono::steady_clock::now();
    while (!waiting_.empty() || !active_.empty()) {
      check_abort(abort);
      end_flagged();
      if (!waiting_.empty() || !active_.empty()) step(abort);
    }
    stats_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return stats_;
  }

 private:
  void check() const {
    const Family& f = base_->family();
    const GenerateOptions& o = options_;
    if (o.samples < 1) fail("BAD_OPTION", "samples: expected 1 or more but received %d", o.samples);
    if (o.max_new_tokens < 1) fail("BAD_OPTION", "maxNewTokens: expected 1 or more but received %d", o.max_new_tokens);
    if (!(o.temperature >= 0)) fail("BAD_OPTION", "temperature: expected 0 or more but received %g", o.temperature);
    if (!(o.top_p > 0 && o.top_p <= 1))
      fail("BAD_OPTION", "topP: expected above 0 and at most 1 but received %g", o.top_p);
    if (o.top_k < 0) fail("BAD_OPTION", "topK: expected 0 (all) or more but received %d", o.top_k);
    if (!(o.repetition_penalty > 0))
      fail("BAD_OPTION", "repetitionPenalty: expected above 0 but received %g", o.repetition_penalty);
    if (!o.first_samples.empty() && o.first_samples.size() != o.prompts.size()) {
      fail("BAD_OPTION", "firstSamples: expected %zu, one a prompt, but received %zu", o.prompts.size(),
           o.first_samples.size());
    }
    if (o.ended && o.ended->size() != o.prompts.size() * o.samples) {
      fail("BAD_OPTION", "ended: expected %zu flags, one a sample, but received %zu", o.prompts.size() * o.samples,
           o.ended->size());
    }
    if (o.ended && !(o.collect.empty() && o.answer_heads.empty() && o.prompt_heads.empty())) {
      fail("BAD_OPTION",
           "what ends an answer by its text does not go with hidden states or heads: read them afterwards");
    }
    if (!o.stop_strings.empty() && base_->vocabulary_pieces.empty()) {
      fail("BAD_OPTION", "stopStrings need the tokenizer's pieces: call setVocabulary first");
    }
    for (int depth : o.collect) {
      if (depth < 0 || depth > f.layers) fail("BAD_OPTION", "collect: depth %d is not one of 0 to %d", depth, f.layers);
    }
    for (const auto* names : {&o.answer_heads, &o.prompt_heads}) {
      for (const std::string& name : *names) {
        if (policy_->head(name).spec.outputs != 1)
          fail("BAD_OPTION", "head %s has several outputs; reading while generating takes one", name.c_str());
      }
    }
    for (size_t p = 0; p < o.prompts.size(); ++p) {
      const int length = static_cast<int>(o.prompts[p].size());
      if (!length) fail("BAD_BATCH", "prompt %zu has no tokens", p);
      if (length + o.max_new_tokens > f.context) {
        fail(
            "TOO_LONG",
            "prompt %zu has %d tokens; with %d new ones it does not fit the context of %d. Shorten it, or ask for fewer",
            p, length, o.max_new_tokens, f.context);
      }
      for (int32_t token : o.prompts[p]) {
        if (token < 0 || token >= f.vocabulary) {
          fail("BAD_BATCH",
               "prompt %zu: token id %d is not in the vocabulary of %d. Is this the model's own tokenizer?", p, token,
               f.vocabulary);
        }
      }
    }
  }

  int first_sample(int prompt) const { return options_.first_samples.empty() ? 0 : options_.first_samples[prompt]; }

  void open_pools(int longest) {
    const Family& f = base_->family();
    const int64_t page = device_->table().page_bytes(&base_->shape(), device_->dtype());
    // Worst case of one group: every sample on pages of its own.
    const int64_t group = static_cast<int64_t>(pages_for(longest + options_.max_new_tokens)) *
                          (std::min(options_.samples, max_batch_) + 1);
    const int64_t all =
        static_cast<int64_t>(pages_for(longest + options_.max_new_tokens)) *
        std::min<int64_t>(max_batch_ + 1, waiting_.size() * (std::min(options_.samples, max_batch_) + 1));
    const int64_t count = std::max(group, std::min(all, kPoolBytes / (page * f.layers)));
    for (int layer = 0; layer < f.layers; ++layer) pools_.emplace_back(device_, count * page);
    users_.assign(count, 0);
    for (int64_t i = count; i-- > 0;) free_.push_back(static_cast<int32_t>(i));
  }

  /// Takes all the memory that any step may need, so that it does not depend on what is sampled.
  void reserve(int longest) {
    const Family& f = base_->family();
    int64_t prompt_tokens = 0;
    for (const Group& group : waiting_) prompt_tokens += static_cast<int64_t>(options_.prompts[group.prompt].size());
    rows_ = static_cast<int>(
        std::min<int64_t>(max_batch_, static_cast<int64_t>(options_.prompts.size()) * options_.samples));
    const int admitted = std::max(longest, static_cast<int>(std::min<int64_t>(kPrefillTokens, prompt_tokens)));
    const size_t rows = rows_, tokens = tokens_ = rows_ + admitted;
    table_width_ = pages_for(longest + options_.max_new_tokens);
    batch_.reserve(tokens_, rows_, table_width_);
    act_.reserve(*base_, adapter_, 0, static_cast<int>(tokens), false);
    x_.reserve(tokens * f.hidden * 4);
    count_.reserve(4);
    h_.reserve(rows * f.hidden * device_->act_bytes());
    told_.reserve(rows * (2 + depths_.size() * f.hidden) * 4);
    for (Buffer* each : {&gathered_, &last_, &after_last_}) each->reserve(rows * 4);
    last_norm_ = final_norm_at(*base_, adapter_, options_.score_temperature);
    temperature_.upload(
        std::vector<float>(rows, static_cast<float>(options_.temperature / options_.score_temperature)));
    top_k_.upload(std::vector<int32_t>(rows, options_.top_k));
    top_p_.upload(std::vector<float>(rows, static_cast<float>(options_.top_p)));
    repetition_.upload(std::vector<float>(rows, static_cast<float>(options_.repetition_penalty)));
    uniform_.reserve(rows * 8);
    if (options_.repetition_penalty != 1) {
      const size_t distinct = std::min(longest + options_.max_new_tokens, f.vocabulary);
      seen_.reserve((rows * distinct + 1) * 4);
      seen_offsets_.reserve((rows + 1) * 4);
    }
  }

  int32_t take_page() {
    const int32_t page = free_.back();
    free_.pop_back();
    users_[page] = 1;
    return page;
  }
  void drop_page(int32_t page) {
    if (--users_[page] == 0) free_.push_back(page);
  }
  /// Pages a group may still come to need, beyond those it holds.
  int64_t worst_case(const Group& group) const {
    return static_cast<int64_t>(
               pages_for(static_cast<int>(options_.prompts[group.prompt].size()) + options_.max_new_tokens)) *
           (group.samples + 1);
  }

  std::vector<Group> admit() {
    std::vector<Group> admitted;
    int tokens = 0, sequences = static_cast<int>(active_.size());
    while (!waiting_.empty()) {
      const Group& group = waiting_.back();
      const int length = static_cast<int>(options_.prompts[group.prompt].size());
      const bool alone = sequences == 0;
      if (!alone &&
          (sequences + group.samples > max_batch_ || (!admitted.empty() && tokens + length > kPrefillTokens) ||
           promised_ + worst_case(group) > static_cast<int64_t>(users_.size()))) {
        break;
      }
      tokens += length;
      sequences += group.samples;
      promised_ += worst_case(group);
      admitted.push_back(group);
      waiting_.pop_back();
    }
    return admitted;
  }

  // One token of each sequence in flight, then the admitted prompts whole; a token chosen after each that goes on. Everything is
  // written before it is launched, and what came of it read at once.
  void step(const AbortFlag* abort) {
    const std::vector<Group> admitted = admit();
    HostBatch host;
    host.offsets.push_back(0);
    std::vector<int32_t> key_start, last;
    std::vector<std::vector<int32_t>> pages;
    const auto end_segment = [&](int keys, const std::vector<int32_t>& of) {
      host.offsets.push_back(host.tokens_count());
      last.push_back(host.tokens_count() - 1);
      key_start.push_back(keys);
      pages.push_back(of);
    };
    // Those that choose a token: sequences that go on, and each sample of a new prompt from the prompt's last row.
    std::vector<Sequence> going, closing;
    for (Sequence& sequence : active_) {
      if (sequence.keys % CREDENCE_PAGE == 0) sequence.pages.push_back(take_page());
      host.tokens.push_back(sequence.next);
      sequence.segment = host.segments();
      end_segment(sequence.keys++, sequence.pages);
      (sequence.closing ? closing : going).push_back(std::move(sequence));
    }
    const int running = host.segments();
    std::vector<std::pair<int32_t, int32_t>> copies;
    for (const Group& group : admitted) {
      const auto& prompt = options_.prompts[group.prompt];
      host.tokens.insert(host.tokens.end(), prompt.begin(), prompt.end());
      std::vector<int32_t> own;
      for (int i = 0; i < pages_for(static_cast<int>(prompt.size())); ++i) own.push_back(take_page());
      fork(group, host.segments(), own, copies, going);
      end_segment(0, own);
      stats_.prompt_tokens += prompt.size();
    }
    write(host, key_start, pages, last, going, admitted.empty());
    const int capacity = batch_.view().segment_capacity;
    if (admitted.empty() && options_.record) recorded_.run(capacity, [&] { launch(abort); });
    else launch(abort);
    for (const auto& [to, from] : copies) copy_page(to, from);

    const size_t width = base_->family().hidden, rows = depths_.empty() ? 0 : depths_.size() * capacity;
    const auto told = told_.download<float>(2 * capacity + rows * width);
    ++stats_.steps;
    for (auto* sequences : {&closing, &going}) {
      for (Sequence& sequence : *sequences) {
        std::vector<float> hidden(depths_.size() * width);
        for (size_t d = 0; d < depths_.size(); ++d) {
          const size_t row = d * capacity + sequence.segment;
          std::copy_n(told.begin() + 2 * capacity + row * width, width, hidden.begin() + d * width);
        }
        if (sequence.segment < running) add(sequence, hidden);
        else sequence.at_prompt = std::move(hidden);
      }
    }
    for (Sequence& sequence : closing) finish(sequence);
    active_ = std::move(going);
    take(told, capacity);
    tell();
  }

  void tell() {
    if (!done_.empty()) finished_(std::move(done_));
    done_.clear();
  }

  /// Ends those that were said to have enough.
  void end_flagged() {
    if (!options_.ended) return;
    std::vector<Sequence> going;
    for (Sequence& sequence : active_) {
      sequence.out.stopped = (*options_.ended)[sequence.row];
      if (sequence.out.stopped) finish(sequence);
      else going.push_back(std::move(sequence));
    }
    active_ = std::move(going);
    tell();
  }

  void write(const HostBatch& host, const std::vector<int32_t>& key_start,
             const std::vector<std::vector<int32_t>>& pages, const std::vector<int32_t>& last,
             const std::vector<Sequence>& going, bool decodes) {
    std::vector<int32_t> table(pages.size() * table_width_, -1);
    for (size_t b = 0; b < pages.size(); ++b)
      std::copy(pages[b].begin(), pages[b].end(), table.begin() + b * table_width_);
    // Steps that only decode have few sizes, so that few are recorded; all others have the largest.
    int rows = 1;
    while (rows < host.segments()) rows *= 2;
    batch_.narrow(decodes ? std::min(rows, rows_) : tokens_, decodes ? std::min(rows, rows_) : rows_);
    batch_.upload(host, key_start, table, table_width_);
    last_.upload(last);
    if (!depths_.empty()) {
      std::vector<int32_t> after = last;
      for (int32_t& row : after) ++row;
      after_last_.upload(after);
    }
    std::vector<int32_t> rows_to_read, seen, seen_offsets{0};
    std::vector<double> uniform;
    for (const Sequence& sequence : going) {
      rows_to_read.push_back(last[sequence.segment]);
      uniform.push_back(counter_uniform(sequence.key, sequence.out.sample, sequence.out.tokens.size()));
      seen.insert(seen.end(), sequence.seen.begin(), sequence.seen.end());
      seen_offsets.push_back(static_cast<int32_t>(seen.size()));
    }
    count_.upload(std::vector<int32_t>{static_cast<int32_t>(going.size())});
    gathered_.upload(rows_to_read);
    uniform_.upload(uniform);
    if (options_.repetition_penalty == 1) return;
    seen_.upload(seen);
    seen_offsets_.upload(seen_offsets);
  }

  /// What a step launches, on what write() left.
  void launch(const AbortFlag* abort) {
    const Family& f = base_->family();
    float* const x = x_.f32();
    const int capacity = batch_.view().segment_capacity;
    float* hidden = told_.f32() + 2 * capacity;  // [depths, capacity, H]
    const auto collect = [&](int depth) {
      if (!depths_.count(depth)) return;
      collect_rows(depth, hidden);
      hidden += static_cast<int64_t>(capacity) * f.hidden;
    };
    device_->embed({batch_.view(), WeightsOf(*base_, adapter_).embedding(), 1.0f, x, f.hidden});
    for (int layer = 0; layer < f.layers; ++layer) {
      check_abort(abort);
      collect(layer);
      run_block(*base_, {.layer = layer,
                         .batch = &batch_,
                         .adapter = adapter_,
                         .act = &act_,
                         .x = x,
                         .mid = x,
                         .x_out = x,
                         .pages = pools_[layer].as<>(),
                         .rotary = rotary_,
                         .split_keys = options_.fast_decode});
    }
    collect(f.layers);
    choose(capacity);
  }

  /// The last row of each segment at a depth.
  void collect_rows(int depth, float* to) {
    const Family& f = base_->family();
    const credence_batch batch = batch_.view();
    const int32_t* const segments = batch.counts + 1;
    if (depth == f.layers) {
      credence_norm norm = final_norm(*base_, adapter_, x_.f32(), count_, last_, batch.segment_capacity);
      norm.rows = segments;
      norm.y_f32 = to;
      norm.ldy_f32 = f.hidden;
      device_->norm(norm);
    } else {
      device_->pool({segments, batch.segment_capacity, f.hidden, last_.i32(), after_last_.i32(), x_.f32(), f.hidden, to,
                     nullptr, nullptr, 0});
    }
  }

  void add(Sequence& sequence, const std::vector<float>& hidden) {
    if (hidden.empty()) return;
    sequence.sum.resize(hidden.size(), 0.0f);
    for (size_t i = 0; i < hidden.size(); ++i) sequence.sum[i] += hidden[i];
    ++sequence.summed;
  }

  /// The samples of a prompt share its full pages; a page that is not full is copied for all but the last of them.
  void fork(const Group& group, int segment, const std::vector<int32_t>& prompt_pages,
            std::vector<std::pair<int32_t, int32_t>>& copies, std::vector<Sequence>& to) {
    const auto& prompt = options_.prompts[group.prompt];
    const int length = static_cast<int>(prompt.size());
    const uint64_t key = options_.seed * 0x9E3779B97F4A7C15 + token_hash(prompt.data(), length);
    for (int s = 0; s < group.samples; ++s) {
      Sequence sequence;
      sequence.out.prompt = group.prompt;
      sequence.out.sample = group.first_sample + s;
      sequence.row = group.prompt * options_.samples + sequence.out.sample - first_sample(group.prompt);
      sequence.keys = length;
      sequence.key = key;
      sequence.segment = segment;
      sequence.pages = prompt_pages;
      const bool copy = length % CREDENCE_PAGE != 0 && s + 1 < group.samples;
      const size_t shared = length / CREDENCE_PAGE;
      if (s) {
        for (size_t i = 0; i < shared; ++i) ++users_[prompt_pages[i]];
      }
      if (copy) {
        const int32_t page = take_page();
        copies.emplace_back(page, prompt_pages.back());
        sequence.pages.back() = page;
      }
      if (options_.repetition_penalty != 1) sequence.seen.insert(prompt.begin(), prompt.end());
      to.push_back(std::move(sequence));
    }
    group_left_.emplace_back(group, group.samples);
  }

  void copy_page(int32_t to, int32_t from) {
    for (Buffer& pool : pools_) {
      device_->check(
          device_->table().copy_page(device_->backend(), &base_->shape(), device_->dtype(), pool.as<>(), to, from),
          "copy_page");
    }
  }

  void choose(int capacity) {
    const Family& f = base_->family();
    credence_norm norm = final_norm(*base_, adapter_, x_.f32(), count_, gathered_, capacity);
    norm.weight = last_norm_;
    norm.y = h_.as<>();
    norm.ldy = f.hidden;
    device_->norm(norm);
    credence_sample sample{};
    sample.rows = count_.i32();
    sample.capacity = capacity;
    sample.width = f.hidden;
    sample.vocabulary = f.vocabulary;
    sample.dtype = device_->dtype();
    sample.weights = WeightsOf(*base_, adapter_).head();
    sample.h = h_.as<>();
    sample.ldh = f.hidden;
    sample.temperature = temperature_.f32();
    sample.top_k = top_k_.i32();
    sample.top_p = top_p_.f32();
    sample.repetition = repetition_.f32();
    if (options_.repetition_penalty != 1) {
      sample.seen = seen_.i32();
      sample.seen_offsets = seen_offsets_.i32();
    }
    sample.uniform = uniform_.as<double>();
    sample.token = told_.i32();
    sample.logprob = told_.f32() + capacity;
    device_->sample(sample);
  }

  /// The tokens chosen for the sequences in flight: [capacity] ids and [capacity] log-probabilities.
  void take(const std::vector<float>& told, int capacity) {
    const size_t n = active_.size();
    const float* const logprobs = told.data() + capacity;
    std::vector<int32_t> tokens(n);
    if (n) std::memcpy(tokens.data(), told.data(), n * sizeof(int32_t));

    std::vector<Sequence> going;
    std::vector<Chosen> chosen;
    for (size_t i = 0; i < n; ++i) {
      Sequence& sequence = active_[i];
      Sample& out = sequence.out;
      out.logprobs.push_back(logprobs[i]);
      ++stats_.new_tokens;
      bool fed = true;  // nothing of the answer waits to be fed
      // A dry device samples nothing: its memory does not depend on what follows, so every sequence ends here.
      if (device_->dry() || std::count(options_.stop_tokens.begin(), options_.stop_tokens.end(), tokens[i])) {
        out.stopped = true;
        out.stop_token = tokens[i];
      } else {
        out.tokens.push_back(tokens[i]);
        if (options_.chosen) chosen.push_back({sequence.row, tokens[i]});
        sequence.next = tokens[i];
        if (options_.repetition_penalty != 1) sequence.seen.insert(tokens[i]);
        out.stopped = hits_stop_string(sequence, tokens[i]);
        fed = false;
      }
      if (!out.stopped && static_cast<int>(out.tokens.size()) < options_.max_new_tokens) {
        going.push_back(std::move(sequence));
      } else if (!fed && !depths_.empty()) {
        sequence.closing = true;
        going.push_back(std::move(sequence));
      } else {
        finish(sequence);
      }
    }
    active_ = std::move(going);
    if (!chosen.empty()) options_.chosen(chosen);
  }

  bool hits_stop_string(Sequence& sequence, int32_t token) const {
    if (options_.stop_strings.empty()) return false;
    size_t longest = 0;
    for (const std::string& stop : options_.stop_strings) longest = std::max(longest, stop.size());
    const std::string& piece = base_->vocabulary_pieces.at(token);
    sequence.tail += piece;
    bool hit = false;
    for (const std::string& stop : options_.stop_strings) hit = hit || sequence.tail.find(stop) != std::string::npos;
    if (sequence.tail.size() > longest) sequence.tail.erase(0, sequence.tail.size() - longest);
    return hit;
  }

  void finish(Sequence& sequence) {
    const int hidden = base_->family().hidden;
    Sample& out = sequence.out;
    if (!depths_.empty()) {
      // No token: the row that chose to stop is the prompt's last.
      std::vector<float> mean = sequence.summed ? sequence.sum : sequence.at_prompt;
      const float share = 1.0f / static_cast<float>(std::max(1, sequence.summed));  // as the pool operator rounds it
      for (float& value : mean) value *= share;
      auto at = [&](const std::vector<float>& all, int depth) {
        const auto place = std::distance(depths_.begin(), depths_.find(depth));
        return std::vector<float>(all.begin() + place * hidden, all.begin() + (place + 1) * hidden);
      };
      for (int depth : options_.collect) {
        const auto p = at(sequence.at_prompt, depth), a = at(mean, depth);
        out.prompt_hidden.insert(out.prompt_hidden.end(), p.begin(), p.end());
        out.answer_hidden.insert(out.answer_hidden.end(), a.begin(), a.end());
      }
      auto read = [&](const std::vector<std::string>& names, const std::vector<float>& all, std::vector<float>& to) {
        for (const std::string& name : names) {
          const Head& head = policy_->head(name);
          to.push_back(apply_head(*policy_, head, at(all, head.spec.layer))[0]);
        }
      };
      read(options_.prompt_heads, sequence.at_prompt, out.prompt_heads);
      read(options_.answer_heads, mean, out.answer_heads);
    }
    for (int32_t page : sequence.pages) drop_page(page);
    for (auto& [group, left] : group_left_) {
      if (group.prompt == out.prompt && out.sample >= group.first_sample &&
          out.sample < group.first_sample + group.samples && --left == 0) {
        promised_ -= worst_case(group);
      }
    }
    std::erase_if(group_left_, [](const auto& entry) { return entry.second == 0; });
    done_.push_back(std::move(out));
  }

  std::shared_ptr<Policy> policy_;
  std::shared_ptr<Base> base_;
  std::shared_ptr<Device> device_;
  const GenerateOptions& options_;
  const std::function<void(std::vector<Sample>&&)>& finished_;
  const Policy* adapter_ = nullptr;
  std::set<int> depths_;
  int max_batch_ = 1;
  const float* rotary_ = nullptr;
  const float* last_norm_ = nullptr;  // of what scores, divided by its temperature
  DeviceBatch batch_;
  Activations act_;
  Buffer x_{device_};                            // [T, H] the residual
  int rows_ = 0, tokens_ = 0, table_width_ = 1;  // sequences and tokens of a step at most; pages of a sequence at most
  std::vector<Buffer> pools_;                    // one a layer
  std::vector<int32_t> users_, free_;
  int64_t promised_ = 0;
  std::vector<Group> waiting_;
  std::vector<std::pair<Group, int>> group_left_;
  std::vector<Sequence> active_;
  std::vector<Sample> done_;
  Buffer last_{device_}, after_last_{device_};  // [B] each segment's last row, and the row after it
  Buffer gathered_{device_}, count_{device_};   // rows that choose a token, and how many
  Buffer h_{device_};                           // [rows, H] act, normed
  Buffer temperature_{device_}, top_k_{device_}, top_p_{device_}, repetition_{device_}, uniform_{device_},
      seen_{device_}, seen_offsets_{device_};
  // What a step tells, read at once: [capacity] tokens, [capacity] log-probabilities, [depths, capacity, H] the last rows.
  Buffer told_{device_};
  Recorded recorded_{device_};  // steps that only decode, by their capacity
  GenerateStats stats_;
};

}  // namespace

GenerateStats generate(const std::shared_ptr<Policy>& policy, const GenerateOptions& options,
                       const std::function<void(std::vector<Sample>&&)>& finished, const AbortFlag* abort) {
  const size_t limit = policy->base()->device()->max_memory();
  GenerateOptions fitted = options;
  fitted.max_batch = batch_of(policy, options);
  if (limit) {
    const Rehearsal rehearsal(*policy);
    GenerateOptions tried = fitted;
    tried.stop_strings.clear();  // the twin has no vocabulary, and needs none
    tried.chosen = nullptr;      // it writes nothing
    for (;; tried.max_batch /= 2) {
      const size_t need =
          rehearsal.peak([&] { Generator(rehearsal.policy(), tried, [](std::vector<Sample>&&) {}).run(nullptr); });
      if (need <= limit) break;
      if (tried.max_batch == 1) fail_limit("generating", need, limit, "use shorter prompts or fewer new tokens");
    }
    fitted.max_batch = tried.max_batch;
  }
  GenerateStats stats = Generator(policy, fitted, finished).run(abort);
  stats.max_batch = fitted.max_batch;
  return stats;
}

}  // namespace credence
