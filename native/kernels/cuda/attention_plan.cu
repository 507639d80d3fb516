#include "attention_plan.h"

#include "linear.h"

namespace credence::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kLengths = 256;  // items are told apart by length up to here; longer ones all come first

// Segments follow each other to the last token, and the keys of each have room. Every thread gets the same answer.
__device__ bool batch_is_wrong(const credence_batch& batch, Operator op, Fault* faults, int32_t* wrong) {
  const int32_t tokens = batch.counts[0], segments = batch.counts[1];
  if (threadIdx.x == 0) *wrong = 0;
  __syncthreads();
  if (tokens < 0 || tokens > batch.token_capacity || segments < 0 || segments > batch.segment_capacity) {
    if (threadIdx.x == 0) {
      fault(faults, op, {FaultKind::batch, tokens, segments, batch.token_capacity, batch.segment_capacity});
      *wrong = 1;
    }
  } else {
    for (auto b = static_cast<int32_t>(threadIdx.x); b < segments; b += kThreads) {
      const int32_t from = batch.cu_seqlens[b], to = batch.cu_seqlens[b + 1];
      if (to >= from && (b > 0 || from == 0) && to <= tokens) continue;
      fault(faults, op, {FaultKind::segments, from, to, b, 0});
      *wrong = 1;
    }
    if (threadIdx.x == 0 && segments > 0 && batch.cu_seqlens[segments] != tokens) {
      fault(faults, op, {FaultKind::segment_end, batch.cu_seqlens[segments], tokens, 0, 0});
      *wrong = 1;
    }
  }
  __syncthreads();
  return *wrong != 0;
}

// A warp a segment, 32 tokens at a time.
__device__ void count_keys(const credence_batch& batch, const AttentionPlan& plan, int32_t b) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp;
  const int32_t from = batch.cu_seqlens[b], to = batch.cu_seqlens[b + 1], shared = batch.key_start[b];
  int32_t own = 0;
  for (int32_t base = from; base < to; base += kWarp) {
    const int32_t t = base + lane;
    const bool key = t < to && is_key(batch, t);
    const unsigned keys = __ballot_sync(kAllLanes, key);
    const int32_t mine = own + __popc(keys & ((1u << lane) - 1));
    if (t < to) {
      plan.before[t] = shared + mine;
      plan.segment[t] = b;
      if (key) plan.keys[from + mine] = t;
    }
    own += __popc(keys);
  }
  if (lane == 0) plan.own[b] = own;
}

__device__ bool keys_are_wrong(const credence_batch& batch, const AttentionPlan& plan, bool backward, Operator op,
                               Fault* faults, int32_t b) {
  if (fault(faults, op, fault_of_prefix(batch, b))) return true;
  const int32_t prefix = prefix_of(batch, b), before = prefix < 0 ? 0 : batch.key_start[prefix] + plan.own[prefix];
  return fault(faults, op, fault_of_keys(batch, b, plan.own[b], before, backward));
}

// Items of all segments by falling length (a counting sort): count_of(b) of segment b, length_of(b, i) of its item i, which is
// item_of(b, i). Which of two items of one length comes first is left open: no result depends on it.
template <class Count, class Length, class Named>
__device__ void longest_first(int32_t segments, Count count_of, Length length_of, Named item_of, int32_t* starts,
                              Item* out, int32_t* count) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % kWarp, warp = static_cast<int32_t>(threadIdx.x) / kWarp;
  const auto for_each = [&](auto body) {
    for (int32_t b = warp; b < segments; b += kWarps) {
      const int32_t items = count_of(b);
      for (int32_t i = lane; i < items; i += kWarp)
        body(b, i, starts + kLengths - 1 - min(length_of(b, i), kLengths - 1));
    }
  };
  __syncthreads();
  for (int32_t i = threadIdx.x; i < kLengths; i += kThreads) starts[i] = 0;
  __syncthreads();
  for_each([](int32_t, int32_t, int32_t* bin) { atomicAdd(bin, 1); });
  __syncthreads();
  if (warp == 0) {
    constexpr int kEach = kLengths / kWarp;
    int32_t mine = 0;
    for (int i = 0; i < kEach; ++i) mine += starts[lane * kEach + i];
    int32_t before = mine;
    for (int step = 1; step < kWarp; step *= 2) {
      const int32_t other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    if (lane == kWarp - 1) *count = before;
    before -= mine;
    for (int i = 0; i < kEach; ++i) {
      const int32_t bin = starts[lane * kEach + i];
      starts[lane * kEach + i] = before;
      before += bin;
    }
  }
  __syncthreads();
  for_each([&](int32_t b, int32_t i, int32_t* bin) { out[atomicAdd(bin, 1)] = item_of(b, i); });
}

__global__ void __launch_bounds__(kThreads) plan_kernel(credence_batch batch, int32_t group, int32_t window,
                                                        AttentionPlan plan, bool split, Operator op, Fault* faults) {
  __shared__ int32_t starts[kLengths];
  __shared__ int32_t wrong;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < 4) plan.counts[thread] = 0;
  if (batch_is_wrong(batch, op, faults, &wrong)) return;
  const int32_t segments = batch.counts[1];
  for (int32_t b = thread / kWarp; b < segments; b += kWarps) count_keys(batch, plan, b);
  __syncthreads();
  for (int32_t b = thread; b < segments; b += kThreads)
    if (keys_are_wrong(batch, plan, plan.key_blocks != nullptr, op, faults, b)) wrong = 1;
  __syncthreads();
  if (wrong) return;
  for (int32_t b = thread; b < segments; b += kThreads) {
    const int32_t from = batch.cu_seqlens[b];
    plan.pieces[b] = batch.cu_seqlens[b + 1] > from ? Pieces::of(batch, plan, window, from, split).count : 1;
  }
  if (thread == 0) {
    plan.counts[0] = batch.counts[0];
    plan.counts[1] = segments;
  }
  const auto rows_of_segment = [&](int32_t b) { return (batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]) * group; };
  const auto queries_of = [&](int32_t b, int32_t i) {
    const int32_t pieces = plan.pieces[b];
    return pieces > 1 ? Item{b, i / pieces, i % pieces} : Item{b, i, -1};
  };
  longest_first(
      segments, [&](int32_t b) { return (rows_of_segment(b) + kTileRows - 1) / kTileRows * plan.pieces[b]; },
      [&](int32_t b, int32_t i) {
        if (plan.pieces[b] > 1) return kPieceKeys / CREDENCE_PAGE;
        const int32_t last = min((i + 1) * kTileRows, rows_of_segment(b)) - 1, from = batch.cu_seqlens[b];
        const int32_t begin = visible_keys(batch, plan, window, from + i * kTileRows / group).begin;
        return (visible_keys(batch, plan, window, from + last / group).end - begin) / CREDENCE_PAGE + 1;
      },
      queries_of, starts, plan.queries, plan.counts + 2);
  if (!plan.key_blocks) return;
  longest_first(
      segments, [&](int32_t b) { return (plan.own[b] + kTileRows - 1) / kTileRows; },
      [&](int32_t b, int32_t i) {
        const int32_t from = batch.cu_seqlens[b], first = i * kTileRows;
        int32_t tokens = batch.cu_seqlens[b + 1] - plan.keys[from + first];
        if (window > 0) tokens = min(tokens, kTileRows + window);
        for (int32_t c = b + 1; batch.prefix_of && c < segments; ++c)
          if (reach(batch, c, b) > batch.key_start[b] + first) tokens += batch.cu_seqlens[c + 1] - batch.cu_seqlens[c];
        return tokens / CREDENCE_PAGE + 1;
      },
      [](int32_t b, int32_t i) { return Item{b, i, -1}; }, starts, plan.key_blocks, plan.counts + 3);
}

}  // namespace

int check_attention(Backend& backend, Operator op, const credence_shape& shape) {
  const char* name = name_of(op);
  if (shape.heads < 1 || shape.kv_heads < 1 || shape.heads % shape.kv_heads)
    return fail(backend, "%s: %d query heads cannot share %d kv heads evenly", name, shape.heads, shape.kv_heads);
  if (shape.head_dim < 1 || shape.head_dim > kMostHeadDim)
    return fail(backend, "%s: head_dim is %d; this back end has kernels up to %d. Use --device cpu", name,
                shape.head_dim, kMostHeadDim);
  return 0;
}

int plan_attention(Backend& backend, Operator op, const credence_batch& batch, const credence_shape& shape,
                   int32_t window, const AttentionPlan& plan, bool split) {
  return launch(backend, name_of(op), &plan_kernel, dim3(1), dim3(kThreads), 0, batch, shape.heads / shape.kv_heads,
                window, plan, split, op, backend.fault);
}

}  // namespace credence::cuda
