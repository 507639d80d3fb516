#include "graph.h"

#include <memory>
#include <new>

namespace credence::cuda {

namespace {

struct Graph {
  Owned<cudaGraphExec_t, &cudaGraphExecDestroy> ready;  // null on a dry back end
};

}  // namespace

int record(credence_backend* handle) {
  Backend& backend = of(handle);
  if (backend.recording) return fail(backend, "record: launches are being recorded already");
  if (!backend.dry) {
    if (int error = check(backend, cudaSetDevice(backend.device), "record")) return error;
    // What other threads ask of CUDA meanwhile is no part of it.
    const auto status = cudaStreamBeginCapture(backend.stream, cudaStreamCaptureModeThreadLocal);
    if (int error = check(backend, status, "record")) return error;
  }
  backend.recording = true;
  return 0;
}

credence_graph* recorded(credence_backend* handle) {
  Backend& backend = of(handle);
  if (!backend.recording) {
    fail(backend, "recorded: no launches were being recorded");
    return nullptr;
  }
  backend.recording = false;
  std::unique_ptr<Graph> made(new (std::nothrow) Graph);
  Owned<cudaGraph_t, &cudaGraphDestroy> graph;
  const bool ended = backend.dry || !check(backend, cudaStreamEndCapture(backend.stream, graph.out()), "recorded");
  if (!made) fail(backend, "not enough memory for a graph");
  if (!made || !ended) return nullptr;
  if (!backend.dry && check(backend, cudaGraphInstantiate(made->ready.out(), graph, 0), "recorded")) return nullptr;
  return reinterpret_cast<credence_graph*>(made.release());
}

int replay(credence_backend* handle, credence_graph* graph) {
  Backend& backend = of(handle);
  if (int error = refuse_recording(backend, "replay")) return error;
  if (backend.dry) return 0;
  if (int error = check(backend, cudaSetDevice(backend.device), "replay")) return error;
  ++backend.replays;
  return check(backend, cudaGraphLaunch(reinterpret_cast<Graph*>(graph)->ready, backend.stream), "replay");
}

void free_graph(credence_backend*, credence_graph* graph) { delete reinterpret_cast<Graph*>(graph); }

}  // namespace credence::cuda
