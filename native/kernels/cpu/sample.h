// One token a row (kernels.h, credence_sample), from the logits of vocabulary.h, so that its log-probability is what
// token_logprobs gives.
//
// Short cuts (top-k up to 1024, or the largest): while a block's logits are in L1, those that may still be among the row's k
// largest go to a short list; the list's k-th largest so far is the next block's threshold, shared by all threads. Whatever the
// threshold was, the k best that remain, by falling value and rising id, are the same. Other rows keep their logits whole, in
// passes of 48 rows, and are put in order as far as the drawn mass needs.
#pragma once

#include <math.h>
#include <stdint.h>

#include <algorithm>

#include "backend.h"
#include "checks.h"
#include "linear.h"
#include "row_step.h"
#include "vocabulary.h"

namespace credence::cpu {

static constexpr int kShortTopK = 1024;
static constexpr int kSampleParts = 16;  // runs of the vocabulary, and short lists a row has room for
static constexpr int kListRoom = 2 * kShortTopK + 2 * kVocabularyBlock;
static constexpr int kWholeRows = 48;

// Of one instruction set, and so are the standard algorithms that sort it: the linker must not share them between files.
template <class Isa>
struct CandidateOf {
  float value;
  int32_t id;
};

// Falling value, rising id.
template <class Isa>
struct BeforeOf {
  bool operator()(const CandidateOf<Isa>& a, const CandidateOf<Isa>& b) const {
    return a.value > b.value || (a.value == b.value && a.id < b.id);
  }
};

struct SamplePlan {
  int64_t blocks, part_blocks, words;                                 // words: of a row's bit map of seen ids
  size_t sums, thresholds, counts, seen, lists, whole, order, bytes;  // offsets of what lies in the workspace
};

static inline SamplePlan sample_plan(const credence_sample* p) {
  SamplePlan plan;
  size_t at = 0;
  const auto place = [&](size_t bytes) {
    const size_t begin = at;
    at += (bytes + 63) / 64 * 64;
    return begin;
  };
  const size_t rows = p->capacity;
  plan.blocks = vocabulary_blocks(p->vocabulary);
  plan.part_blocks = ceil_div(plan.blocks, kSampleParts);
  plan.words = plan.blocks * kVocabularyBlock / 64;
  const size_t wide = plan.blocks * kVocabularyBlock;
  plan.sums = place(rows * plan.blocks * sizeof(BlockSums));
  plan.thresholds = place(rows * sizeof(float));
  plan.counts = place(rows * kSampleParts * sizeof(int32_t));
  plan.seen = place(p->seen ? rows * plan.words * sizeof(uint64_t) : 0);
  plan.lists = place(rows * kSampleParts * kListRoom * (sizeof(float) + sizeof(int32_t)));
  plan.whole = place(static_cast<size_t>(least(rows, kWholeRows)) * wide * sizeof(float));
  plan.order = place(static_cast<size_t>(least(rows, kWholeRows)) * wide * (sizeof(float) + sizeof(int32_t)));
  plan.bytes = at;
  return plan;
}

template <class Isa, class T>
struct SamplePass {
  using Candidate = CandidateOf<Isa>;
  using Before = BeforeOf<Isa>;

  credence_backend* backend;
  const credence_sample* p;
  const SamplePlan& plan;
  char* workspace;

  BlockSums* sums(int64_t r) const { return reinterpret_cast<BlockSums*>(workspace + plan.sums) + r * plan.blocks; }
  float* threshold(int64_t r) const { return reinterpret_cast<float*>(workspace + plan.thresholds) + r; }
  int32_t* listed(int64_t r) const { return reinterpret_cast<int32_t*>(workspace + plan.counts) + r * kSampleParts; }
  uint64_t* seen(int64_t r) const { return reinterpret_cast<uint64_t*>(workspace + plan.seen) + r * plan.words; }
  Candidate* list(int64_t r, int64_t slot) const {
    return reinterpret_cast<Candidate*>(workspace + plan.lists) + (r * kSampleParts + slot) * kListRoom;
  }
  float* whole(int64_t i) const {
    return reinterpret_cast<float*>(workspace + plan.whole) + i * plan.blocks * kVocabularyBlock;
  }
  Candidate* order(int64_t i) const {
    return reinterpret_cast<Candidate*>(workspace + plan.order) + i * plan.blocks * kVocabularyBlock;
  }

  /// How many of the largest logits a row needs; 0: all of them.
  int32_t cut_of(int64_t r) const {
    if (p->temperature[r] == 0) return 1;
    const int32_t k = static_cast<int32_t>(least(p->top_k[r], p->vocabulary));
    return k > 0 ? k : 0;
  }
  bool is_short(int64_t r) const { return cut_of(r) > 0 && cut_of(r) <= kShortTopK; }
  bool penalised(int64_t r) const { return p->seen && p->repetition[r] != 1; }

  Product<T> product() const { return product_of<T>(static_cast<const T*>(p->h), p->ldh, p->weights); }

  void prepare(int64_t r) const {
    *threshold(r) = -INFINITY;
    memset(listed(r), 0, kSampleParts * sizeof(int32_t));
    if (!penalised(r)) return;
    memset(seen(r), 0, plan.words * sizeof(uint64_t));
    for (int32_t i = p->seen_offsets[r]; i < p->seen_offsets[r + 1]; ++i)
      seen(r)[p->seen[i] / 64] |= uint64_t{1} << p->seen[i] % 64;
  }

  // The repetition penalty on a block's logits.
  void penalise(int64_t r, int64_t block, float* z) const {
    if (!penalised(r)) return;
    constexpr int kWords = kVocabularyBlock / 64;
    for (int w = 0; w < kWords; ++w)
      for (uint64_t bits = seen(r)[block * kWords + w]; bits; bits &= bits - 1) {
        float& x = z[w * 64 + __builtin_ctzll(bits)];
        x = x > 0 ? x / p->repetition[r] : x * p->repetition[r];
      }
  }

  static float relaxed_load(const float* from) {
    float value;
    __atomic_load(from, &value, __ATOMIC_RELAXED);
    return value;
  }

  // Cuts a list to its k best; the last of them bounds what can still be among the row's k best.
  void shorten(int64_t r, int64_t slot, int32_t k) const {
    int32_t& count = listed(r)[slot];
    if (count <= k) return;
    Candidate* all = list(r, slot);
    std::nth_element(all, all + k - 1, all + count, Before());
    count = k;
    const float bound = all[k - 1].value;
    // Two threads may both find theirs the higher one; the lower one, if it stays, is a threshold too.
    if (bound > relaxed_load(threshold(r))) __atomic_store(threshold(r), &bound, __ATOMIC_RELAXED);
  }

  // Appends what reaches the row's threshold.
  void collect(int64_t r, int64_t slot, int64_t block, const float* z, int count) const {
    const int32_t k = cut_of(r);
    const float bound = relaxed_load(threshold(r));
    const auto low = Isa::set(bound);
    int32_t& length = listed(r)[slot];
    Candidate* to = list(r, slot);
    for (int i = 0; i < count; i += Isa::W) {
      const auto lanes = Isa::first(count - i);
      const auto x = Isa::load(z + i, lanes);
      uint32_t bits = (Isa::bits(Isa::less(low, x)) | Isa::bits(Isa::equal(low, x))) & Isa::bits(lanes);
      for (; bits; bits &= bits - 1) {
        const int at = i + __builtin_ctz(bits);
        to[length++] = {z[at], static_cast<int32_t>(block * kVocabularyBlock + at)};
      }
    }
    if (length >= k + k / 2 + 16) shorten(r, slot, k);
  }

  // Rows [row0, row1): sums of all, short lists, and whole rows of those that have no short cut.
  void read(int64_t row0, int64_t row1) const {
    const bool by_thread = backend->pool.threads() <= kSampleParts;
    backend->pool.parallel(ceil_div(plan.blocks, plan.part_blocks), [&](int64_t part, int thread) {
      // A thread that goes on with its own list has the better threshold at once.
      const int64_t slot = by_thread ? thread : part;
      const int64_t last = least((part + 1) * plan.part_blocks, plan.blocks);
      visit_blocks<Isa, T>(product(), row0, row1, part * plan.part_blocks, last, p->vocabulary,
                           [&](int64_t r, int64_t block, float* z, int count) {
                             sums(r)[block] = block_sums<Isa>(z, count, false);
                             penalise(r, block, z);
                             if (is_short(r)) collect(r, slot, block, z, count);
                             else memcpy(whole(r - row0) + block * kVocabularyBlock, z, count * sizeof(float));
                           });
      for (int64_t r = row0; r < row1; ++r)
        if (is_short(r)) shorten(r, slot, cut_of(r));
    });
  }

  // The logit of one token before any penalty.
  float raw_logit(int64_t r, int32_t id) const {
    alignas(64) float out[kPanel];
    tile_of<Isa, T>(product(), r, 1, id / kPanel, 1, out, kPanel);
    return out[id % kPanel];
  }

  void choose(int64_t r, const Candidate& chosen, double share) const {
    const bool changed = penalised(r) && (seen(r)[chosen.id / 64] >> chosen.id % 64 & 1);
    const float z = changed ? raw_logit(r, chosen.id) : chosen.value;
    p->token[r] = chosen.id;
    p->logprob[r] = z - combine_blocks<Isa>(sums(r), plan.blocks).lse;
    if (p->logprob_cut) p->logprob_cut[r] = static_cast<float>(log(share));
  }

  // From candidates in order, of which `kept` count and weigh `total` together; weigh(i) is what candidate i weighs, candidates
  // beyond `ready` are put in order when they are needed.
  template <class Weigh, class More>
  void draw(int64_t r, const Candidate* in_order, int64_t kept, double total, const Weigh& weigh,
            const More& more) const {
    double mass = 0;
    if (p->top_p[r] < 1) {
      for (int64_t i = 0; i < kept; ++i) {
        more(i);
        mass += weigh(i);
        if (mass >= p->top_p[r] * total) {
          kept = i + 1;
          break;
        }
      }
    } else {
      mass = total;
    }
    double sum = 0;
    int64_t i = 0;
    for (;; ++i) {
      more(i);
      sum += weigh(i);
      if (sum > p->uniform[r] * mass || i + 1 == kept) break;
    }
    choose(r, in_order[i], weigh(i) / mass);
    if (!p->probabilities) return;
    float* out = p->probabilities + r * p->vocabulary;
    memset(out, 0, p->vocabulary * sizeof(float));
    for (int64_t j = 0; j < kept; ++j) {
      more(j);
      out[in_order[j].id] = static_cast<float>(weigh(j) / mass);
    }
  }

  bool draw_short(int64_t r) const {
    const int32_t k = cut_of(r);
    Candidate* all = list(r, 0);  // lists follow each other: the first one's room takes k of each as they come
    int32_t count = listed(r)[0];
    for (int64_t slot = 1; slot < kSampleParts; ++slot) {
      const Candidate* from = list(r, slot);
      for (int32_t i = 0; i < listed(r)[slot]; ++i)
        if (from[i].value >= *threshold(r)) all[count++] = from[i];
      if (count > k) {
        std::nth_element(all, all + k - 1, all + count, Before());
        count = k;
      }
    }
    if (count == 0) return false;
    std::sort(all, all + count, Before());
    const double temperature = p->temperature[r];
    double weights[kShortTopK], total = 0;
    for (int32_t i = 0; i < count; ++i)
      total += weights[i] =
          i == 0 || temperature == 0 ? 1 : exp((static_cast<double>(all[i].value) - all[0].value) / temperature);
    draw(r, all, count, total, [&](int64_t i) { return weights[i]; }, [](int64_t) {});
    return true;
  }

  // Candidates [from, to) of a row's logits by value, in the order of ids; returns how many.
  int64_t take(const float* z, float from, float to, Candidate* out) const {
    const auto low = Isa::set(from), high = Isa::set(to);
    int64_t count = 0;
    for (int64_t i = 0; i < p->vocabulary; i += Isa::W) {
      const auto lanes = Isa::first(p->vocabulary - i);
      const auto x = Isa::load(z + i, lanes);
      uint32_t bits = (Isa::bits(Isa::less(low, x)) | Isa::bits(Isa::equal(low, x))) & Isa::bits(lanes);
      bits &= to == INFINITY ? ~0u : Isa::bits(Isa::less(x, high));
      for (; bits; bits &= bits - 1) {
        const int64_t at = i + __builtin_ctz(bits);
        out[count++] = {z[at], static_cast<int32_t>(at)};
      }
    }
    return count;
  }

  // Nearly all the mass lies within kNear of the largest: the others are listed only if the drawn number goes beyond.
  bool draw_whole(int64_t r, int64_t row0) const {
    constexpr float kNear = 10;  // exponents: each of the others weighs less than e^-10 of the largest
    const int64_t vocabulary = p->vocabulary;
    const float* z = whole(r - row0);
    Candidate* all = order(r - row0);
    int64_t count = 0;
    typename Isa::F high = Isa::set(-INFINITY);
    for (int64_t i = 0; i < vocabulary; i += Isa::W) {
      const auto x = Isa::load(z + i, Isa::first(vocabulary - i));
      const auto numbers = Isa::both(Isa::first(vocabulary - i), Isa::equal(x, x));
      high = Isa::max(high, Isa::select(numbers, x, Isa::set(-INFINITY)));
      count += __builtin_popcount(Isa::bits(numbers));
    }
    if (count == 0) return false;
    const float most = Isa::reduce_max(high), factor = std::min(1 / p->temperature[r], 1e30f);
    const auto weigh = [&](int64_t i) { return static_cast<double>(exp_of<Isa>((all[i].value - most) * factor)); };
    int64_t kept = count, ready = 0, listed = 0;
    const float near = most - kNear / std::max(factor, 1e-30f);
    double total = 0;
    if (cut_of(r) > 0 && cut_of(r) < count) {
      kept = cut_of(r);
      take(z, -INFINITY, INFINITY, all);
      std::nth_element(all, all + kept - 1, all + count, Before());
      std::sort(all, all + kept, Before());
      ready = listed = kept;
      for (int64_t i = 0; i < kept; ++i) total += weigh(i);
    } else {
      listed = take(z, near, INFINITY, all);
      // In the order of ids, whatever order the candidates are brought into.
      for (int64_t block = 0; block < plan.blocks; ++block) {
        typename Isa::F sum = Isa::zero();
        const int64_t end = least(vocabulary, (block + 1) * kVocabularyBlock);
        for (int64_t i = block * kVocabularyBlock; i < end; i += Isa::W) {
          const auto lanes = Isa::first(end - i);
          const auto x = Isa::load(z + i, lanes);
          const auto e = Isa::exp(Isa::mul(Isa::sub(x, Isa::set(most)), Isa::set(factor)));
          sum = Isa::add(sum, Isa::select(Isa::both(lanes, Isa::equal(x, x)), e, Isa::zero()));
        }
        total += Isa::reduce_add(sum);
      }
    }
    const auto more = [&](int64_t i) {
      while (i >= ready) {
        if (ready == listed) listed += take(z, -INFINITY, near, all + listed);
        const int64_t next = least(listed, ready ? ready * 8 : 1024);
        if (next < listed) std::nth_element(all + ready, all + next, all + listed, Before());
        std::sort(all + ready, all + next, Before());
        ready = next;
      }
    };
    draw(r, all, kept, total, weigh, more);
    return true;
  }

  int run() const {
    const int64_t rows = *p->rows;
    bool all_short = true;
    for (int64_t r = 0; r < rows; ++r) {
      all_short = all_short && is_short(r);
      if (!penalised(r)) continue;
      for (int32_t i = p->seen_offsets[r]; i < p->seen_offsets[r + 1]; ++i)
        if (int error = check(backend, "sample", fault_of_seen(static_cast<int32_t>(r), p->seen[i], p->vocabulary)))
          return error;
    }
    const int64_t step = all_short ? rows : kWholeRows;
    int32_t lost = -1;
    for (int64_t row0 = 0; row0 < rows; row0 += step) {
      const int64_t row1 = least(rows, row0 + step);
      for (int64_t r = row0; r < row1; ++r) prepare(r);
      read(row0, row1);
      backend->pool.parallel(row1 - row0, [&](int64_t i, int) {
        const int64_t r = row0 + i;
        if (!(is_short(r) ? draw_short(r) : draw_whole(r, row0)))
          __atomic_store_n(&lost, static_cast<int32_t>(r), __ATOMIC_RELAXED);
      });
    }
    return lost < 0 ? 0 : check(backend, "sample", {FaultKind::not_numbers, lost, 0, 0, 0});
  }
};

template <class Isa>
size_t sample_workspace(const credence_sample* p) {
  return sample_plan(p).bytes;
}

template <class Isa>
int sample(credence_backend* backend, const credence_sample* p, void* workspace) {
  const SamplePlan plan = sample_plan(p);
  if (p->dtype == CREDENCE_BF16) return SamplePass<Isa, bf16>{backend, p, plan, static_cast<char*>(workspace)}.run();
  return SamplePass<Isa, float>{backend, p, plan, static_cast<char*>(workspace)}.run();
}

}  // namespace credence::cpu
