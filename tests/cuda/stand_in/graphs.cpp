// What a capture may contain, and what is replayed of it.
#include "stand_in.h"

static constexpr size_t NODE_BYTES = 700;  // what a kernel of a graph takes of the card: seen on others, 400 to 700

struct Graph {
  std::string name;
  std::vector<Work> work;
  int device;
};

std::vector<std::string> violations;
std::map<std::string, std::map<std::string, long>> captured;
static std::map<unsigned long long, std::shared_ptr<Capture>> captures;
static unsigned long long captures_begun = 0;
static thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;

cudaError_t violate(const char* what, Capture* capture) {
  capture->spoilt = true;
  violations.push_back(what);
  return remember(cudaErrorStreamCaptureUnsupported);
}

Capture* forbidding_capture() {
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return nullptr;
  for (auto& [id, capture] : captures) {
    const bool ours = pthread_equal(capture->thread, pthread_self());
    const bool global =
        mode_of_thread == cudaStreamCaptureModeGlobal && capture->mode == cudaStreamCaptureModeGlobal;
    if (global || (ours && capture->mode != cudaStreamCaptureModeRelaxed)) return capture.get();
  }
  return nullptr;
}

extern "C" {

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(*mode, mode_of_thread), cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  CALL();
  Stream* stream = stream_of(handle);
  if (!handle || stream->capture) return remember(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_shared<Capture>();
  stream->capture->mode = mode;
  stream->capture->id = ++captures_begun;
  stream->capture->thread = pthread_self();
  stream->capture->streams = {stream};
  captures[stream->capture->id] = stream->capture;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  CALL();
  auto capture = stream_of(handle)->capture;
  if (!capture) return remember(cudaErrorIllegalState);
  for (Stream* stream : capture->streams) stream->capture.reset();
  capture->streams.clear();
  captures.erase(capture->id);
  if (capture->spoilt) return *graph = nullptr, remember(cudaErrorStreamCaptureInvalidated);
  auto* made = new Graph{"graph " + std::to_string(capture->id), capture->work, current};
  captured[made->name] = capture->kernels;
  *graph = (cudaGraph_t)made;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id, cudaGraph_t* graph,
    const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges, size_t* count) {
  CALL();
  Capture* capture = stream_of(handle)->capture.get();
  *status = !capture           ? cudaStreamCaptureStatusNone
            : capture->spoilt ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
  if (capture && id) *id = capture->id;
  if (capture && graph) *graph = (cudaGraph_t)capture;
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = ((Graph*)graph)->work.size(), cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* instance, cudaGraph_t graph, unsigned long long) {
  CALL();
  auto* copy = new Graph(*(Graph*)graph);
  used[copy->device] += copy->work.size() * NODE_BYTES;
  *instance = (cudaGraphExec_t)copy;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t instance, cudaStream_t stream) {
  cudaError_t error = launch(stream, ((Graph*)instance)->name, 1, 1);
  for (const Work& work : ((Graph*)instance)->work)
    if (!error) error = enqueue(stream_of(stream), work);
  return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete (Graph*)graph, cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t instance) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  auto* graph = (Graph*)instance;
  used[graph->device] -= graph->work.size() * NODE_BYTES;
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
