// A training step of one block on the CUDA back end: that it waits for the device only to read, that it takes no memory, that a
// recording of it is the step itself; and that products which give a row other bits in another batch are reported. Executed by the
// emulation, or on a GPU (CREDENCE_TEST_TABLE=cuda).
#include <utility>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/emulation/planted.h"
#include "linear_support.h"

extern "C" const credence_table* credence_backend_v4(int32_t version, const char** reason);

using namespace credence;
using namespace credence::testing;

namespace {

const credence_table* table() {
  const char* reason = nullptr;
  return named_table() ? named_table() : credence_backend_v4(CREDENCE_TABLE_VERSION, &reason);
}

constexpr int kTokens = 9, kSegments = 3, kHidden = 24, kIntermediate = 40, kVocabulary = 37, kHeads = 3, kHeadDim = 8,
              kKvHeads = 1, kQkv = (kHeads + 2 * kKvHeads) * kHeadDim, kRank = 5;

reference::Linear layer(uint64_t seed, int outputs, int columns) {
  reference::Linear p;
  p.outputs = outputs;
  p.columns = columns;
  p.weights = normal(seed, static_cast<size_t>(outputs) * columns, 0.2);
  return p;
}

// With one workspace for every operator, as the engine has it.
#define RUN(operation, ...)                                                             \
  do {                                                                                  \
    const auto run_parameters = __VA_ARGS__;                                            \
    EXPECT(b_.table->operation##_workspace(&run_parameters) <= workspace_->bytes());    \
    if (b_.table->operation(b_.handle, &run_parameters, workspace_->raw()))             \
      ::credence::testing::report(__FILE__, __LINE__, b_.table->last_error(b_.handle)); \
  } while (0)

/// The batch's content: tokens of each segment; what does not fit the capacity is not there.
struct Content {
  std::vector<int32_t> lengths;
  int32_t seed;
};

/// One block, its read-out and their backward, over an adapter on each product whose parameters are one flat buffer.
class Step {
 public:
  explicit Step(Backend& b)
      : b_(b),
        qkv_(layer(1, kQkv, kHidden)),
        out_(layer(2, kHidden, kHeads * kHeadDim)),
        up_(layer(3, 2 * kIntermediate, kHidden)),
        down_(layer(4, kHidden, kIntermediate)),
        head_(layer(5, kVocabulary, kHidden)),
        qkv(b, qkv_.weights, kQkv, kHidden),
        out(b, out_.weights, kHidden, kHeads * kHeadDim),
        up(b, up_.weights, 2 * kIntermediate, kHidden),
        down(b, down_.weights, kHidden, kIntermediate),
        head(b, head_.weights, kVocabulary, kHidden) {
    shape_.hidden = kHidden, shape_.intermediate = kIntermediate, shape_.heads = kHeads, shape_.kv_heads = kKvHeads;
    shape_.head_dim = shape_.rotary_dim = kHeadDim, shape_.norm_eps = 1e-5f, shape_.gated = 1;
    for (const reference::Linear* of : {&qkv_, &out_, &up_, &down_}) {
      credence_lora_layout layout = {of->outputs, of->columns, 1, {}, b.dtype};
      const int64_t a = count_, end = a + int64_t{kRank} * of->columns;
      layout.slice[0] = {0, of->outputs, kRank, 0.5f, a, end};
      count_ = end + int64_t{kRank} * of->outputs;
      layouts_.push_back(layout);
    }
    p_ = floats(normal(6, count_, 0.1)), other_p_ = floats(normal(7, count_, 0.5));
    m_ = zeros(count_), v_ = zeros(count_), g_ = zeros(count_), norm_ = zeros(1);
    for (const credence_lora_layout& layout : layouts_) {
      lora_.push_back(b.table->pack_lora(b.handle, &layout, *p_));
      other_.push_back(b.table->pack_lora(b.handle, &layout, *other_p_));
    }
    std::vector<double> turns;
    for (int position = 0; position < kTokens; ++position)
      for (int i = 0; i < kHeadDim / 2; ++i)
        turns.push_back(std::cos(position + i)), turns.push_back(std::sin(position + i));
    rotary_ = floats(turns), ones_ = floats(std::vector<double>(kHidden, 1.0));
    counts_ = ints(2), tokens_ = ints(kTokens), ends_ = ints(kSegments + 1), positions_ = ints(kTokens);
    key_start_ = ints(kSegments), page_table_ = ints(kSegments), targets_ = ints(kTokens), rows_ = ints(1);
    pages_ = bytes(kSegments * b.table->page_bytes(&shape_, b.dtype));
    x_ = zeros(kTokens * kHidden), middle_ = zeros(kTokens * kHidden), last_ = zeros(kTokens * kHidden);
    inv_in_ = zeros(kTokens), inv_up_ = zeros(kTokens), inv_last_ = zeros(kTokens), lse_ = zeros(kTokens * kHeads);
    logprob_ = zeros(kTokens), upstream_ = floats(std::vector<double>(kTokens, -1.0));
    dh_ = zeros(kTokens * kHidden), dx_ = zeros(kTokens * kHidden);
    for (MemoryPointer* piece : {&h_, &h_up_, &y_}) *piece = act(kTokens * kHidden);
    for (MemoryPointer* piece : {&q_, &o_, &dq_, &d_o_}) *piece = act(kTokens * kHeads * kHeadDim);
    for (MemoryPointer* piece : {&k_, &value_, &dk_, &dv_}) *piece = act(kTokens * kKvHeads * kHeadDim);
    u_ = act(kTokens * 2 * kIntermediate);
    for (MemoryPointer* piece : {&a_, &da_}) *piece = act(kTokens * kIntermediate);
    for (MemoryPointer& piece : s_) piece = act(kTokens * kRank);
    workspace_ = bytes(size_t{1} << 20);
  }
  ~Step() {
    for (const auto& all : {lora_, other_})
      for (credence_lora* lora : all) b_.table->free_lora(b_.handle, lora);
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  void write(const Content& content) {
    std::vector<int32_t> ends = {0}, positions, ids, targets;
    for (const int32_t length : content.lengths) {
      for (int32_t i = 0; i < length; ++i) {
        positions.push_back(i);
        ids.push_back(static_cast<int32_t>((content.seed + 7 * ids.size()) % kVocabulary));
        targets.push_back((ids.back() + 3) % kVocabulary);
      }
      ends.push_back(static_cast<int32_t>(ids.size()));
    }
    const auto to = [&](const MemoryPointer& memory, const std::vector<int32_t>& values) {
      EXPECT_EQ(b_.table->write(b_.handle, memory->raw(), values.data(), values.size() * 4), 0);
    };
    to(rows_, {ends.back()});
    to(counts_, {ends.back(), static_cast<int32_t>(content.lengths.size())});
    to(tokens_, ids), to(ends_, ends), to(positions_, positions), to(targets_, targets);
    to(key_start_, {0, 0, 0}), to(page_table_, {2, 0, 1});
  }

  /// Packs the adapter, runs forward and backward: what a recording may hold.
  void launch() {
    const credence_table& t = *b_.table;
    for (credence_lora* lora : lora_) EXPECT_EQ(t.repack_lora(b_.handle, lora, *p_), 0);
    EXPECT_EQ(t.fill(b_.handle, g_->raw(), 0, g_->bytes()), 0);
    const credence_batch batch = {kTokens,     kSegments,    1,       *counts_, *tokens_, *ends_, *positions_,
                                  *key_start_, *page_table_, nullptr, nullptr};
    RUN(embed, credence_embed{batch, head, 1, *x_, kHidden});
    credence_attention_input in = {};
    in.batch = batch, in.shape = shape_, in.dtype = b_.dtype, in.x = *x_, in.ldx = kHidden, in.norm_weight = *ones_;
    in.qkv = qkv, in.lora = lora_[0], in.rotary = *rotary_, in.pages = pages_->raw(), in.h = h_->raw();
    in.q = q_->raw(), in.k = k_->raw(), in.v = value_->raw(), in.inv_rms = *inv_in_, in.s = s_[0]->raw();
    RUN(attention_input, in);
    credence_attention attention = {};
    attention.batch = batch, attention.shape = shape_, attention.dtype = b_.dtype, attention.scale = 0.3f;
    attention.q = q_->raw(), attention.pages = pages_->raw(), attention.o = o_->raw(), attention.lse = *lse_;
    RUN(attention, attention);
    project(out, lora_[1], *o_, *x_, *middle_, *s_[1]);
    credence_mlp_input mlp = {};
    mlp.rows = *rows_, mlp.capacity = kTokens, mlp.shape = shape_, mlp.dtype = b_.dtype, mlp.x = *middle_;
    mlp.ldx = kHidden, mlp.norm_weight = *ones_, mlp.weights = up, mlp.lora = lora_[2], mlp.h = h_up_->raw();
    mlp.u = u_->raw(), mlp.a = a_->raw(), mlp.inv_rms = *inv_up_, mlp.s = s_[2]->raw();
    RUN(mlp_input, mlp);
    project(down, lora_[3], *a_, *middle_, *last_, *s_[3]);
    credence_norm norm = {};
    norm.rows = *rows_, norm.capacity = kTokens, norm.width = kHidden, norm.dtype = b_.dtype, norm.eps = 1e-5f;
    norm.x = *last_, norm.ldx = norm.ldy = kHidden, norm.weight = *ones_, norm.y = y_->raw(), norm.inv_rms = *inv_last_;
    RUN(norm, norm);
    credence_token_logprobs score = {};
    score.rows = *rows_, score.capacity = kTokens, score.width = kHidden, score.vocabulary = kVocabulary;
    score.dtype = b_.dtype, score.weights = head, score.h = y_->raw(), score.ldh = score.lddh = kHidden;
    score.targets = *targets_, score.logprob = *logprob_, score.d_logprob = *upstream_, score.dh = *dh_;
    RUN(token_logprobs, score);

    EXPECT_EQ(t.fill(b_.handle, dx_->raw(), 0, dx_->bytes()), 0);
    credence_norm_backward of_norm = {};
    of_norm.rows = *rows_, of_norm.capacity = kTokens, of_norm.width = kHidden, of_norm.eps = 1e-5f;
    of_norm.x = *last_, of_norm.ldx = of_norm.lddy = of_norm.lddx = kHidden, of_norm.weight = *ones_;
    of_norm.inv_rms = *inv_last_, of_norm.dy = *dh_, of_norm.dx = *dx_;
    RUN(norm_backward, of_norm);
    project_backward(down, lora_[3], *a_, *s_[3], *da_);
    credence_mlp_input_backward of_mlp = {};
    of_mlp.rows = *rows_, of_mlp.capacity = kTokens, of_mlp.shape = shape_, of_mlp.dtype = b_.dtype;
    of_mlp.x = *middle_, of_mlp.ldx = of_mlp.lddx = kHidden, of_mlp.norm_weight = *ones_, of_mlp.inv_rms = *inv_up_;
    of_mlp.weights = up, of_mlp.lora = lora_[2], of_mlp.h = h_up_->raw(), of_mlp.u = u_->raw();
    of_mlp.s = s_[2]->raw(), of_mlp.da = da_->raw(), of_mlp.dx = *dx_, of_mlp.gradients = *g_;
    RUN(mlp_input_backward, of_mlp);
    project_backward(out, lora_[1], *o_, *s_[1], *d_o_);
    credence_attention_backward of_attention = {};
    of_attention.batch = batch, of_attention.shape = shape_, of_attention.dtype = b_.dtype;
    of_attention.scale = 0.3f, of_attention.q = q_->raw(), of_attention.k = k_->raw();
    of_attention.v = value_->raw(), of_attention.o = o_->raw(), of_attention.lse = *lse_;
    of_attention.d_o = d_o_->raw(), of_attention.dq = dq_->raw(), of_attention.dk = dk_->raw();
    of_attention.dv = dv_->raw();
    RUN(attention_backward, of_attention);
    credence_attention_input_backward of_in = {};
    of_in.batch = batch, of_in.shape = shape_, of_in.dtype = b_.dtype, of_in.x = *x_, of_in.ldx = of_in.lddx = kHidden;
    of_in.norm_weight = *ones_, of_in.inv_rms = *inv_in_, of_in.qkv = qkv, of_in.lora = lora_[0];
    of_in.rotary = *rotary_, of_in.h = h_->raw(), of_in.s = s_[0]->raw(), of_in.dq = dq_->raw();
    of_in.dk = dk_->raw(), of_in.dv = dv_->raw(), of_in.dx = *dx_, of_in.gradients = *g_;
    RUN(attention_input_backward, of_in);
    RUN(gradient_norm, credence_gradient_norm{count_, *g_, *norm_});
  }

  /// What stands in a structure by value, and so is launched, not recorded.
  void update(int64_t step) {
    RUN(adamw, credence_adamw{0, count_, *p_, *m_, *v_, *g_, *norm_, 1, 1, 1e-2, 0.9, 0.999, 1e-8, 0, step, nullptr});
  }

  /// Another policy's adapter on the same weights.
  void run_another() { project(out, other_[1], *o_, *x_, *last_, *s_[1]); }

  std::vector<uint8_t> state() const {
    std::vector<uint8_t> all = p_->bits();
    for (const MemoryPointer* piece : {&logprob_, &g_, &norm_, &last_}) {
      const auto part = (*piece)->bits();
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }
  float gradient_norm() const { return norm_->read<float>(1)[0]; }

 private:
  void project(const Weights& weights, credence_lora* lora, const Memory& from, const Memory& x, const Memory& to,
               const Memory& s) {
    credence_project p = {};
    p.rows = *rows_, p.capacity = kTokens, p.dtype = b_.dtype, p.weights = weights, p.lora = lora, p.in = from.raw();
    p.x = x, p.x_out = to, p.ldx = kHidden, p.s = s.raw();
    RUN(project, p);
  }
  void project_backward(const Weights& weights, credence_lora* lora, const Memory& from, const Memory& s,
                        const Memory& to) {
    credence_project_backward p = {};
    p.rows = *rows_, p.capacity = kTokens, p.dtype = b_.dtype, p.weights = weights, p.lora = lora, p.in = from.raw();
    p.s = s.raw(), p.dx = *dx_, p.lddx = kHidden, p.din = to.raw(), p.gradients = *g_;
    RUN(project_backward, p);
  }
  MemoryPointer bytes(size_t count) { return std::make_unique<Memory>(b_, count); }
  MemoryPointer floats(const std::vector<double>& values) { return floats_on_device(b_, values); }
  MemoryPointer zeros(size_t count) { return floats(std::vector<double>(count)); }
  MemoryPointer ints(size_t count) { return on_device(b_, std::vector<int32_t>(count)); }
  MemoryPointer act(size_t count) { return act_space(b_, count); }

  Backend& b_;
  reference::Linear qkv_, out_, up_, down_, head_;
  Weights qkv, out, up, down, head;
  credence_shape shape_ = {};
  std::vector<credence_lora_layout> layouts_;
  std::vector<credence_lora*> lora_, other_;
  int64_t count_ = 0;
  MemoryPointer p_, other_p_, m_, v_, g_, norm_, rotary_, ones_, counts_, tokens_, ends_, positions_, key_start_,
      page_table_, targets_, rows_, pages_, x_, middle_, last_, inv_in_, inv_up_, inv_last_, lse_, logprob_, upstream_,
      dh_, dx_, h_, h_up_, y_, q_, o_, dq_, d_o_, k_, value_, dk_, dv_, u_, a_, da_, s_[4], workspace_;
};

const Content kContents[] = {{{4, 2, 3}, 1}, {{5, 1}, 11}, {{1, 1, 1}, 20}};

void each_dtype(const std::function<void(Backend&)>& body) {
  for (const credence_dtype dtype : {CREDENCE_F32, CREDENCE_BF16}) {
    Backend backend(table(), dtype, 1);
    body(backend);
  }
}

}  // namespace

TEST(a_step_waits_only_to_read_and_takes_no_memory) {
  each_dtype([](Backend& backend) {
    Step step(backend);
    step.write(kContents[0]);
    step.launch();
    step.update(1);
    const credence_table& t = *backend.table;
    const int64_t waits = t.waits(backend.handle), taken = emulation::allocations();
    const credence_memory before = t.memory(backend.handle, 1);
    for (int i = 0; i < 3; ++i) {
      step.write(kContents[i]);
      step.launch();
      step.update(2 + i);
    }
    EXPECT_EQ(t.waits(backend.handle), waits);
    EXPECT(std::isfinite(step.gradient_norm()));
    EXPECT_EQ(t.waits(backend.handle), waits + 1);
    EXPECT_EQ(emulation::allocations(), taken);
    EXPECT_EQ(t.memory(backend.handle, 0).peak, before.current);
  });
}

TEST(a_recorded_step_is_the_step_on_what_stands_in_memory_then) {
  each_dtype([](Backend& backend) {
    const credence_table& t = *backend.table;
    std::vector<std::vector<uint8_t>> plain, replayed;
    {
      Step step(backend);
      for (int i = 0; i < 3; ++i) {
        step.write(kContents[i]);
        step.launch();
        step.update(1 + i);
        step.run_another();
        plain.push_back(step.state());
      }
    }
    Step step(backend);
    step.write(kContents[0]);
    const auto untouched = step.state();
    EXPECT_EQ(t.record(backend.handle), 0);
    step.launch();
    credence_graph* const graph = t.recorded(backend.handle);
    EXPECT(graph != nullptr);
    EXPECT(step.state() == untouched);  // nothing has run
    for (int i = 0; i < 3; ++i) {
      step.write(kContents[i]);
      EXPECT_EQ(t.replay(backend.handle, graph), 0);
      step.update(1 + i);
      step.run_another();  // fills the slots behind the weights with other numbers
      replayed.push_back(step.state());
    }
    EXPECT(plain[0] != plain[1] && plain[1] != plain[2]);
    for (int i = 0; i < 3; ++i) EXPECT(replayed[i] == plain[i]);
    t.free_graph(backend.handle, graph);
  });
}

TEST(what_needs_the_host_is_refused_while_launches_are_recorded) {
  Backend backend(table(), CREDENCE_F32, 1);
  const credence_table& t = *backend.table;
  const auto x = floats_on_device(backend, std::vector<double>(4));
  const auto refused = [&](const char* what) {
    return std::string(t.last_error(backend.handle)) ==
           std::string(what) + ": launches are being recorded, and this needs the host";
  };
  float value = 0;
  EXPECT(!t.recorded(backend.handle));
  EXPECT_EQ(t.record(backend.handle), 0);
  EXPECT(t.record(backend.handle) != 0);
  EXPECT(t.read(backend.handle, &value, x->raw(), 4) != 0 && refused("read"));
  EXPECT(t.write(backend.handle, x->raw(), &value, 4) != 0 && refused("write"));
  EXPECT(t.synchronise(backend.handle) != 0 && refused("synchronise"));
  EXPECT(!t.alloc(backend.handle, 4) && refused("alloc"));
  EXPECT(!t.event(backend.handle) && refused("event"));
  const credence_weights_source source = {1, 1, CREDENCE_F32, 0, 0, nullptr, nullptr};
  EXPECT(!t.pack(backend.handle, &source) && refused("pack"));
  credence_graph* const empty = t.recorded(backend.handle);
  EXPECT(empty != nullptr);
  EXPECT_EQ(t.replay(backend.handle, empty), 0);
  t.free_graph(backend.handle, empty);
  EXPECT_EQ(t.read(backend.handle, &value, x->raw(), 4), 0);
}

TEST(a_product_that_gives_a_row_other_bits_in_another_batch_is_reported) {
  if (!is_emulated(table()) || named_table()) SKIP("the fault is planted in the emulation");
  using emulation::PlantedProducts;
  for (const credence_dtype dtype : {CREDENCE_F32, CREDENCE_BF16})
    for (const PlantedProducts fault :
         {PlantedProducts::kChecked, PlantedProducts::kByRange, PlantedProducts::kBySeven}) {
      emulation::plant(fault);
      Backend backend(table(), dtype, 1);
      const reference::Linear p = layer(1, 9, 40);
      const Weights weights(backend, p.weights, p.outputs, p.columns);
      const char* const differ = backend.table->rows_differ(backend.handle);
      if (fault == PlantedProducts::kBySeven)
        EXPECT_EQ(std::string(differ ? differ : ""), std::string("the product with a matrix of 9 x 40 in ") +
                                                         (backend.bf16() ? "bf16" : "float32") +
                                                         " gives a row among 7 other bits than alone");
      else EXPECT(differ == nullptr);  // where ranges of M differ, one algorithm runs them all
      emulation::plant(PlantedProducts::kNone);
      // What the check left in the matrix's memory is gone.
      const auto rows = one(backend, 2), in = act_on_device(backend, normal(2, 2 * 40)),
                 x = floats_on_device(backend, std::vector<double>(2 * 9));
      credence_project o = {};
      o.rows = *rows, o.capacity = 2, o.dtype = dtype, o.weights = weights, o.in = in->raw(), o.x = o.x_out = *x;
      o.ldx = 9;
      RUN_OPERATOR(backend, project, o);
      reference::Linear same = p;
      same.rows = 2, same.x = normal(2, 2 * 40);
      same.round = stored(backend);
      EXPECT_CLOSE(x->floats(), reference::project(same, std::vector<double>(2 * 9)), 1e-4);
    }
}

TESTING_MAIN
