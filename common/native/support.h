// What the kernels stand on: registers of floats, their products, aligned memory, threads.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 8, kVectors = 2;  // floats of a register; registers of sums: kRows x kVectors
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 4, kVectors = 2;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 4, kVectors = 4;
#else
constexpr int kLanes = 4, kRows = 4, kVectors = 2;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

typedef int32_t Integers __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float *p) { return *reinterpret_cast<const Vector *>(p); }
inline void store(float *p, Vector v) { *reinterpret_cast<Vector *>(p) = v; }

inline Vector load(const float *p, int64_t count) {
  if (count >= kLanes) return load(p);
  Vector v = {};
  std::memcpy(&v, p, 4 * count);
  return v;
}

inline void store(float *p, Vector v, int64_t count) {
  if (count >= kLanes) store(p, v);
  else std::memcpy(p, &v, 4 * count);
}

// Of two rows of blocks of 2 * kHalf columns: a's second halves and b's first halves change places.
template <int kHalf, int... i>
inline void swap_halves(Vector &a, Vector &b, std::integer_sequence<int, i...>) {
#ifdef __clang__
  Vector first = __builtin_shufflevector(a, b, (i & kHalf ? i - kHalf + kLanes : i)...);
  b = __builtin_shufflevector(a, b, (i & kHalf ? i + kLanes : i + kHalf)...);
#else
  typedef int32_t Indices __attribute__((vector_size(4 * kLanes)));
  Vector first = __builtin_shuffle(a, b, Indices{(i & kHalf ? i - kHalf + kLanes : i)...});
  b = __builtin_shuffle(a, b, Indices{(i & kHalf ? i + kLanes : i + kHalf)...});
#endif
  a = first;
}

// v[i][j] and v[j][i] change places.
template <int kHalf = kLanes / 2>
inline void transpose(Vector *v) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & kHalf)) swap_halves<kHalf>(v[i], v[i + kHalf], std::make_integer_sequence<int, kLanes>{});
  if constexpr (kHalf > 1) transpose<kHalf / 2>(v);
}

int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

// Floats from row to row of at least n: an odd number of cache lines, so that rows do not fall into the same few sets.
int64_t pitch(int64_t n) { return round_up(n, 16) | 16; }

// sums [kRows][N] of registers = (or with kAdd, +=) the sum over k of a[row, k] * b[k][N]; distances in floats.
template <int N, bool kAdd>
void multiply(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_k, int64_t depth, float *to,
              int64_t to_row) {
  Vector sums[kRows][N];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[i][n] = kAdd ? load(to + i * to_row + n * kLanes) : Vector{};
  for (int64_t k = 0; k < depth; ++k, a += a_k, b += b_k) {
    Vector right[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) right[n] = load(b + n * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[i][n] += a[i * a_row] * right[n];
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) store(to + i * to_row + n * kLanes, sums[i][n]);
}

// Registers of channels of the panel that begins with register j of `count`: kVectors, or 1 where so many are not left.
int64_t panel(int64_t j, int64_t count) { return count - j >= kVectors ? kVectors : 1; }

// The register that begins the panel which register j of `count` is in.
int64_t panel_start(int64_t j, int64_t count) {
  int64_t start = j - j % kVectors;
  return panel(start, count) == kVectors ? start : j;
}

struct Scratch {  // floats, aligned to a cache line; data is null where there is no memory
  explicit Scratch(int64_t floats) : data(static_cast<float *>(std::aligned_alloc(64, ceil_div(floats, 16) * 64))) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch &) = delete;
  float *data;
};

struct Buffer : Scratch {  // the same, or std::bad_alloc
  explicit Buffer(int64_t floats) : Scratch(floats) {
    if (!data) throw std::bad_alloc();
  }
};

std::atomic<int> chosen_threads{0};

int64_t thread_count() {
  if (chosen_threads > 0) return chosen_threads;
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

class Pool {  // of threads that sleep between operators: starting new ones for each takes a tenth of a training step
 public:
  // work() in the calling thread and in `helpers` others, as far as they can be had; returns when all have finished.
  void run(int64_t helpers, const std::function<void()> &work) {
    std::lock_guard<std::mutex> turn(callers_);
    std::unique_lock<std::mutex> lock(state_);
    try {
      for (; threads_ < helpers; ++threads_) std::thread(&Pool::serve, this, threads_).detach();
    } catch (const std::system_error &) {  // no more threads: those that there are do it all
    }
    work_ = &work, helpers_ = helpers, ++round_;
    lock.unlock();
    wake_.notify_all();
    work();
    lock.lock();
    work_ = nullptr;
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void serve(int64_t index) {
    std::unique_lock<std::mutex> lock(state_);
    for (int64_t round = 0;;) {
      wake_.wait(lock, [&] { return work_ && index < helpers_ && round != round_; });
      round = round_;
      ++running_;
      auto work = work_;
      lock.unlock();
      (*work)();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex callers_, state_;  // frameworks run several operators at a time; here one has all threads
  std::condition_variable wake_, done_;
  const std::function<void()> *work_ = nullptr;
  int64_t threads_ = 0, helpers_ = 0, round_ = 0, running_ = 0;
};

// work(task, scratch) for every task, in any order; scratch: `floats` floats of each thread. std::bad_alloc where not
// even one thread gets its scratch.
void parallel(int64_t tasks, int64_t floats, const std::function<void(int64_t, float *)> &work) {
  static Pool &pool = *new Pool;  // its threads outlive everything
  std::atomic<int64_t> next{0};
  pool.run(std::min(thread_count(), tasks) - 1, [&] {
    Scratch scratch(floats);
    for (int64_t task; scratch.data && (task = next++) < tasks;) work(task, scratch.data);
  });
  if (next < tasks) throw std::bad_alloc();
}

// The status of an operator: no exception may leave the library.
int status_of(const std::function<void()> &work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc &) {
    return ENOMEM;
  }
}

}  // namespace
