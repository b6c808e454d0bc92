// What the parts of the stand-in know of each other: the card, its memory, its streams and what is captured of them.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

// ---- card.cpp
struct Card {
  const char *key, *name;
  int major, minor, multiprocessors;
  double gib;  // as the driver reports it
  int shared_per_block, shared_per_multiprocessor, l2_bytes, threads_per_multiprocessor, bus_bits, memory_khz;
};
constexpr int MAX_CARDS = 8;
const Card& card();                // STANDIN_CARD
int card_count();                  // STANDIN_CARDS
extern thread_local int current;   // the device of this thread
extern bool touched[MAX_CARDS];    // holds a context, and with it hundreds of MiB
void touch();                      // whatever makes a context on the current device

// ---- errors.cpp
extern std::recursive_mutex mutex;
extern cudaError_t fault;          // once there is one, every call fails with it
cudaError_t remember(cudaError_t); // for cudaGetLastError
// Each function of the runtime that does something begins so.
#define CALL()                                    \
  std::lock_guard<std::recursive_mutex> guard(mutex); \
  if (fault) return remember(fault)

// ---- memory.cpp
struct Block {
  size_t size;
  int device;
  bool pinned;  // host memory
};
extern size_t used[MAX_CARDS];
const Block* block_of(const void* address);  // nullptr: pageable host memory

// ---- streams.cpp
using Work = std::function<void()>;
struct Capture;
struct Stream {
  std::deque<Work> queue;
  std::shared_ptr<Capture> capture;
  int priority = 0;
};
extern bool lazy;  // work is done when somebody waits for it, and not before
Stream* stream_of(cudaStream_t);
cudaError_t enqueue(Stream*, Work);
void finish(Stream*);
void finish_all();

// ---- graphs.cpp
struct Capture {
  std::vector<Work> work;
  std::map<std::string, long> kernels;
  cudaStreamCaptureMode mode;
  unsigned long long id;
  pthread_t thread;
  bool spoilt = false;
  std::set<Stream*> streams;
};
extern std::vector<std::string> violations;
extern std::map<std::string, std::map<std::string, long>> captured;  // by graph, the kernels in it
cudaError_t violate(const char* what, Capture*);
Capture* forbidding_capture();  // one under way that an unsafe call of this thread would spoil
#define UNSAFE_WHILE_CAPTURING() \
  if (Capture* c = forbidding_capture()) return violate(__func__, c)

// ---- kernels.cpp
cudaError_t launch(cudaStream_t, const std::string& name, dim3 grid, dim3 block);
