// Device memory is host memory that is reserved and, until somebody writes to it, not there.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "stand_in.h"

static const char* const held = getenv("STANDIN_HELD_MIB");  // by others
static const size_t CONTEXT = size_t(450 + (held ? atoi(held) : 0)) << 20;  // what a context takes of the card, about
static constexpr size_t GRANULE = size_t(2) << 20, PAGE = 4096;
size_t used[MAX_CARDS];
static std::map<char*, Block> blocks;

const Block* block_of(const void* address) {
  auto after = blocks.upper_bound((char*)address);
  if (after == blocks.begin()) return nullptr;
  auto& [begin, block] = *--after;
  return (char*)address < begin + block.size ? &block : nullptr;
}

static size_t total() { return size_t(card().gib * (1 << 30)); }

static cudaError_t allocate(void** address, size_t size, size_t granule, bool pinned) {
  size = (size + granule - 1) / granule * granule;
  if (!pinned && used[current] + CONTEXT + size > total()) return remember(cudaErrorMemoryAllocation);
  *address = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (*address == MAP_FAILED) return remember(cudaErrorMemoryAllocation);
  blocks[(char*)*address] = {size, current, pinned};
  if (!pinned) used[current] += size;
  return cudaSuccess;
}

static cudaError_t release(void* address) {
  auto found = blocks.find((char*)address);
  if (found == blocks.end()) return remember(cudaErrorInvalidValue);
  finish_all();
  if (!found->second.pinned) used[found->second.device] -= found->second.size;
  munmap(address, found->second.size);
  blocks.erase(found);
  return cudaSuccess;
}

static void fill(char* to, int value, size_t size) {
  char* begin = (char*)(((uintptr_t)to + PAGE - 1) / PAGE * PAGE);
  char* end = (char*)((uintptr_t)(to + size) / PAGE * PAGE);
  if (value || begin >= end) {
    memset(to, value, size);
    return;
  }
  memset(to, 0, begin - to);
  madvise(begin, end - begin, MADV_DONTNEED);  // zeros that take no memory
  memset(end, 0, to + size - end);
}

extern "C" {

cudaError_t cudaMemGetInfo(size_t* free, size_t* all) {
  CALL();
  touch();
  *all = total();
  *free = total() - CONTEXT - used[current];
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** address, size_t size) {
  CALL();
  touch();
  UNSAFE_WHILE_CAPTURING();
  return allocate(address, size, GRANULE, false);
}

cudaError_t cudaFree(void* address) {
  CALL();
  touch();
  if (!address) return cudaSuccess;
  UNSAFE_WHILE_CAPTURING();
  return release(address);
}

cudaError_t cudaHostAlloc(void** address, size_t size, unsigned) {
  CALL();
  touch();
  UNSAFE_WHILE_CAPTURING();
  return allocate(address, size, PAGE, true);
}

cudaError_t cudaFreeHost(void* address) {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  return release(address);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  CALL();
  const Block* block = block_of(address);
  *attributes = {};
  attributes->type = !block ? cudaMemoryTypeUnregistered : block->pinned ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
  attributes->device = block ? block->device : 0;
  attributes->devicePointer = block ? (void*)address : nullptr;
  attributes->hostPointer = !block || block->pinned ? (void*)address : nullptr;
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t stream) {
  CALL();
  return enqueue(stream_of(stream), [=] { fill((char*)to, value, size); });
}

cudaError_t cudaMemset(void* to, int value, size_t size) { return cudaMemsetAsync(to, value, size, nullptr); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t handle) {
  CALL();
  Stream* stream = stream_of(handle);
  const bool pageable_from = !block_of(from), pageable_to = !block_of(to);
  if (stream->capture && (pageable_from || pageable_to))
    return violate("a copy of pageable memory", stream->capture.get());
  if (pageable_from && !pageable_to) {  // the driver takes it aside at once; pinned memory is read in its turn
    auto aside = std::make_shared<std::vector<char>>((char*)from, (char*)from + size);
    return enqueue(stream, [=] { memcpy(to, aside->data(), size); });
  }
  cudaError_t error = enqueue(stream, [=] { memmove(to, from, size); });
  if (pageable_to) finish(stream);  // such a call returns after the copy
  return error;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind kind) {
  CALL();
  UNSAFE_WHILE_CAPTURING();
  cudaError_t error = cudaMemcpyAsync(to, from, size, kind, nullptr);
  finish(stream_of(nullptr));
  return error;
}

cudaError_t cudaMemcpy2DAsync(
    void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind,
    cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for (size_t row = 0; row < height && !error; row++)
    error = cudaMemcpyAsync((char*)to + row * to_pitch, (char*)from + row * from_pitch, width, kind, stream);
  return error;
}

}  // extern "C"
