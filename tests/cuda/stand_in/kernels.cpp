// Kernels are counted by their names and not run.
#include <unistd.h>

#include <cstdlib>
#include <unordered_map>

#include "stand_in.h"

static std::map<std::string, long> launched;
static std::unordered_map<const void*, std::string> names;
static std::unordered_map<const void*, void*> variables;

// Whoever wants a fault names a file in STANDIN_FAULT. The launch that finds it takes it away, and has failed.
static bool fault_is_due() {
  static const char* file = getenv("STANDIN_FAULT");
  return file && unlink(file) == 0;
}

cudaError_t launch(cudaStream_t handle, const std::string& name, dim3 grid, dim3 block) {
  CALL();
  if (fault_is_due()) return fault = cudaErrorIllegalAddress;
  if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535 || block.x * block.y * block.z > 1024)
    return remember(cudaErrorInvalidConfiguration);
  Stream* stream = stream_of(handle);
  ++(stream->capture ? stream->capture->kernels : launched)[name];
  return enqueue(stream, [] {});
}

struct Call {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
static thread_local std::vector<Call> calls;

extern "C" {

// ---- for the tests, which take them through ctypes
void standin_lazy(int on) { lazy = on; }
void standin_enqueue(void* stream, void (*work)(long), long id) {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  enqueue(stream_of((cudaStream_t)stream), [=] { work(id); });
}
int standin_capturing(void* stream) { return !!stream_of((cudaStream_t)stream)->capture; }
int standin_touched(int device) { return touched[device]; }
void standin_reset() {
  launched.clear();
  violations.clear();
}
// A line for each: its kind, its name, how often.
const char* standin_report() {
  std::lock_guard<std::recursive_mutex> guard(mutex);
  static std::string report;
  auto add = [](const std::string& kind, const std::string& name, long count) {
    report += kind + "\t" + name + "\t" + std::to_string(count) + "\n";
  };
  report.clear();
  for (auto& violation : violations) add("violation", violation, 1);
  for (auto& [name, count] : launched) add("launched", name, count);
  for (auto& [graph, kernels] : captured)
    for (auto& [name, count] : kernels) add(graph, name, count);
  return report.c_str();
}

// ---- what nvcc's code calls
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(
    void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  names[host] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  calls.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = calls.back().grid, *block = calls.back().block, *shared = calls.back().shared;
  *(void**)stream = calls.back().stream;
  calls.pop_back();
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  return *kernel = (cudaKernel_t)host, cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void**, size_t, cudaStream_t stream) {
  auto found = names.find(host);
  return launch(stream, found == names.end() ? "?" : found->second, grid, block);
}
cudaError_t __cudaLaunchKernel(
    cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host, void** arguments) {
  return cudaLaunchKernel(host, config->gridDim, config->blockDim, arguments, 0, config->stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 64;
  attributes->binaryVersion = attributes->ptxVersion = card().major * 10;
  attributes->maxDynamicSharedSizeBytes = card().shared_per_block;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  const bool shared = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize;
  return shared && value > card().shared_per_block ? remember(cudaErrorInvalidValue) : cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* count, const void*, int threads, size_t, unsigned) {
  *count = std::max(1, std::min(16, card().threads_per_multiprocessor / std::max(threads, 1)));
  return cudaSuccess;
}
cudaError_t cudaGetSymbolAddress(void** address, const void* symbol) {
  CALL();
  if (!variables[symbol]) cudaMalloc(&variables[symbol], 4096);
  return *address = variables[symbol], cudaSuccess;
}

}  // extern "C"
