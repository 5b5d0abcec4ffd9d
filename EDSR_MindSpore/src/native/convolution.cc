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
// The points of F(4,3) are 0, A, -A, B, -B and infinity; of those tried, these leave the least rounding error.
constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float G0 = 1 / (A2 * B2), GA = 0.5f / (A2 * (A2 - B2)), GB = 0.5f / (B2 * (B2 - A2));
constexpr int kVectors = 3;                                   // registers of neighbouring pixels at once
constexpr int kRows = 4, kTaps = 6;                           // rows of a tile, and what they become: the m of F(m,3), m + 2
constexpr int kColumns = 48;                                  // columns of a tile; a multiple of 3 * kLanes
constexpr int kPitch = (kColumns + 2 + kLanes - 1) / kLanes * kLanes;  // floats of a row of the input of a tile
constexpr int kBlock = 64;                                    // channels, in and out, of a task of the kernel's gradient
constexpr int64_t kTasks = 16;                                // of the kernel's gradient, where there is work enough

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

// Rows top..top+rows of a [height,width] plane from column left on into rows of `pitch` floats, zeros outside of it.
void copy_rows(const float *plane, const Shape &s, int64_t top, int rows, int64_t left, int pitch, float *to) {
  int64_t first = std::max<int64_t>(left, 0), last = std::min(left + pitch, s.width);
  for (int r = 0; r < rows; ++r, to += pitch) {
    int64_t y = top + r;
    if (y < 0 || y >= s.height) {
      std::memset(to, 0, 4 * pitch);
      continue;
    }
    for (int64_t x = first; x < last + 16; x += 16)  // of the next channel
      __builtin_prefetch(plane + s.height * s.width + y * s.width + x);
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
    store(to, A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4]);
    Vector even = d[4] - B2 * d[2], odd = A * (d[3] - B2 * d[1]);
    store(to + stride, even + odd);
    store(to + 2 * stride, even - odd);
    even = d[4] - A2 * d[2], odd = B * (d[3] - A2 * d[1]);
    store(to + 3 * stride, even + odd);
    store(to + 4 * stride, even - odd);
    store(to + 5 * stride, A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5]);
  }
}

// A'm: four rows of one channel's output, plus bias, those of them that lie inside the picture.
void transform_output(const float *m, float bias, float *plane, const Shape &s, int64_t top, int64_t left) {
  int rows = std::min<int64_t>(kRows, s.height - top), columns = std::min<int64_t>(kColumns, s.width - left);
  for (int x = 0; x < columns; x += kLanes) {
    Vector v[kTaps], y[kRows];
    for (int t = 0; t < kTaps; ++t) v[t] = load(m + t * kOutputs * kColumns + x);
    Vector even = v[1] + v[2], odd = v[1] - v[2], even2 = v[3] + v[4], odd2 = v[3] - v[4];
    y[0] = v[0] + even + even2 + bias;
    y[1] = A * odd + B * odd2 + bias;
    y[2] = A2 * even + B2 * even2 + bias;
    y[3] = A * A2 * odd + B * B2 * odd2 + v[5] + bias;
    for (int r = 0; r < rows; ++r) {
      float *to = plane + (top + r) * s.width + left + x;
      if (columns - x >= kLanes) store(to, y[r]);
      else std::memcpy(to, &y[r], 4 * (columns - x));
    }
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
          to[0] = G0 * g[0];
          to[stride] = GA * (g[0] + A * g[1] + A2 * g[2]);
          to[2 * stride] = GA * (g[0] - A * g[1] + A2 * g[2]);
          to[3 * stride] = GB * (g[0] + B * g[1] + B2 * g[2]);
          to[4 * stride] = GB * (g[0] - B * g[1] + B2 * g[2]);
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

// A dy: four rows of one channel of the output's gradient into six places `stride` apart. Returns their sum.
float transform_gradient(const float *plane, const Shape &s, int64_t top, int64_t left, int64_t stride, float *to) {
  alignas(64) float rows[kRows * kColumns];
  copy_rows(plane, s, top, kRows, left, kColumns, rows);
  Vector sums = {};
  for (int x = 0; x < kColumns; x += kLanes, to += kLanes) {
    Vector y[kRows];
    for (int r = 0; r < kRows; ++r) y[r] = load(rows + r * kColumns + x);
    sums += (y[0] + y[1]) + (y[2] + y[3]);
    Vector even = y[0] + A2 * y[2], odd = A * (y[1] + A2 * y[3]);
    store(to, y[0]);
    store(to + stride, even + odd);
    store(to + 2 * stride, even - odd);
    even = y[0] + B2 * y[2], odd = B * (y[1] + B2 * y[3]);
    store(to + 3 * stride, even + odd);
    store(to + 4 * stride, even - odd);
    store(to + 5 * stride, y[3]);
  }
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += sums[i];
  return sum;
}

// rows [kLanes][kPitch] of pixels to [kColumns + 2][kLanes].
void transpose(const float *from, float *to) {
  for (int x = 0; x < kColumns + 2; ++x)
    for (int c = 0; c < kLanes; ++c) to[x * kLanes + c] = from[c * kPitch + x];
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

// The gradients of the kernel [outputs][inputs][3][3] and of the bias [outputs]. A task takes kBlock x kBlock channels and
// one slice of the tiles, the number of slices depending on the shape alone; the slices are then added in their order.
void kernel_gradient(const float *dy, const float *x, const Shape &in, int64_t outputs, float *dw, float *dbias) {
  constexpr int64_t kSize = kTaps * 3 * kBlock * kBlock, kStep = kOutputs * 3 * kLanes;  // floats of a task's sums
  constexpr int64_t kPixels = (kColumns + 2) * kLanes, kRow = kBlock * kColumns;
  int64_t inward = (in.channels + kBlock - 1) / kBlock, outward = (outputs + kBlock - 1) / kBlock;
  int64_t across = (in.width + kColumns - 1) / kColumns, plane = in.height * in.width;
  int64_t tiles = in.batch * in.bands() * across, blocks = inward * outward;
  int64_t slices = std::min(tiles, (kTasks + blocks - 1) / blocks);
  Buffer sums(slices * blocks * kSize);
  std::vector<double> bias(slices * outputs);
  constexpr int64_t kInput = kTaps * kBlock * (kColumns + 2), kStage = kTaps * kLanes * kPitch;
  parallel(slices * blocks, kInput + kStage + kTaps * kRow, [&](int64_t task, float *scratch) {
    float *v = scratch, *stage = v + kInput, *u = stage + kStage, *sum = sums.data + task * kSize;
    int64_t slice = task / blocks, c0 = task % blocks / outward * kBlock, o0 = task % outward * kBlock;
    int64_t cs = std::min<int64_t>(kBlock, in.channels - c0), os = std::min<int64_t>(kBlock, outputs - o0);
    int64_t vectors = (cs + kLanes - 1) / kLanes, rows = (os + kOutputs - 1) / kOutputs;
    std::memset(sum, 0, 4 * kTaps * rows * vectors * kStep);
    std::memset(u, 0, 4 * kTaps * kRow);
    std::memset(stage, 0, 4 * kStage);
    for (int64_t tile = tiles * slice / slices; tile < tiles * (slice + 1) / slices; ++tile) {
      int64_t left = tile % across * kColumns, top = tile / across % in.bands() * kRows, n = tile / across / in.bands();
      int64_t columns = std::min<int64_t>(kColumns, in.width - left);
      for (int64_t o = 0; o < os; ++o) {
        float total = transform_gradient(dy + (n * outputs + o0 + o) * plane, in, top, left, kRow, u + o * kColumns);
        if (c0 == 0) bias[slice * outputs + o0 + o] += total;
      }
      for (int64_t c = 0; c < cs; ++c) {
        transform_input(x + (n * in.channels + c0 + c) * plane, in, top, left, kLanes * kPitch,
                        stage + c % kLanes * kPitch);
        if (c + 1 < cs && (c + 1) % kLanes) continue;
        for (int t = 0; t < kTaps; ++t)
          transpose(stage + t * kLanes * kPitch, v + (t * vectors + c / kLanes) * kPixels);
      }
      for (int t = 0; t < kTaps; ++t)
        for (int64_t row = 0; row < rows; ++row)
          for (int64_t i = 0; i < vectors; ++i)
            accumulate(u + t * kRow + row * kOutputs * kColumns, v + (t * vectors + i) * kPixels, columns,
                       sum + ((t * rows + row) * vectors + i) * kStep);
    }
  });
  parallel(outputs, 0, [&](int64_t o, float *) {
    dbias[o] = 0;
    for (int64_t slice = 0; slice < slices; ++slice) dbias[o] += bias[slice * outputs + o];
    int64_t rows = (std::min<int64_t>(kBlock, outputs - o / kBlock * kBlock) + kOutputs - 1) / kOutputs;
    for (int64_t c = 0; c < in.channels; c += kLanes) {
      int64_t vectors = (std::min<int64_t>(kBlock, in.channels - c / kBlock * kBlock) + kLanes - 1) / kLanes;
      const float *from = sums.data + (c / kBlock * outward + o / kBlock) * kSize;
      for (int tap = 0; tap < 3; ++tap) {
        Vector s[kTaps] = {};
        for (int64_t slice = 0; slice < slices; ++slice)
          for (int t = 0; t < kTaps; ++t)
            s[t] += load(from + slice * blocks * kSize + (o % kOutputs * 3 + tap) * kLanes +
                         ((t * rows + o % kBlock / kOutputs) * vectors + c % kBlock / kLanes) * kStep);
        Vector even = GA * (s[1] + s[2]), even2 = GB * (s[3] + s[4]);
        Vector g[3] = {G0 * s[0] + even + even2, A * GA * (s[1] - s[2]) + B * GB * (s[3] - s[4]),
                       A2 * even + B2 * even2 + s[5]};
        for (int64_t i = 0; i < std::min<int64_t>(kLanes, in.channels - c); ++i)
          for (int row = 0; row < 3; ++row) dw[(o * in.channels + c + i) * 9 + row * 3 + tap] = g[row][i];
      }
    }
  });
}

Shape shape_of(const int64_t *shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

const float *in(void **tensors, int i) { return static_cast<const float *>(tensors[i]); }

float *out(void **tensors, int i) { return static_cast<float *>(tensors[i]); }

}  // namespace

extern "C" {

// Threads of every operator; 0: as many as there are processors that this process may use.
void SetThreads(int count) { chosen_threads = count; }

// The operators, in the form that mindspore.ops.Custom(func_type='aot') calls: inputs, then outputs; 0 is success.

// x [N,C,H,W], weight [O,C,3,3], bias [O] -> y [N,O,H,W]
int Convolution(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  convolve(in(tensors, 0), shape_of(shapes[0]), in(tensors, 1), false, in(tensors, 2), out(tensors, 3), shapes[1][0]);
  return 0;
}

// The shape of y; MindSpore asks for it where pictures are of any size, which is -1 until they are there.
std::vector<int64_t> ConvolutionInferShape(int *, int64_t **shapes, void *) {
  return {shapes[0][0], shapes[1][0], shapes[0][2], shapes[0][3]};
}

// dy [N,O,H,W], weight [O,C,3,3] -> dx [N,C,H,W]
int InputGradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  convolve(in(tensors, 0), shape_of(shapes[0]), in(tensors, 1), true, nullptr, out(tensors, 2), shapes[1][1]);
  return 0;
}

// dy [N,O,H,W], x [N,C,H,W] -> dweight [O,C,3,3], dbias [O]
int KernelGradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  kernel_gradient(in(tensors, 0), in(tensors, 1), shape_of(shapes[1]), shapes[0][1], out(tensors, 2), out(tensors, 3));
  return 0;
}
}
