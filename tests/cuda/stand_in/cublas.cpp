// cuBLAS and cuBLASLt: products are counted by their shapes and not computed. Their headers come with hundreds of
// megabytes of library, so that the functions are declared here; all that is an enum in them is an int.
#include <cstdio>
#include <cstring>

#include "stand_in.h"

enum Status { SUCCESS = 0, ALLOC_FAILED = 3, EXECUTION_FAILED = 13 };
struct Handle {
  cudaStream_t stream = nullptr;
  int math_mode = 0, pointer_mode = 0;
};
struct Layout {
  uint64_t rows, columns;
};

static Status product(cudaStream_t stream, const char* function, int64_t m, int64_t n, int batch) {
  char name[100];
  snprintf(name, sizeof name, "cublas %s m=%ld n=%ld batch=%d", function, m, n, batch);
  return launch(stream, name, 1, 128) ? EXECUTION_FAILED : SUCCESS;
}

extern "C" {

Status cublasCreate_v2(Handle** handle) {
  void* workspace;
  if (cudaMalloc(&workspace, 4 << 20)) return ALLOC_FAILED;
  return *handle = new Handle, SUCCESS;
}
Status cublasDestroy_v2(Handle*) { return SUCCESS; }
Status cublasSetStream_v2(Handle* handle, cudaStream_t stream) { return handle->stream = stream, SUCCESS; }
Status cublasSetWorkspace_v2(Handle*, void*, size_t) { return SUCCESS; }
Status cublasSetMathMode(Handle* handle, int mode) { return handle->math_mode = mode, SUCCESS; }
Status cublasGetMathMode(Handle* handle, int* mode) { return *mode = handle->math_mode, SUCCESS; }
Status cublasSetPointerMode_v2(Handle* handle, int mode) { return handle->pointer_mode = mode, SUCCESS; }
Status cublasGetPointerMode_v2(Handle* handle, int* mode) { return *mode = handle->pointer_mode, SUCCESS; }

Status cublasGemmEx(
    Handle* handle, int, int, int m, int n, int, const void*, const void*, int, int, const void*, int, int, const void*,
    void*, int, int, int, int) {
  return product(handle->stream, "GemmEx", m, n, 1);
}
Status cublasGemmStridedBatchedEx(
    Handle* handle, int, int, int m, int n, int, const void*, const void*, int, int, long long, const void*, int, int,
    long long, const void*, void*, int, int, long long, int batch, int, int) {
  return product(handle->stream, "GemmStridedBatchedEx", m, n, batch);
}
Status cublasSgemm_v2(
    Handle* handle, int, int, int m, int n, int, const float*, const float*, int, const float*, int, const float*,
    float*, int) {
  return product(handle->stream, "Sgemm", m, n, 1);
}
Status cublasSgemmStridedBatched(
    Handle* handle, int, int, int m, int n, int, const float*, const float*, int, long long, const float*, int,
    long long, const float*, float*, int, long long, int batch) {
  return product(handle->stream, "SgemmStridedBatched", m, n, batch);
}

size_t cublasLtGetVersion() { return 130100; }
Status cublasLtMatmulDescCreate(void** description, int, int) { return *description = new int, SUCCESS; }
Status cublasLtMatmulDescDestroy(int* description) { return delete description, SUCCESS; }
Status cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }
Status cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new int, SUCCESS; }
Status cublasLtMatmulPreferenceDestroy(int* preference) { return delete preference, SUCCESS; }
Status cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }
Status cublasLtMatrixLayoutCreate(Layout** layout, int, uint64_t rows, uint64_t columns, int64_t) {
  return *layout = new Layout{rows, columns}, SUCCESS;
}
Status cublasLtMatrixLayoutDestroy(Layout* layout) { return delete layout, SUCCESS; }
Status cublasLtMatrixLayoutSetAttribute(Layout*, int, const void*, size_t) { return SUCCESS; }
Status cublasLtMatmulAlgoGetHeuristic(
    void*, void*, Layout*, Layout*, Layout*, Layout*, void*, int, void* results, int* count) {
  constexpr size_t RESULT_BYTES = 96;  // a cublasLtMatmulHeuristicResult_t: zeros say that it needs no workspace
  memset(results, 0, RESULT_BYTES);
  return *count = 1, SUCCESS;
}
Status cublasLtMatmul(
    void*, void*, const void*, const void*, Layout*, const void*, Layout*, const void*, const void*, Layout*, void*,
    Layout* result, const void*, void*, size_t, cudaStream_t stream) {
  return product(stream, "LtMatmul", result->rows, result->columns, 1);
}

}  // extern "C"
