// What convolution.cc stands on: registers of floats, aligned memory, threads.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <system_error>
#include <thread>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kOutputs = 8;  // floats of a register; output channels at once: 8 x 3 sums and 4 to spare
#elif defined(__AVX__)
constexpr int kLanes = 8, kOutputs = 4;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kOutputs = 8;
#else
constexpr int kLanes = 4, kOutputs = 4;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float *p) { return *reinterpret_cast<const Vector *>(p); }
inline void store(float *p, Vector v) { *reinterpret_cast<Vector *>(p) = v; }

int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

struct Buffer {  // floats, aligned to a cache line
  explicit Buffer(int64_t floats) : data(static_cast<float *>(std::aligned_alloc(64, ceil_div(floats, 16) * 64))) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer &) = delete;
  float *data;
};

std::atomic<int> chosen_threads{0};

int64_t thread_count() {
  if (chosen_threads > 0) return chosen_threads;
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// work(task, scratch) for every task, in any order; scratch: `floats` floats of each thread.
void parallel(int64_t tasks, int64_t floats, const std::function<void(int64_t, float *)> &work) {
  std::atomic<int64_t> next{0};
  auto run = [&] {
    Buffer scratch(floats);
    for (int64_t task; (task = next++) < tasks;) work(task, scratch.data);
  };
  std::vector<std::thread> helpers;
  try {
    for (int64_t i = std::min(thread_count(), tasks) - 1; i > 0; --i) helpers.emplace_back(run);
  } catch (const std::system_error &) {  // no more threads to be had: those that there are do it all
  }
  run();
  for (auto &helper : helpers) helper.join();
}

}  // namespace
