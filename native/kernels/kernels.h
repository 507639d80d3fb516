// The contract of every operator: shapes, units, aliasing, workspace. A back end is a table of these functions; no C++
// type, exception or allocation crosses this line. Everything above asks only for what is written here, so a later back end
// never changes it. (docs/architecture.md, "The contract".)
//
//  - "device" memory is memory from `alloc` of the same back end. Everything an operator points to is device memory, except
//    the parameter structure itself and what is marked host.
//  - Capacity is apart from content: what a captured graph fixes (capacities, widths, pointers) stands in the structure;
//    how many rows there are is read from device memory (`rows`, `counts`, `cu_seqlens`, page tables). `record` keeps a
//    sequence of launches for `replay`, where a back end has them.
//  - Activations are row-major with a leading dimension in elements. "act" is the activation type `dtype`: float32 or bf16.
//    The residual stream, statistics, losses, gradients of parameters and of the residual stream are float32.
//  - A row's result is the row's own: the run over K is in order for every number of rows, keys are met in pages of 64
//    counted from the sequence's start, nothing is split over keys. Sums over rows have the same bits for any thread count.
//  - A gradient pointer may be null: what is frozen costs nothing. Gradients of parameters are added to, gradients of
//    activations are written, unless a comment says otherwise.
//  - `NAME_workspace(p)` says how many bytes of scratch (64-byte aligned, device) `NAME` needs for these capacities;
//    no launch allocates.
//  - A function returns 0, or another number after leaving its reason in `last_error`.
#ifndef CREDENCE_KERNELS_H_
#define CREDENCE_KERNELS_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CREDENCE_PAGE 64       // tokens in a page of keys and values, the block of the online softmax
#define CREDENCE_MAX_SLICES 3  // q, k, v of one fused product

typedef enum { CREDENCE_F32 = 0, CREDENCE_BF16 = 1 } credence_dtype;
typedef enum { CREDENCE_RMS_NORM = 0, CREDENCE_LAYER_NORM = 1 } credence_norm_kind;
typedef enum {
  CREDENCE_SILU = 0,
  CREDENCE_GELU = 1,
  CREDENCE_GELU_TANH = 2,
  CREDENCE_RELU = 3,
  CREDENCE_IDENTITY = 4
} credence_activation;
typedef enum {
  CREDENCE_QKV_STACKED = 0,
  CREDENCE_QKV_PER_HEAD = 1
} credence_qkv_layout;  // q|k|v, or (q k v) head by head

typedef struct credence_backend credence_backend;  // a device, its stream and its threads
typedef struct credence_weights credence_weights;  // a frozen or owned matrix as the back end keeps it
typedef struct credence_lora credence_lora;        // an adapter's share of one product as the back end keeps it
typedef struct credence_event credence_event;
typedef struct credence_graph credence_graph;  // launches that were recorded

// A family as data: what a block computes. The engine orders the operators (serial or parallel residual).
typedef struct {
  int32_t hidden, intermediate, heads, kv_heads, head_dim;
  int32_t rotary_dim;  // leading dimensions of a head that turn; pairs are (i, i + rotary_dim / 2)
  credence_norm_kind norm;
  float norm_eps;
  credence_activation activation;
  int32_t gated;    // 1: activation(gate) * up, rows of the fused matrix are gate then up; 0: activation(up)
  int32_t qk_norm;  // 1: RMS norm of each head of q and k before rotary
  credence_qkv_layout qkv_layout;
} credence_shape;

// ---------------------------------------------------------------------------------------------------------------- weights

// A matrix [rows (outputs), columns (inputs)], given in float32 on the host a block of rows at a time, perhaps to several threads
// at once, so that a file is never held twice. Stacked matrices (q|k|v, gate|up) are one matrix.
typedef struct {
  int32_t rows, columns;
  credence_dtype dtype;
  int32_t backward;    // 1: keep what the product with the transpose needs (dX = dY W)
  int32_t gatherable;  // 1: embed() may read rows of it
  void (*read)(void* context, int32_t row, int32_t count, float* out);  // out [count, columns], host
  void* context;
} credence_weights_source;

// S = X A^T, Y += scale S B^T for rows [row_begin, row_end) of the product. Offsets are in floats into the policy's flat
// buffer: A [rank, columns] at a, B [row_end - row_begin, rank] at b. (Hu et al. 2021, eq. 3.)
typedef struct {
  int32_t row_begin, row_end, rank;
  float scale;
  int64_t a, b;
} credence_lora_slice;

typedef struct {
  int32_t rows, columns, slices;
  credence_lora_slice slice[CREDENCE_MAX_SLICES];
  credence_dtype dtype;
} credence_lora_layout;

// Dropout of the adapter's input, p in [0, 1); p = 0: none. Slice s reads x / (1 - p) with elements dropped by a mask of its
// own, as PEFT masks each projection apart; the base's product reads x itself. Element i of row t is dropped for slice s where
// word (i / 8) % 4 of Philox4x32-10 at the counter (i / 32 * 8 + i % 8, s, low and high half of row_key[t]) is below
// floor(p 2^32): both passes make the same mask, none is stored. row_key says which token a row is (its sequence's number in
// the optimiser step * 2^32 + its place there), so that packing, micro-batches and threads change no mask; key belongs to one
// product of one layer in one step.
typedef struct {
  float p;
  uint64_t key;
  const uint64_t* row_key;  // [T]; read if p > 0
} credence_dropout;

// ------------------------------------------------------------------------------------------------------------------ batch

// T tokens of B segments laid end to end. A segment's keys live in pages: key j of segment b is slot j % 64 of page
// page_table[b * pages_per_segment + j / 64]. A token at index i of its segment writes key key_start[b] + i and sees
// keys 0 .. key_start[b] + i (its own included), inside the window. A query_only token writes no key and sees those before
// it; keys of later tokens close the gap. prefix_of[b] >= 0: the first key_start[b] keys of b are those of that segment of
// this batch, which comes before b, and their gradients go there. Full pages of it stand in b's table; where they end inside a
// page, b's table has a page of its own there, into which attention_input copies them beside b's keys. key_start[b] > 0
// without prefix_of: keys of an earlier call, in pages that b's table has; whoever shares a page that is not full copies it.
typedef struct {
  int32_t token_capacity, segment_capacity, pages_per_segment;
  const int32_t* counts;      // [2] T, B
  const int32_t* tokens;      // [T]
  const int32_t* cu_seqlens;  // [B + 1]
  const int32_t* positions;   // [T] for rotary
  const int32_t* key_start;   // [B]
  const int32_t* page_table;  // [B, pages_per_segment]
  const uint8_t* query_only;  // [T] or null
  const int32_t* prefix_of;   // [B] or null
} credence_batch;

// ---------------------------------------------------------------------------------------------------------------- forward

// x[t] = table[tokens[t]] * scale;  x [T, hidden] float32.
typedef struct {
  credence_batch batch;
  const credence_weights* table;
  float scale;
  float* x;
  int64_t ldx;
} credence_embed;

// y[r] = norm(x[index ? index[r] : r]);  x float32, y act and / or y_f32 float32 (either may be null). y_f32 may be x if index is null.
typedef struct {
  const int32_t* rows;  // [1]
  int32_t capacity, width;
  credence_dtype dtype;
  credence_norm_kind kind;
  float eps;
  const int32_t* index;  // [rows] or null
  const float* x;
  int64_t ldx;
  const float *weight, *bias;  // [width]; bias null for RMS
  void* y;
  int64_t ldy;
  float* y_f32;
  int64_t ldy_f32;
  float* inv_rms;  // [rows] kept for backward, or null
} credence_norm;

// Norm + QKV + LoRA + bias + q/k norm + rotary + KV append:
//   h = norm(x);  [q|k|v] = h W^T + LoRA(h) + bias;  q, k turned by rotary[positions];  k, v into the pages.
typedef struct {
  credence_batch batch;
  credence_shape shape;
  credence_dtype dtype;
  const float* x;  // [T, hidden]
  int64_t ldx;
  const float *norm_weight, *norm_bias;
  const credence_weights* qkv;  // [(heads + 2 kv_heads) head_dim, hidden]
  const credence_lora* lora;    // or null
  credence_dropout dropout;
  const float* bias;             // or null
  const float *q_norm, *k_norm;  // [head_dim] or null
  const float* rotary;           // [positions, rotary_dim / 2, 2] cos, sin
  void* pages;                   // this layer's pool; layout is the back end's (page_bytes each); null: do not append
  void* h;                       // [T, hidden] act, always written
  void* q;                       // [T, heads head_dim] act, after norm and rotary
  void *k, *v;                   // [T, kv_heads head_dim] act, after norm and rotary; kept for backward, or null
  void* qk_raw;    // [T, (heads + kv_heads) head_dim] act before q/k norm, kept when shape.qk_norm; or null
  float* inv_rms;  // [T] or null
  void* s;         // [T, sum of ranks] act, kept for backward; or null
} credence_attention_input;

// o = softmax(scale q k^T over the visible keys) v, per head; query head i reads kv head i / (heads / kv_heads).
// Online softmax in float32 over pages in order (Dao et al. 2022, algorithm 1). A row that sees no key gives 0, lse -inf.
typedef struct {
  credence_batch batch;
  credence_shape shape;
  credence_dtype dtype;
  float scale;
  int32_t window;  // keys a token sees, itself included; 0: all
  const void* q;   // [T, heads head_dim] act
  const void* pages;
  void* o;     // [T, heads head_dim] act
  float* lse;  // [T, heads] or null
  // Not 0: the keys of a token that is a segment alone, which is what decoding runs, may be divided among work items whose softmaxes
  // are put together in order. Where they are cut depends on the row's own keys and nothing else, so a row still has the same bits
  // beside whatever neighbours; but not those of prefilling. A back end may leave it alone, as the CPU's do: they are busy without.
  int32_t split_keys;
} credence_attention;

// x_out = x + in W^T + LoRA(in) + bias: the output projection (in = o) and the MLP's second product (in = a). x_out may be x.
typedef struct {
  const int32_t* rows;
  int32_t capacity;
  credence_dtype dtype;
  const credence_weights* weights;  // [hidden, columns]
  const credence_lora* lora;
  credence_dropout dropout;
  const float* bias;
  const void* in;  // [T, columns] act
  const float* x;  // [T, hidden]
  float* x_out;
  int64_t ldx;
  void* s;  // [T, rank] act or null
} credence_project;

// h = norm(x);  u = h W^T + LoRA(h) + bias;  a = gated ? activation(u[:, :I]) * u[:, I:] : activation(u).
typedef struct {
  const int32_t* rows;
  int32_t capacity;
  credence_shape shape;
  credence_dtype dtype;
  const float* x;
  int64_t ldx;
  const float *norm_weight, *norm_bias;
  const credence_weights* weights;  // [gated ? 2 I : I, hidden]
  const credence_lora* lora;
  credence_dropout dropout;
  const float* bias;
  void* h;         // [T, hidden] act, always written
  void* u;         // [T, gated ? 2 I : I] act, kept for backward; null: not kept
  void* a;         // [T, I] act
  float* inv_rms;  // [T] or null
  void* s;         // [T, sum of ranks] act or null
} credence_mlp_input;

// --------------------------------------------------------------------------------------------------------------- backward
// `gradients` is the policy's flat gradient buffer (offsets as in credence_lora_slice); null: the adapter is frozen.

// Of credence_norm. dx [.., width] float32 at row index[r]: added to.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width;
  credence_norm_kind kind;
  float eps;
  const int32_t* index;
  const float* x;
  int64_t ldx;
  const float* weight;
  const float* inv_rms;  // or null: computed again
  const float* dy;       // [rows, width]
  int64_t lddy;
  float* dx;
  int64_t lddx;
  float *dweight, *dbias;  // [width] or null
} credence_norm_backward;

// Of credence_project, given d(x_out) = dx: din = dx W + LoRA; parameters' gradients. dx itself goes on unchanged.
typedef struct {
  const int32_t* rows;
  int32_t capacity;
  credence_dtype dtype;
  const credence_weights* weights;
  const credence_lora* lora;
  credence_dropout dropout;
  const void* in;   // [T, columns] act
  const void* s;    // [T, rank] act
  const float* dx;  // [T, hidden]
  int64_t lddx;
  void* din;  // [T, columns] act, or null
  float* gradients;
  float *dweights, *dbias;  // [hidden, columns], [hidden], or null
} credence_project_backward;

// Of credence_mlp_input, given da: the norm's path is added to dx (which already holds the residual's gradient).
typedef struct {
  const int32_t* rows;
  int32_t capacity;
  credence_shape shape;
  credence_dtype dtype;
  const float* x;
  int64_t ldx;
  const float *norm_weight, *norm_bias;
  const float* inv_rms;
  const credence_weights* weights;
  const credence_lora* lora;
  credence_dropout dropout;
  const void *h, *u, *s;
  const void* da;  // [T, I] act
  float* dx;       // [T, hidden], added to; null: stop here (nothing adapted below)
  int64_t lddx;
  float* gradients;
  float *dweights, *dbias, *dnorm_weight, *dnorm_bias;
} credence_mlp_input_backward;

// Of credence_attention. D = rowsum(do * o); P from q, k and lse. dq, dk, dv are with respect to what attention_input put
// out (after rotary). Deterministic: sums over queries run in order.
typedef struct {
  credence_batch batch;
  credence_shape shape;
  credence_dtype dtype;
  float scale;
  int32_t window;
  const void *q, *k, *v, *o;
  const float* lse;
  const void* d_o;  // [T, heads head_dim] act
  void* dq;         // [T, heads head_dim] act
  void *dk, *dv;    // [T, kv_heads head_dim] act
} credence_attention_backward;

// Of credence_attention_input, given dq, dk, dv (overwritten: they are turned back in place). dx as in mlp_input_backward.
typedef struct {
  credence_batch batch;
  credence_shape shape;
  credence_dtype dtype;
  const float* x;
  int64_t ldx;
  const float *norm_weight, *norm_bias;
  const float* inv_rms;
  const credence_weights* qkv;
  const credence_lora* lora;
  credence_dropout dropout;
  const float *q_norm, *k_norm;
  const float* rotary;
  const void *h, *s, *qk_raw;
  void *dq, *dk, *dv;
  float* dx;
  int64_t lddx;
  float* gradients;
  float *dweights, *dbias, *dnorm_weight, *dnorm_bias, *dq_norm, *dk_norm;
} credence_attention_input_backward;

// dtable[tokens[t]] += scale dx[t], in token order.
typedef struct {
  credence_batch batch;
  int32_t width;
  float scale;
  const float* dx;
  int64_t lddx;
  float* dtable;  // [vocabulary, width]
} credence_embed_backward;

// -------------------------------------------------------------------------------------------------------------- read-outs

// Token log-probabilities, natural: logprob[r] = z[target] - lse, z = h W^T; entropy = lse - sum p z. Logits never exist
// whole unless asked for. With `upstream` the same pass gives dh = sum of upstream gradients (recomputes nothing):
//   dz = d_logprob (onehot - p) + d_entropy (-p (log p + entropy)).
// Rows have the same bits here and in sample(): it is one kernel.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width, vocabulary;
  credence_dtype dtype;
  const credence_weights* weights;  // [vocabulary, width]
  const void* h;                    // [rows, width] act
  int64_t ldh;
  const int32_t* targets;              // [rows]; -1: no target, logprob 0
  float* logprob;                      // [rows] or null
  float* entropy;                      // [rows] or null
  float* lse;                          // [rows] or null
  float* logits;                       // [rows, vocabulary] or null
  const float *d_logprob, *d_entropy;  // [rows] or null
  float* dh;                           // [rows, width] or null
  int64_t lddh;
  float* dweights;  // [vocabulary, width] or null
} credence_token_logprobs;

// logprob[r, c] = log softmax over the candidates alone of z[candidates[c]]; H x C of the head instead of H x V.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width, candidates_count;
  credence_dtype dtype;
  const credence_weights* weights;
  const void* h;
  int64_t ldh;
  const int32_t* candidates;  // [candidates_count]
  float* logprob;             // [rows, candidates_count]
  const float* d_logprob;     // [rows, candidates_count] or null
  float* dh;                  // [rows, width] or null
  int64_t lddh;
  float* dweights;  // [vocabulary, width] or null
} credence_closed_set;

// Divergence per row between p (h) and q (h_other, constant), nats. kind 0: sum p log(p/q); 1: sum q log(q/p); 2: Jensen-Shannon.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width, vocabulary, kind;
  credence_dtype dtype;
  const credence_weights *weights, *weights_other;
  const void *h, *h_other;
  int64_t ldh, ldh_other;
  float* divergence;      // [rows]
  const float* upstream;  // [rows] or null
  float* dh;              // [rows, width] or null
  int64_t lddh;
  float* dweights;  // of `weights` through h, [vocabulary, width], or null
} credence_divergence;

// y[s] = mean of x[from[s] .. to[s]), rows in order. Backward: dx[rows of s] += dy[s] / (to - from).
typedef struct {
  const int32_t* rows;  // spans
  int32_t capacity, width;
  const int32_t *from, *to;
  const float* x;
  int64_t ldx;
  float* y;  // [spans, width]; null in backward
  const float* dy;
  float* dx;
  int64_t lddx;
} credence_pool;

// A head's layer in float32: y = activation(x W^T + b);  x [rows, in], W [out, in], b [out]. Backward: given y and dy.
typedef struct {
  const int32_t* rows;
  int32_t capacity, in, out;
  credence_activation activation;  // identity or ReLU
  const float *x, *weight, *bias;
  float* y;  // [rows, out]
} credence_dense;

typedef struct {
  const int32_t* rows;
  int32_t capacity, in, out;
  credence_activation activation;
  const float *x, *weight, *y;
  float* dy;               // [rows, out], turned into the gradient before the activation in place
  float *dweight, *dbias;  // added to, or null
  float* dx;               // [rows, in] or null
} credence_dense_backward;

// One token a row from z = h W^T: repetition penalty, temperature, top-k, then top-p on what is left, renormalised; ties at a
// cut go to the lower id. uniform[r] in [0, 1) chooses by the cumulative sum in order of falling probability. Temperature 0: the largest.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width, vocabulary;
  credence_dtype dtype;
  const credence_weights* weights;
  const void* h;
  int64_t ldh;
  const float* temperature;            // [rows]
  const int32_t* top_k;                // [rows], 0: all
  const float* top_p;                  // [rows], 1: all
  const float* repetition;             // [rows], 1: none
  const int32_t *seen, *seen_offsets;  // distinct ids of each row so far, [rows + 1]; null: no penalty
  const double* uniform;               // [rows]
  int32_t* token;                      // [rows]
  float* logprob;        // [rows] of the chosen token at temperature 1, nothing cut: what token_logprobs gives
  float* logprob_cut;    // [rows] of the chosen token in the distribution it was drawn from, or null
  float* probabilities;  // [rows, vocabulary] the distribution drawn from, or null
} credence_sample;

// ----------------------------------------------------------------------------------------------------------------- losses
// A loss's sum stays on the device, in double, until its step is over; what is read of it is read once.

// sum += weight[r, i] value[r, i] over all r, i: the loss whose upstream gradient of `value` is `weight`. A value of weight 0 is
// not read.
typedef struct {
  const int32_t* rows;
  int32_t capacity, width;
  const float *weight, *value;  // [rows, width]
  double* sum;                  // [1] added to
} credence_weighted_sum;

// sum += (s - target[r])^2 over all r, s = sigmoid(z[r]) (Brier 1950), and its gradient dz = 2 (s - target) s (1 - s).
typedef struct {
  const int32_t* rows;
  int32_t capacity;
  const float *z, *target;  // [rows]
  float* dz;                // [rows]
  double* sum;              // [1] added to
} credence_squared_error;

// -------------------------------------------------------------------------------------------------------------- optimiser

// norm = sqrt(sum g^2), float64 inside, blocks in order.
typedef struct {
  int64_t count;
  const float* g;
  float* norm;  // [1]
} credence_gradient_norm;

// AdamW (Loshchilov & Hutter 2019, algorithm 2), over [begin, end) of the flat buffers:
//   g' = g gradient_scale clip, clip = max_norm > 0 ? min(1, max_norm / (norm gradient_scale + 1e-6)) : 1
//   m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2;  p = p (1 - lr wd);  p -= lr (m / c1) / (sqrt(v / c2) + eps)
//   average += (1 - average_decay) (p - average), of the p just written: the exponential moving average of what is learnt
// Where the norm or the loss is not finite nothing moves: the host, which reads them after the step, finds p, m, v and average as
// they were.
typedef struct {
  int64_t begin, end;
  float *p, *m, *v;
  const float* g;
  const float* norm;  // [1] of the whole gradient before gradient_scale, or null: no clip
  float gradient_scale, max_norm;
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;        // 1 for the first: c1 = 1 - b1^step
  const double* loss;  // [1] or null
  float* average;      // or null: none is kept
  double average_decay;
} credence_adamw;

// The advantage step of proximal policy optimisation. Of segment b's completion, tokens f .. l, those whose mask is not 0 count:
//   k      = estimate of the divergence from r = logprob - ref_logprob (Schulman 2020): r, r^2 / 2, e^-r - 1 + r; at least 0 if kl_clamp
//   reward = -kl_coefficient k + token_reward, and at score_at[b] (the last token that counts)
//            + clamp((score - score_shift) score_scale, +-score_clamp);
//            0 where a token does not count; whitened with the mean kept if whiten_rewards
//   A_t    = reward_t + gamma V_{t+1} - V_t + gamma lambda A_{t+1}     (Schulman et al. 2016, eq. 16), V 0 where a token does not
//            count, V_{l+1} = bootstrap[b] or 0;   returns = A + V
//   whitened = (A - mean) / sqrt(var + whiten_eps), + mean if keep_mean; 0 where a token does not count
// Moments are over the tokens that count, of all segments; the variance of fewer than two is 0. Outside completions all are 0.
// A batch that was padded on the right is told as segments of all its slots, logprob and ref_logprob equal at the padding.
typedef enum {
  CREDENCE_NOT_WHITENED = 0,
  CREDENCE_BIASED = 1,
  CREDENCE_UNBIASED = 2
} credence_whitening;  // by n, by n - 1

typedef struct {
  const int32_t* counts;  // T, B
  int32_t token_capacity, segment_capacity;
  const int32_t* cu_seqlens;
  const int32_t* completion_start;     // [B]
  const uint8_t* mask;                 // [T], or null: all of a completion counts
  const float *logprob, *ref_logprob;  // [T]; ref_logprob null: no divergence, and logprob is not read
  const float* value;                  // [T], or null: 0
  const float* token_reward;           // [T] what a token earns beside the score, or null: 0
  const float* score;                  // [B]
  const int32_t* score_at;             // [B] index in the segment, -1: nowhere; or null
  const float* bootstrap;  // [B] value after the last token of a truncated segment, 0 of one that ended; or null
  float kl_coefficient;
  int32_t kl_estimator, kl_clamp;
  float score_shift, score_scale, score_clamp;  // score_clamp 0: not clamped
  float gamma, lambda;
  credence_whitening whiten_rewards, whiten_advantages;
  int32_t keep_mean;
  float whiten_eps;
  float *reward, *advantage, *returns;  // [T]
  float* whitened;                      // [T] the advantages as a loss takes them, or null
  double* moments;  // [6] n, mean, sum of squared deviations of the advantages; of the rewards before whitening, or 0
} credence_advantage;

// The losses of proximal policy optimisation over rows of sampled tokens, as sums: whoever learns divides once. What a row with
// weight 0 holds is not read; its gradient is 0. With r = logprob - old_logprob and ratio = e^r (Schulman et al. 2017, eq. 7):
//   loss = sum w (max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)) + kl_coefficient k - entropy_coefficient H),
// k the estimator 1, 2 or 3 (credence_advantage) of the divergence from the reference, H the entropy of the row before the token.
typedef struct {
  double weight;        // sum w
  double policy;        // sum w max(..), without divergence and entropy
  double ratio;         // sum w ratio
  double clipped;       // sum w where clipping binds: its term is the larger, and the gradient 0
  double outside;       // sum w where the ratio is outside the range
  double old_kl1;       // sum w -r
  double old_kl2;       // sum w r^2 / 2
  double reference_kl;  // sum w k, without the coefficient; 0 without a reference
  double entropy;       // sum w H, without the coefficient; 0 where entropy is not given
  double ratio_change;  // largest |ratio - 1| where w is not 0
} credence_policy_sums;

typedef struct {
  const int32_t* rows;
  int32_t capacity;
  const float *logprob, *old_logprob, *advantage, *weight;  // [rows]
  const float* ref_logprob;                                 // [rows], or null: no divergence
  const float* entropy;                                     // [rows], or null: none
  float clip_low, clip_high;                                // inf: not clipped there
  float kl_coefficient;
  int32_t kl_estimator;
  float entropy_coefficient;
  float* d_logprob;            // [rows] d loss / d logprob
  float* d_entropy;            // [rows] d loss / d entropy, or null
  credence_policy_sums* sums;  // [1] added to; of ratio_change the larger
  double* loss;                // [1] added to, or null
} credence_policy_loss;

// loss = 0.5 sum w max((v - R)^2, (old + clip(v - old, -c, c) - R)^2), or of the first square alone where c is 0 (Schulman et
// al. 2017 as TRL and AlpacaFarm have it).
typedef struct {
  double weight;   // sum w
  double loss;     // the sum above
  double error;    // sum w (v - R)^2
  double clipped;  // sum w where clipping binds
} credence_value_sums;

typedef struct {
  const int32_t* rows;
  int32_t capacity;
  const float *value, *old_value, *returns, *weight;  // [rows]; old_value is not read without a clip
  float clip, coefficient;
  float* d_value;             // [rows] coefficient d loss / d value
  credence_value_sums* sums;  // [1] added to
  double* loss;               // [1] coefficient loss, added to; or null
} credence_value_loss;

// ------------------------------------------------------------------------------------------------------------------ table

// Every operator, once. CREDENCE_OPERATORS(X) is expanded into the table below and wherever all of them are listed.
// clang-format off: a list, not calls
#define CREDENCE_OPERATORS(X)                                                                                  \
  X(embed) X(norm) X(attention_input) X(attention) X(project) X(mlp_input)                                     \
  X(norm_backward) X(project_backward) X(mlp_input_backward) X(attention_backward) X(attention_input_backward) \
  X(embed_backward) X(token_logprobs) X(closed_set) X(divergence) X(pool) X(pool_backward) X(dense)            \
  X(dense_backward) X(sample) X(weighted_sum) X(squared_error) X(gradient_norm) X(adamw) X(advantage)         \
  X(policy_loss) X(value_loss)
// clang-format on

typedef credence_pool credence_pool_backward;

// Bytes of a back end's allocations as they occupy memory, rounding included. Weights and adapters are part of current.
typedef struct {
  size_t current, peak, weights, adapters;
} credence_memory;

typedef struct credence_table {
  int32_t version;   // CREDENCE_TABLE_VERSION
  const char* name;  // "cpu", "cuda", "cuda-emulated"
  const char* isa;   // "scalar", "avx2", "avx512", "avx512bf16", "sm_90a", ...
  // null if the table runs on this machine, else why not (host string)
  const char* (*unavailable)(void);
  credence_backend* (*open)(int32_t device, int32_t threads, char* error, size_t error_bytes);
  // A back end that counts memory and has none: alloc, pack and pack_lora count what they would take and give handles and
  // addresses that may not be followed (nothing is asked of a matrix's source); read gives zeros, write, fill and copies do
  // nothing. Of the operators only their workspace is asked. A pass over it tells its memory to the byte.
  credence_backend* (*open_dry)(char* error, size_t error_bytes);
  void (*close)(credence_backend*);
  const char* (*last_error)(credence_backend*);

  void* (*alloc)(credence_backend*, size_t bytes);  // 64-byte aligned; null and last_error when there is no memory
  void (*free)(credence_backend*, void*);
  credence_memory (*memory)(credence_backend*,
                            int32_t restart_peak);  // restart_peak: from now on the peak begins at current
  void (*limit)(credence_backend*, size_t bytes);   // what would go beyond fails; 0: none
  int (*copy)(credence_backend*, void* to, const void* from, size_t bytes);  // device to device
  int (*write)(credence_backend*, void* device, const void* host, size_t bytes);
  int (*read)(credence_backend*, void* host, const void* device, size_t bytes);  // the only read-back; waits
  int (*fill)(credence_backend*, void* device, int32_t byte, size_t bytes);
  int (*synchronise)(credence_backend*);
  credence_event* (*event)(credence_backend*);  // recorded now
  int (*wait)(credence_backend*, credence_event*);
  double (*elapsed_ms)(credence_backend*, credence_event* from, credence_event* to);
  void (*free_event)(credence_backend*, credence_event*);
  // How often the host has waited for the device since it was opened.
  int64_t (*waits)(credence_backend*);

  // Launches, copies and fills after record() are kept, not run; replay() runs what recorded() gave, in order, as often as is
  // asked, on what then stands in device memory. Capacities, widths and pointers are the recording's, and so is what a structure
  // says by value: the rates and the step of adamw, the key of dropout. The memory it points to must stay. While recording,
  // what needs the host is an error: write, read, synchronise, event, alloc, pack. Null where a launch costs next to nothing.
  int (*record)(credence_backend*);
  credence_graph* (*recorded)(credence_backend*);  // ends the recording; null and last_error where it failed
  int (*replay)(credence_backend*, credence_graph*);
  void (*free_graph)(credence_backend*, credence_graph*);

  // Null while every product gives a row the same bits in any batch, as far as the back end has checked it; else which does not
  // (host string). Then a token may score otherwise than when it was sampled: what learns from samples has to score them again.
  const char* (*rows_differ)(credence_backend*);
  // y[m, n] = sum over k of x[m, k] w[n, k] by the library of products alone, x and w of dtype, y float32, all without padding:
  // the yardstick beside which a product's rate is quoted. Null where products are the back end's own (credence_cpu_peak).
  int (*bare_product)(credence_backend*, int64_t m, int64_t n, int64_t k, credence_dtype dtype, const void* x,
                      const void* w, float* y);

  credence_weights* (*pack)(credence_backend*, const credence_weights_source*);
  int (*repack)(credence_backend*, credence_weights*, const float* master);  // device master [rows, columns]
  void (*free_weights)(credence_backend*, credence_weights*);
  credence_lora* (*pack_lora)(credence_backend*, const credence_lora_layout*, const float* parameters);
  int (*repack_lora)(credence_backend*, credence_lora*, const float* parameters);  // after an optimiser step
  void (*free_lora)(credence_backend*, credence_lora*);
  size_t (*page_bytes)(const credence_shape*, credence_dtype);  // one page of one layer, keys and values
  int (*copy_page)(credence_backend*, const credence_shape*, credence_dtype, void* pages, int32_t to, int32_t from);

#define CREDENCE_ENTRY(name)                          \
  size_t (*name##_workspace)(const credence_##name*); \
  int (*name)(credence_backend*, const credence_##name*, void* workspace);
  CREDENCE_OPERATORS(CREDENCE_ENTRY)
#undef CREDENCE_ENTRY
} credence_table;

#define CREDENCE_TABLE_VERSION 4

// The tables of the CPU that this build has, best first; count in *count. An operator a table does not have is null.
const credence_table* const* credence_cpu_tables(int32_t* count);
// Runs `rounds` rounds of an instruction set's widest multiply-add on the calling thread and returns the operations done, two
// a multiply-add: of the dot product of bf16 where the instruction set has one, else of float32, which a product in bf16 then
// is made of. 0 where there is no such instruction set. The yardstick beside which a rate is quoted.
double credence_cpu_peak(const char* isa, credence_dtype dtype, int64_t rounds);
// Why there is no CUDA table, or null and the table. (The library beside the addon is opened when asked for.)
const credence_table* credence_cuda_table(const char** reason);
// The same of the CUDA kernels executed on the CPU, for tests: its devices 0, 1 and 2 take warps forward, backward, shuffled.
const credence_table* credence_cuda_emulated_table(const char** reason);

#ifdef __cplusplus
}
#endif
#endif  // CREDENCE_KERNELS_H_
