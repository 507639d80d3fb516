// What `credence bench` measures: workloads that run beside a peer (the same tokens, shapes and model file), and kernels. Each
// document says beside its figures the peaks of the same process, and what this machine lacks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base.h"
#include "device.h"
#include "json.h"
#include "machine.h"

namespace credence {

struct BenchOptions {
  DeviceOptions device;
  std::string model;              // a folder or a GGUF; or
  std::string shape;              // random weights of a size (bench_shapes), no file
  std::string workload = "full";  // sft: "full" or "ragged"
  int batch = 0;                  // sft: sequences of a step, 0: 4; generate: sequences decoded together, 0: 1, then 16
  int length = 512;               // sft, full: tokens of a sequence; generate: tokens of the prompt that is prefilled
  int rank = 16;                  // sft
  // sft: "adapter"; "beside", the embeddings, head and norms beside it; "all", every weight and no adapter
  std::string train = "adapter";
  int repeats = 6;    // timed steps, or timed calls
  std::string only;   // kernels: one of kernel_groups; empty: all
  int tokens = 2048;  // kernels: rows of a micro-batch, a multiple of 64
};

/// "sft": LoRA steps (alpha twice the rank, seven projections, AdamW at 2e-4) as bench/peers/torch_lora_sft.py takes them, on
/// the same tokens. "full": every token supervised, two steps warm up. "ragged": 64 sequences of 40 to 200 tokens in eight
/// steps, the last fifth of each supervised; passes over them are a third of `repeats`.
/// "generate": prefill, and greedy decoding of 32 tokens behind prompts of 48, on the prompts of bench/peers/llama_cpp.mjs.
/// "samples": ten samples of 16 tokens for each of 16 questions, as bench/peers/torch_generate.py's ksamples.
/// "kernels": operators alone (bench_operators.h, bench_kernels.h), their rates and their share of the peak that binds them.
Json bench(const std::string& what, const BenchOptions& options);

/// Names of the sizes that `shape` knows: "15m", "42m", "135m", "360m", "1.1b".
std::vector<std::string> bench_shapes();
Family bench_shape(const std::string& name);

// ------------------------------------------------------------------------------------------------------------- workloads

Json bench_sft(const BenchOptions& options);
Json bench_generate(const BenchOptions& options);
Json bench_samples(const BenchOptions& options);
Json bench_kernel_lines(const BenchOptions& options);

// --------------------------------------------------------------------------------------------------- what workloads share

std::shared_ptr<Base> bench_base(const BenchOptions& options);
double median_of(std::vector<double> values);

/// Engine, model or shape, instruction set, type, threads.
Json bench_document(const BenchOptions& options, const Base& base);
/// {f32Gflops, bf16Gflops, readGBs}.
Json peaks_document(const Peaks& peaks);
/// What the figures would have on another machine and have not here, a sentence each.
Json lacks_of(const Device& device);

/// Multiply-adds of the block's matrices and of the head, a token; two FLOP each.
struct ModelWork {
  double blocks = 0, head = 0;  // elements
  double adapter = 0;           // of rank 1: the sum of in + out over a model's projections
  double attention = 0;         // FLOP a query-key pair, all layers
};
ModelWork work_of(const Family& family);

/// best, median and rates of timed calls, under tokens_per_s_best, tokens_per_s_median, ms_best, ms_median.
void set_rates(Json* out, double tokens, const std::vector<double>& seconds);

}  // namespace credence
