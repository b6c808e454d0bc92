// The cards that can be stood in for, and what is asked about them.
#include <cstdlib>
#include <cstring>

#include "stand_in.h"

static const Card CARDS[] = {
    {"4090", "NVIDIA GeForce RTX 4090", 8, 9, 128, 23.52, 101376, 102400, 75497472, 1536, 384, 10501000},
    {"3090", "NVIDIA GeForce RTX 3090", 8, 6, 82, 23.56, 101376, 102400, 6291456, 1536, 384, 9751000},
    {"l4", "NVIDIA L4", 8, 9, 58, 22.03, 101376, 102400, 50331648, 1536, 192, 6251000},
    {"h100", "NVIDIA H100 80GB HBM3", 9, 0, 132, 79.18, 232448, 233472, 52428800, 2048, 5120, 2619000},
};

const Card& card() {
  static const Card* chosen = [] {
    const char* key = getenv("STANDIN_CARD");
    for (const Card& one : CARDS)
      if (key && !strcmp(key, one.key)) return &one;
    return CARDS;
  }();
  return *chosen;
}

int card_count() {
  static const int count = getenv("STANDIN_CARDS") ? atoi(getenv("STANDIN_CARDS")) : 1;
  return count;
}

thread_local int current = 0;
bool touched[MAX_CARDS];
void touch() { touched[current] = true; }

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) { return *count = card_count(), *count ? cudaSuccess : cudaErrorNoDevice; }
cudaError_t cudaGetDevice(int* device) { return *device = current, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* most) { return *least = 0, *most = -5, cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= card_count()) return remember(cudaErrorInvalidDevice);
  current = device;
  touch();  // since CUDA 12
  return fault;
}

cudaError_t cudaDeviceSynchronize() {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  finish_all();
  return fault;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = cudaDeviceProp{};
  auto& p = *properties;
  strcpy(p.name, card().name);
  p.totalGlobalMem = size_t(card().gib * (1 << 30));
  p.major = card().major, p.minor = card().minor;
  p.multiProcessorCount = card().multiprocessors;
  p.warpSize = 32;
  p.maxThreadsPerBlock = p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 2147483647, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.maxThreadsPerMultiProcessor = card().threads_per_multiprocessor;
  p.maxBlocksPerMultiProcessor = 24;
  p.sharedMemPerBlock = 49152;
  p.sharedMemPerBlockOptin = card().shared_per_block;
  p.sharedMemPerMultiprocessor = card().shared_per_multiprocessor;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.l2CacheSize = card().l2_bytes;
  p.memoryBusWidth = card().bus_bits;
  p.totalConstMem = 65536;
  p.textureAlignment = 512;
  p.unifiedAddressing = p.managedMemory = p.concurrentKernels = p.cooperativeLaunch = 1;
  p.pciBusID = 1 + device;
  for (int i = 0; i < 16; i++) p.uuid.bytes[i] = char(i + device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = [attribute] {
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
      case cudaDevAttrMaxBlockDimZ: return 64;
      case cudaDevAttrMaxGridDimX: return 2147483647;
      case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
      case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin: return card().shared_per_block;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return card().shared_per_multiprocessor;
      case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
      case cudaDevAttrWarpSize: return 32;
      case cudaDevAttrClockRate: return 2520000;
      case cudaDevAttrMemoryClockRate: return card().memory_khz;
      case cudaDevAttrGlobalMemoryBusWidth: return card().bus_bits;
      case cudaDevAttrL2CacheSize: return card().l2_bytes;
      case cudaDevAttrMultiProcessorCount: return card().multiprocessors;
      case cudaDevAttrMaxThreadsPerMultiProcessor: return card().threads_per_multiprocessor;
      case cudaDevAttrComputeCapabilityMajor: return card().major;
      case cudaDevAttrComputeCapabilityMinor: return card().minor;
      case cudaDevAttrUnifiedAddressing: case cudaDevAttrConcurrentKernels: case cudaDevAttrCooperativeLaunch: return 1;
      default: return 0;
    }
  }();
  return cudaSuccess;
}

}  // extern "C"
