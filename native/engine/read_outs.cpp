// What a pass reads from the last hidden states through the vocabulary's matrix: token log-probabilities with entropy,
// closed sets, divergence from the base; and their way back. (docs/derivations/token-logprobs.md.)
#include <algorithm>
#include <set>

#include "pass.h"

namespace credence {

namespace {

/// Bounds what one read-out holds at once.
constexpr int kRowsAtOnce = 1024;

std::vector<int32_t> part(const std::vector<int32_t>& values, size_t begin, int count) {
  return {values.begin() + begin, values.begin() + begin + count};
}

credence_closed_set closed_set(const Base& base, const Policy* policy, const Buffer& candidates, size_t width,
                               const Pass::NormedRows& some, const Buffer& logprob) {
  credence_closed_set op{};
  op.rows = some.counted.i32();
  op.capacity = some.count;
  op.width = base.family().hidden;
  op.candidates_count = static_cast<int32_t>(width);
  op.dtype = base.device()->dtype();
  op.weights = WeightsOf(base, policy).head();
  op.h = some.h.as<>();
  op.ldh = op.width;
  op.candidates = candidates.i32();
  op.logprob = logprob.f32();
  return op;
}

}  // namespace

void Pass::over_rows(const std::vector<int32_t>& rows, bool gradients, double temperature,
                     const std::function<void(const NormedRows&)>& body) {
  if (rows.empty()) return;
  const int width = base_->family().hidden, last = base_->family().layers;
  const size_t capacity = std::min<size_t>(kRowsAtOnce, rows.size());
  Buffer h(device_, capacity * width * device_->act_bytes()), dh(device_), inv(device_);
  if (gradients) {
    dh.reserve(capacity * width * 4);
    inv.reserve(capacity * 4);
  }
  for (size_t begin = 0; begin < rows.size(); begin += capacity) {
    const int n = static_cast<int>(std::min(capacity, rows.size() - begin));
    Buffer count(device_), index(device_);
    count.upload(std::vector<int32_t>{n});
    index.upload(part(rows, begin, n));
    credence_norm norm = final_norm(*base_, adapter(), residual(last), count, index, n);
    norm.weight = final_norm_at(*base_, adapter(), temperature);
    norm.y = h.as<>();
    norm.ldy = width;
    norm.inv_rms = gradients ? inv.f32() : nullptr;
    device_->norm(norm);
    body({begin, n, count, h, gradients ? dh.f32() : nullptr});
    if (!gradients) continue;
    credence_norm_backward back{};
    back.rows = count.i32();
    back.capacity = n;
    back.width = width;
    back.kind = norm.kind;
    back.eps = norm.eps;
    back.index = index.i32();
    back.x = norm.x;
    back.ldx = width;
    back.weight = norm.weight;
    back.inv_rms = inv.f32();
    back.dy = dh.f32();
    back.lddy = width;
    back.dx = dx_.f32();
    back.lddx = width;
    back.dweight = final_norm_gradient();
    device_->norm_backward(back);
  }
}

Pass::TokenRows Pass::rows_before(const std::vector<uint8_t>& mask, const char* name) const {
  if (mask.size() != host_.tokens.size())
    fail("BAD_BATCH", "%s: expected one for each of %zu tokens but received %zu", name, host_.tokens.size(),
         mask.size());
  TokenRows out;
  for (int b = 0; b < host_.segments(); ++b) {
    for (int t = host_.offsets[b]; t < host_.offsets[b + 1]; ++t) {
      if (!mask[t]) continue;
      const int row = host_.row_before(b, t);
      if (row < 0) fail("BAD_BATCH", "%s: token %d begins sequence %d: nothing predicts it", name, t, b);
      out.tokens.push_back(t);
      out.rows.push_back(row);
    }
  }
  return out;
}

void Pass::read_hidden(PassResult& result) {
  const Family& f = base_->family();
  const int total = host_.tokens_count();
  std::vector<int32_t> rows(total);
  for (int t = 0; t < total; ++t) rows[t] = t;
  Buffer count(device_), index(device_), normed(device_, static_cast<size_t>(total) * f.hidden * 4);
  count.upload(std::vector<int32_t>{total});
  index.upload(rows);
  credence_norm norm = final_norm(*base_, adapter(), residual(f.layers), count, index, total);
  norm.y_f32 = normed.f32();
  norm.ldy_f32 = f.hidden;
  device_->norm(norm);
  result.hidden = normed.download<float>(static_cast<size_t>(total) * f.hidden);
}

void Pass::read_vocabulary(PassResult& result) {
  const bool masked = !request_.mask.empty();
  const bool every_row = request_.logits || (request_.entropy && !masked);
  if (!request_.logprobs && !request_.entropy && !every_row) return;
  const int total = host_.tokens_count(), vocabulary = base_->family().vocabulary;
  // Row rows[i] is read for token at[i], or for itself alone where that is -1.
  std::vector<int32_t> rows, at, targets;
  auto read = [&](int row, int token) {
    rows.push_back(row);
    at.push_back(token);
    targets.push_back(token < 0 ? -1 : host_.tokens[token]);
  };
  if (masked && !every_row) {
    const TokenRows in = rows_before(request_.mask, "mask");
    for (size_t i = 0; i < in.rows.size(); ++i) read(in.rows[i], in.tokens[i]);
  }
  for (int b = 0; b < host_.segments() && (every_row || !masked); ++b) {
    for (int t = host_.offsets[b]; t < host_.offsets[b + 1]; ++t) {
      const int row = host_.row_before(b, t);
      if (row >= 0) read(row, t);
    }
    if (every_row) read(host_.offsets[b + 1] - 1, -1);
  }
  if (request_.logprobs) result.logprobs.assign(total, 0.0f);
  if (request_.entropy) result.entropy.assign(total, 0.0f);
  if (request_.logits) result.logits.assign(static_cast<size_t>(total) * vocabulary, 0.0f);
  Buffer target(device_), logprob(device_, kRowsAtOnce * 4), entropy(device_, kRowsAtOnce * 4), logits(device_);
  over_rows(rows, false, request_.temperature, [&](const NormedRows& some) {
    const int n = some.count;
    target.upload(part(targets, some.begin, n));
    credence_token_logprobs op = token_logprobs(*base_, adapter(), some.h, some.counted, target, n);
    op.logprob = request_.logprobs ? logprob.f32() : nullptr;
    op.entropy = request_.entropy ? entropy.f32() : nullptr;
    if (request_.logits) {
      logits.reserve(static_cast<size_t>(n) * vocabulary * 4);
      op.logits = logits.f32();
    }
    device_->token_logprobs(op);
    if (request_.logprobs) {
      const auto values = logprob.download<float>(n);
      for (int i = 0; i < n; ++i) {
        if (at[some.begin + i] >= 0) result.logprobs[at[some.begin + i]] = values[i];
      }
    }
    if (request_.entropy) {
      const auto values = entropy.download<float>(n);
      for (int i = 0; i < n; ++i) result.entropy[rows[some.begin + i]] = values[i];
    }
    if (request_.logits) {
      const auto values = logits.download<float>(static_cast<size_t>(n) * vocabulary);
      for (int i = 0; i < n; ++i) {
        std::copy_n(values.begin() + static_cast<int64_t>(i) * vocabulary, vocabulary,
                    result.logits.begin() + static_cast<int64_t>(rows[some.begin + i]) * vocabulary);
      }
    }
  });
}

/// `weight` and `value` [count, width] are d(loss) / d(read-out) and the read-out.
void Pass::add_loss(const NormedRows& some, int width, const Buffer& weight, const Buffer& value, double* loss) {
  if (loss) device_->weighted_sum({some.counted.i32(), some.count, width, weight.f32(), value.f32(), loss});
}

void Pass::backward_vocabulary(const Upstream& upstream, double* loss) {
  const int total = host_.tokens_count();
  for (const auto* given : {&upstream.logprobs, &upstream.entropy}) {
    if (!given->empty() && static_cast<int>(given->size()) != total) {
      fail("BAD_BATCH", "upstream: expected one number for each of %d tokens but received %zu", total, given->size());
    }
  }
  std::vector<int32_t> rows, targets;
  std::vector<float> d_logprob, d_entropy;
  auto read = [&](int row, int token, float dl, float de) {
    if (dl == 0 && de == 0) return;
    rows.push_back(row);
    targets.push_back(token < 0 ? -1 : host_.tokens[token]);
    d_logprob.push_back(dl);
    d_entropy.push_back(de);
  };
  for (int b = 0; b < host_.segments(); ++b) {
    const int from = host_.offsets[b], to = host_.offsets[b + 1];
    for (int t = from; t < to; ++t) {
      const int row = host_.row_before(b, t);
      const float dl = upstream.logprobs.empty() ? 0.0f : upstream.logprobs[t];
      if (row < 0) {
        if (dl != 0) fail("BAD_BATCH", "token %d begins sequence %d: nothing predicts it. Give it no weight", t, b);
        continue;
      }
      read(row, t, dl, t == from || upstream.entropy.empty() ? 0.0f : upstream.entropy[row]);
    }
    if (!upstream.entropy.empty()) read(to - 1, -1, 0, upstream.entropy[to - 1]);
  }
  if (rows.empty()) return;
  prepare_head_backward();
  const size_t capacity = std::min<size_t>(kRowsAtOnce, rows.size());
  Buffer target(device_), logprob(device_, capacity * 4), dl(device_, capacity * 4), de(device_, capacity * 4);
  over_rows(rows, true, request_.temperature, [&](const NormedRows& some) {
    const int n = some.count;
    target.upload(part(targets, some.begin, n));
    dl.write(d_logprob.data() + some.begin, n * 4);
    de.write(d_entropy.data() + some.begin, n * 4);
    credence_token_logprobs op = token_logprobs(*base_, adapter(), some.h, some.counted, target, n);
    op.logprob = logprob.f32();
    op.d_logprob = dl.f32();
    op.d_entropy = upstream.entropy.empty() ? nullptr : de.f32();
    op.dh = some.dh;
    op.lddh = base_->family().hidden;
    op.dweights = head_gradient();
    device_->token_logprobs(op);
    add_loss(some, 1, dl, logprob, loss);
  });
}

/// What was sampled is scored, the loss says what follows from that, and the same rows go back: nothing of it is read.
void Pass::backward_policy(const PpoUpstream& ppo, double* loss) {
  std::vector<uint8_t> mask;
  for (float weight : ppo.loss->weights) mask.push_back(weight != 0);
  if (mask.empty()) return;
  const TokenRows in = rows_before(mask, "weights");
  if (in.rows.empty()) return;
  prepare_head_backward();
  std::vector<int32_t> targets;
  for (int32_t t : in.tokens) targets.push_back(host_.tokens[t]);
  const PolicyLossRows known(device_, *ppo.loss, in.tokens);
  const size_t bytes = std::min<size_t>(kRowsAtOnce, in.rows.size()) * sizeof(float);
  Buffer target(device_), logprob(device_, bytes), entropy(device_, bytes), dl(device_, bytes), de(device_, bytes);
  over_rows(in.rows, true, request_.temperature, [&](const NormedRows& some) {
    target.upload(part(targets, some.begin, some.count));
    credence_token_logprobs scored = token_logprobs(*base_, adapter(), some.h, some.counted, target, some.count);
    scored.logprob = logprob.f32();
    scored.entropy = entropy.f32();
    device_->token_logprobs(scored);
    credence_policy_loss of = known.at(some.begin, some.count);
    of.rows = some.counted.i32();
    of.logprob = logprob.f32();
    of.entropy = entropy.f32();
    of.d_logprob = dl.f32();
    of.d_entropy = de.f32();
    of.sums = ppo.policy;
    of.loss = loss;
    device_->policy_loss(of);
    scored.entropy = nullptr;
    scored.d_logprob = dl.f32();
    scored.d_entropy = ppo.loss->entropy != 0 ? de.f32() : nullptr;
    scored.dh = some.dh;
    scored.lddh = base_->family().hidden;
    scored.dweights = head_gradient();
    device_->token_logprobs(scored);
  });
}

void Pass::check_closed_set() const {
  const ClosedSetRead& read = *request_.closed_set;
  const int vocabulary = base_->family().vocabulary, total = host_.tokens_count();
  if (read.candidates.empty()) fail("BAD_OPTION", "closed set: expected at least one candidate but received none");
  std::set<int32_t> distinct;
  for (int32_t candidate : read.candidates) {
    if (candidate < 0 || candidate >= vocabulary) {
      fail("BAD_OPTION", "closed set: candidate %d is not in the vocabulary of %d", candidate, vocabulary);
    }
    if (!distinct.insert(candidate).second) {
      fail("BAD_OPTION", "closed set: candidate %d stands twice; two answers need tokens of their own", candidate);
    }
  }
  for (int32_t row : read.rows) {
    if (row < 0 || row >= total) fail("BAD_BATCH", "closed set: row %d is not one of the batch's %d", row, total);
  }
}

void Pass::read_closed_set(PassResult& result) {
  const ClosedSetRead& read = *request_.closed_set;
  const size_t width = read.candidates.size();
  Buffer candidates(device_), logprob(device_, std::min<size_t>(kRowsAtOnce, read.rows.size()) * width * 4);
  candidates.upload(read.candidates);
  over_rows(read.rows, false, [&](const NormedRows& some) {
    device_->closed_set(closed_set(*base_, adapter(), candidates, width, some, logprob));
    const auto values = logprob.download<float>(some.count * width);
    result.closed_set.insert(result.closed_set.end(), values.begin(), values.end());
  });
}

void Pass::backward_closed_set(const std::vector<float>& upstream, double* loss) {
  if (!request_.closed_set) fail("BAD_STATE", "upstream.closedSet: the forward pass read no closed set");
  const ClosedSetRead& read = *request_.closed_set;
  const size_t width = read.candidates.size(), capacity = std::min<size_t>(kRowsAtOnce, read.rows.size());
  if (upstream.size() != read.rows.size() * width) {
    fail("BAD_BATCH", "upstream.closedSet: expected %zu rows of %zu candidates but received %zu numbers",
         read.rows.size(), width, upstream.size());
  }
  Buffer candidates(device_), logprob(device_, capacity * width * 4), d_logprob(device_, capacity * width * 4);
  candidates.upload(read.candidates);
  over_rows(read.rows, true, [&](const NormedRows& some) {
    d_logprob.write(upstream.data() + some.begin * width, some.count * width * 4);
    credence_closed_set op = closed_set(*base_, adapter(), candidates, width, some, logprob);
    op.d_logprob = d_logprob.f32();
    op.dh = some.dh;
    op.lddh = base_->family().hidden;
    op.dweights = head_gradient();
    device_->closed_set(op);
    add_loss(some, static_cast<int>(width), d_logprob, logprob, loss);
  });
}

void Pass::keep_reference(const AbortFlag* abort) {
  const PassRequest asked = request_;
  const int width = base_->family().hidden;
  if (!asked.adapter || !policy_->differs_from_base()) {
    fail("BAD_OPTION", "divergence: p is the adapter on, q the adapter off; here there is none to switch");
  }
  TokenRows in = rows_before(asked.divergence->mask, "divergence.mask");
  divergence_tokens_ = std::move(in.tokens);
  divergence_rows_ = std::move(in.rows);
  if (divergence_rows_.empty()) return;
  // The base's pass needs no more than what the pass after it overwrites.
  request_.adapter = request_.keep = false;
  run_blocks([](int) {}, abort);
  const size_t bytes = width * device_->act_bytes();
  if (!reference_) reference_ = Buffer(device_);
  reference_.reserve(divergence_rows_.size() * bytes);
  over_rows(divergence_rows_, false, [&](const NormedRows& some) {
    device_->check(device_->table().copy(device_->backend(), reference_.as<char>() + some.begin * bytes, some.h.as<>(),
                                         some.count * bytes),
                   "copy");
  });
  request_ = asked;
}

void Pass::over_divergence(bool gradients, const std::function<void(credence_divergence&, const NormedRows&)>& body) {
  const Family& f = base_->family();
  over_rows(divergence_rows_, gradients, [&](const NormedRows& some) {
    credence_divergence op{};
    op.rows = some.counted.i32();
    op.capacity = some.count;
    op.width = f.hidden;
    op.vocabulary = f.vocabulary;
    op.kind = static_cast<int32_t>(request_.divergence->kind);
    op.dtype = device_->dtype();
    op.weights = weights().head();
    op.weights_other = base_->head();
    op.h = some.h.as<>();
    op.h_other = reference_.as<char>() + some.begin * f.hidden * device_->act_bytes();
    op.ldh = op.ldh_other = op.lddh = f.hidden;
    op.dh = some.dh;
    body(op, some);
  });
}

void Pass::read_divergence(PassResult& result) {
  result.divergence.assign(host_.tokens.size(), 0.0f);
  Buffer values(device_, std::min<size_t>(kRowsAtOnce, divergence_rows_.size()) * 4);
  over_divergence(false, [&](credence_divergence& op, const NormedRows& some) {
    op.divergence = values.f32();
    device_->divergence(op);
    const auto read = values.download<float>(some.count);
    for (int i = 0; i < some.count; ++i) result.divergence[divergence_tokens_[some.begin + i]] = read[i];
  });
}

void Pass::backward_divergence(const std::vector<float>& upstream, double* loss) {
  if (!request_.divergence) fail("BAD_STATE", "upstream.divergence: the forward pass read no divergence");
  const size_t total = host_.tokens.size(), capacity = std::min<size_t>(kRowsAtOnce, divergence_rows_.size());
  if (upstream.size() != total) {
    fail("BAD_BATCH", "upstream.divergence: expected one for each of %zu tokens but received %zu", total,
         upstream.size());
  }
  for (size_t t = 0; t < total; ++t) {
    if (upstream[t] != 0 && !request_.divergence->mask[t])
      fail("BAD_BATCH", "upstream.divergence: token %zu is outside the mask, so nothing was read there", t);
  }
  std::vector<float> slopes;
  for (int32_t t : divergence_tokens_) slopes.push_back(upstream[t]);
  prepare_head_backward();
  Buffer values(device_, capacity * 4), slope(device_, capacity * 4);
  over_divergence(true, [&](credence_divergence& op, const NormedRows& some) {
    slope.write(slopes.data() + some.begin, some.count * 4);
    op.divergence = values.f32();
    op.upstream = slope.f32();
    op.dweights = head_gradient();
    device_->divergence(op);
    add_loss(some, 1, slope, values, loss);
  });
}

}  // namespace credence
