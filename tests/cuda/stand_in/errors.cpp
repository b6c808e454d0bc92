// Errors: the last one of a thread, the fault after which a device is lost, and their names.
#include "stand_in.h"

std::recursive_mutex mutex;
cudaError_t fault = cudaSuccess;
static thread_local cudaError_t last = cudaSuccess;

cudaError_t remember(cudaError_t error) { return last = error; }

extern "C" {

cudaError_t cudaPeekAtLastError() { return fault ? fault : last; }
cudaError_t cudaGetLastError() {
  if (fault) return fault;
  cudaError_t error = last;
  last = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    default: return "cudaErrorUnknown";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    default: return "unknown error";
  }
}

}  // extern "C"
