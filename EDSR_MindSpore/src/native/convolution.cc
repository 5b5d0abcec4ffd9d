// The 3x3 convolution of EDSR (stride 1, zeros around the picture, NCHW, float32) and its two gradients for CPUs, as
// MindSpore custom operators: MindSpore's own kernels reach half of what the processor can do.
//
// Vertically it is Winograd's F(4,3) (Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, in one
// dimension): six rows d of the input and three rows g of the kernel give four rows y of the output,
//     y = A'[(G g) * (B'd)],
// with 6 products where the plain way takes 12. Horizontally `*` is the plain sum over three taps and all channels; so
// no value ever moves sideways in a register. The gradient to the input is a convolution by the turned kernel, and the
// gradient to the kernel is G'[(A dy) * (B'd)]. Results do not depend on the number of threads.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
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
constexpr int kVectors = 3;                                   // registers of neighbouring pixels at once
constexpr int kRows = 4, kTaps = 6;                           // rows of a tile, and what they become: the m of F(m,3), m + 2
constexpr int kColumns = 48;                                  // columns of a tile; a multiple of 3 * kLanes
constexpr int kPitch = (kColumns + 2 + kLanes - 1) / kLanes * kLanes;  // floats of a row of the input of a tile
constexpr int kBlock = 64;                                    // input channels of one task of the kernel's gradient
constexpr int64_t kSlices = 8;                                // parts of the batch whose gradients are summed at the end

typedef float Vector __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline Vector load(const float *p) { return *reinterpret_cast<const Vector *>(p); }
inline void store(float *p, Vector v) { *reinterpret_cast<Vector *>(p) = v; }

struct Shape {
  int64_t batch, channels, height, width;
  int64_t bands() const { return (height + kRows - 1) / kRows; }
};

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Buffer {  // floats, aligned to a cache line
  explicit Buffer(int64_t floats) : data(static_cast<float *>(std::aligned_alloc(64, round_up(4 * floats, 64)))) {}
  ~Buffer() { std::free(data); }
  Buffer(const Buffer &) = delete;
  float *data;
};

// OMP_NUM_THREADS where set, else the processors that this process may use.
int64_t thread_count() {
  const char *asked = std::getenv("OMP_NUM_THREADS");
  if (asked && std::atoi(asked) > 0) return std::atoi(asked);
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
  for (int64_t i = std::min(thread_count(), tasks) - 1; i > 0; --i) helpers.emplace_back(run);
  run();
  for (auto &helper : helpers) helper.join();
}

// Rows top..top+rows of a [height,width] plane from column left on into rows of `pitch` floats, zeros outside of it.
void copy_rows(const float *plane, const Shape &s, int64_t top, int rows, int64_t left, int pitch, float *to) {
  int64_t first = std::max<int64_t>(left, 0), last = std::min(left + pitch, s.width);
  for (int r = 0; r < rows; ++r, to += pitch) {
    int64_t y = top + r;
    if (y < 0 || y >= s.height) {
      std::memset(to, 0, 4 * pitch);
      continue;
    }
    if (first > left) to[0] = 0;  // left is -1 at the least
    std::memcpy(to + (first - left), plane + y * s.width + first, 4 * (last - first));
    if (last - left < pitch) std::memset(to + (last - left), 0, 4 * (left + pitch - last));
  }
}

// B'd: the input of a tile, its six rows into six places `stride` apart.
void transform_input(const float *plane, const Shape &s, int64_t top, int64_t left, int64_t stride, float *to) {
  alignas(64) float rows[kTaps * kPitch];
  copy_rows(plane, s, top - 1, kTaps, left - 1, kPitch, rows);
  for (int x = 0; x < kPitch; x += kLanes, to += kLanes) {
    Vector d[kTaps];
    for (int r = 0; r < kTaps; ++r) d[r] = load(rows + r * kPitch + x);
    store(to, 4 * d[0] - 5 * d[2] + d[4]);
    Vector even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    store(to + stride, even + odd);
    store(to + 2 * stride, even - odd);
    even = d[4] - d[2], odd = 2 * (d[3] - d[1]);
    store(to + 3 * stride, even + odd);
    store(to + 4 * stride, even - odd);
    store(to + 5 * stride, 4 * d[1] - 5 * d[3] + d[5]);
  }
}

// A'm: four rows of one channel's output, plus bias, those of them that lie inside the picture.
void transform_output(const float *m, float bias, float *plane, const Shape &s, int64_t top, int64_t left) {
  int rows = std::min<int64_t>(kRows, s.height - top), columns = std::min<int64_t>(kColumns, s.width - left);
  for (int x = 0; x < columns; x += kLanes) {
    Vector v[kTaps], y[kRows];
    for (int t = 0; t < kTaps; ++t) v[t] = load(m + t * kOutputs * kColumns + x);
    Vector sum = v[1] + v[2] + bias, difference = v[1] - v[2] + bias, sum2 = v[3] + v[4], difference2 = v[3] - v[4];
    y[0] = v[0] + sum + sum2;
    y[1] = difference + 2 * difference2;
    y[2] = sum + 4 * sum2;
    y[3] = difference + 8 * difference2 + v[5];
    for (int r = 0; r < rows; ++r)
      std::memcpy(plane + (top + r) * s.width + left + x, &y[r], 4 * std::min(kLanes, columns - x));
  }
}

// G g for all kernels: from [to][from][3][3], or turned by 180 degrees from [from][to][3][3], to
// [to / kOutputs][kTaps][from][3][kOutputs], with zeros for the outputs that are not there.
void pack_kernels(const float *w, int64_t outputs, int64_t inputs, bool turned, float *packed) {
  int64_t blocks = (outputs + kOutputs - 1) / kOutputs, stride = inputs * 3 * kOutputs;
  parallel(blocks, 0, [&](int64_t block, float *) {
    float *to = packed + block * kTaps * stride;
    for (int64_t c = 0; c < inputs; ++c)
      for (int tap = 0; tap < 3; ++tap)
        for (int i = 0; i < kOutputs; ++i, ++to) {
          int64_t o = block * kOutputs + i;
          float g[3] = {0, 0, 0};
          for (int row = 0; row < 3 && o < outputs; ++row)
            g[row] = turned ? w[(c * outputs + o) * 9 + 8 - (row * 3 + tap)] : w[(o * inputs + c) * 9 + row * 3 + tap];
          to[0] = g[0] / 4;
          to[stride] = -(g[0] + g[1] + g[2]) / 6;
          to[2 * stride] = -(g[0] - g[1] + g[2]) / 6;
          to[3 * stride] = g[0] / 24 + g[1] / 12 + g[2] / 6;
          to[4 * stride] = g[0] / 24 - g[1] / 12 + g[2] / 6;
          to[5 * stride] = g[2];
        }
  });
}

// m [kOutputs][kColumns] = kernels u [channels][3][kOutputs] on rows v [channels][kPitch], N registers of pixels.
template <int N>
void multiply(const float *v, const float *u, int64_t channels, float *m) {
  Vector sums[kOutputs][N] = {};
  for (int64_t c = 0; c < channels; ++c, v += kPitch) {
#pragma GCC unroll 3
    for (int tap = 0; tap < 3; ++tap, u += kOutputs) {
      Vector pixels[N];
#pragma GCC unroll 3
      for (int n = 0; n < N; ++n) pixels[n] = load(v + tap + n * kLanes);
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) sums[o][n] += u[o] * pixels[n];
    }
  }
  for (int o = 0; o < kOutputs; ++o)
    for (int n = 0; n < N; ++n) store(m + o * kColumns + n * kLanes, sums[o][n]);
}

void convolve(const float *x, const Shape &in, const float *w, bool turned, const float *bias, float *y,
              int64_t outputs) {
  int64_t blocks = (outputs + kOutputs - 1) / kOutputs, kernel = in.channels * 3 * kOutputs;
  int64_t across = (in.width + kColumns - 1) / kColumns, plane = in.height * in.width, stride = in.channels * kPitch;
  Buffer packed(blocks * kTaps * kernel);
  pack_kernels(w, outputs, in.channels, turned, packed.data);
  parallel(in.batch * in.bands() * across, kTaps * stride, [&](int64_t task, float *v) {
    int64_t left = task % across * kColumns, top = task / across % in.bands() * kRows, n = task / across / in.bands();
    int64_t columns = std::min<int64_t>(kColumns, in.width - left);
    for (int64_t c = 0; c < in.channels; ++c)
      transform_input(x + (n * in.channels + c) * plane, in, top, left, stride, v + c * kPitch);
    alignas(64) float m[kTaps][kOutputs * kColumns];
    for (int64_t o = 0; o < outputs; o += kOutputs) {
      for (int t = 0; t < kTaps; ++t) {
        const float *u = packed.data + (o / kOutputs * kTaps + t) * kernel;
        for (int64_t i = 0; i < columns; i += kVectors * kLanes) {
          const float *from = v + t * stride + i;
          if (columns - i > 2 * kLanes) multiply<3>(from, u, in.channels, m[t] + i);
          else if (columns - i > kLanes) multiply<2>(from, u, in.channels, m[t] + i);
          else multiply<1>(from, u, in.channels, m[t] + i);
        }
      }
      for (int64_t i = o; i < std::min(o + kOutputs, outputs); ++i)
        transform_output(m[0] + (i - o) * kColumns, bias ? bias[i] : 0, y + (n * outputs + i) * plane, in, top, left);
    }
  });
}

// A dy: four rows of one channel of the output's gradient into six places `stride` apart.
void transform_gradient(const float *plane, const Shape &s, int64_t top, int64_t left, int64_t stride, float *to) {
  alignas(64) float rows[kRows * kColumns];
  copy_rows(plane, s, top, kRows, left, kColumns, rows);
  for (int x = 0; x < kColumns; x += kLanes, to += kLanes) {
    Vector y[kRows];
    for (int r = 0; r < kRows; ++r) y[r] = load(rows + r * kColumns + x);
    Vector even = y[0] + y[2], odd = y[1] + y[3];
    store(to, y[0]);
    store(to + stride, even + odd);
    store(to + 2 * stride, even - odd);
    even = y[0] + 4 * y[2], odd = 2 * y[1] + 8 * y[3];
    store(to + 3 * stride, even + odd);
    store(to + 4 * stride, even - odd);
    store(to + 5 * stride, y[3]);
  }
}

// sums [kOutputs][3][kLanes] += gradients y [kOutputs][kColumns] times pixels v [columns + 2][kLanes] of kLanes channels.
void accumulate(const float *y, const float *v, int64_t columns, float *to) {
  Vector sums[kOutputs][3];
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 3
    for (int tap = 0; tap < 3; ++tap) sums[o][tap] = load(to + (o * 3 + tap) * kLanes);
  for (int64_t x = 0; x < columns; ++x) {
    Vector pixels[3];
#pragma GCC unroll 3
    for (int tap = 0; tap < 3; ++tap) pixels[tap] = load(v + (x + tap) * kLanes);
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 3
      for (int tap = 0; tap < 3; ++tap) sums[o][tap] += y[o * kColumns + x] * pixels[tap];
  }
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; ++o)
#pragma GCC unroll 3
    for (int tap = 0; tap < 3; ++tap) store(to + (o * 3 + tap) * kLanes, sums[o][tap]);
}
