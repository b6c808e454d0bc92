// Streams are queues of work, and events are places in them. A lazy stream does its work when somebody waits for it,
// which is as late as any GPU could.
#include <unordered_map>

#include "stand_in.h"

struct Event {
  Stream* stream = nullptr;
  long recorded = 0, passed = 0;
  std::shared_ptr<Capture> capture;  // under which it was recorded
};

bool lazy = false;
static Stream default_streams[MAX_CARDS];
static std::set<Stream*> others;
static std::unordered_map<cudaEvent_t, std::shared_ptr<Event>> events;

Stream* stream_of(cudaStream_t handle) {
  touch();
  return !handle || handle == cudaStreamLegacy ? &default_streams[current] : (Stream*)handle;
}

static void do_next(Stream* stream) {
  Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  work();
}

void finish(Stream* stream) {
  while (!stream->queue.empty()) do_next(stream);
}

void finish_all() {
  for (Stream& stream : default_streams) finish(&stream);
  for (Stream* stream : others) finish(stream);
}

static void finish_until(Event& event, long version) {
  while (event.passed < version && !event.stream->queue.empty()) do_next(event.stream);
}

cudaError_t enqueue(Stream* stream, Work work) {
  if (Capture* capture = stream->capture.get()) {
    if (capture->spoilt) return remember(cudaErrorStreamCaptureInvalidated);
    capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->queue.push_back(std::move(work));
  if (!lazy) finish(stream);
  return cudaSuccess;
}

static bool is_captured(const Event& event) { return event.capture && !event.capture->streams.empty(); }

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int priority) {
  CALL();
  touch();
  auto* stream = new Stream;
  stream->priority = priority;
  others.insert(stream);
  *handle = (cudaStream_t)stream;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
  return cudaStreamCreateWithPriority(handle, flags, 0);
}

cudaError_t cudaStreamGetPriority(cudaStream_t handle, int* priority) {
  return *priority = stream_of(handle)->priority, cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  finish(stream_of(handle));
  return fault;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  return stream_of(handle)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  CALL();
  Stream* stream = stream_of(handle);
  auto event = events.at(event_handle);
  if (is_captured(*event)) {  // the stream joins the capture
    stream->capture = event->capture;
    event->capture->streams.insert(stream);
    return cudaSuccess;
  }
  if (stream->capture) return violate("a wait for an event from outside the capture", stream->capture.get());
  return enqueue(stream, [event, version = event->recorded] { finish_until(*event, version); });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned) {
  CALL();
  touch();
  auto event = std::make_shared<Event>();
  *handle = (cudaEvent_t)event.get();
  events[*handle] = event;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* handle) { return cudaEventCreateWithFlags(handle, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  events.erase(handle);
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t handle, cudaStream_t stream, unsigned) {
  CALL();
  auto event = events.at(handle);
  event->stream = stream_of(stream);
  event->capture = event->stream->capture;
  if (event->capture) return cudaSuccess;
  return enqueue(event->stream, [event, version = ++event->recorded] { event->passed = version; });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  return cudaEventRecordWithFlags(handle, stream, 0);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  CALL();
  auto event = events.at(handle);
  if (is_captured(*event)) return violate(__func__, event->capture.get());
  if (event->stream) finish_until(*event, event->recorded);
  return fault;
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  auto event = events.at(handle);
  return event->passed == event->recorded ? cudaSuccess : remember(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  static int calls = 0;  // a compiler that times kernels is to find none of them faster, nor two the same
  return *ms = 1.0f + 1e-6f * float(calls++ % 7), cudaSuccess;
}

}  // extern "C"
