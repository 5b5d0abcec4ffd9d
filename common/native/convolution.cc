// The 3x3 convolution (stride 1, zeros around the picture, NCHW, float32) and its two gradients for CPUs, called through
// common/native.py and as MindSpore's custom operators: the frameworks' own kernels reach half of what a processor can.
//
// Vertically it is Winograd's F(4,3) (Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016, in one
// dimension): six rows d of the input and three rows g of the kernel give four rows y of the output,
//     y = A'[(G g) * (B'd)],
// with 6 products where the plain way takes 12. Horizontally `*` is the plain sum over three taps and all channels; so
// no value ever moves sideways in a register. The gradient to the input is a convolution by the turned kernel, and the
// gradient to the kernel is G'[(A dy) * (B'd)]. Results do not depend on the number of threads.
#include "support.h"

#include <cstring>
#include <vector>

namespace {

// The points of F(4,3) are 0, A, -A, B, -B and infinity; of those tried, these leave the least rounding error.
constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float G0 = 1 / (A2 * B2), GA = 0.5f / (A2 * (A2 - B2)), GB = 0.5f / (B2 * (B2 - A2));

constexpr int kRows = 4, kTaps = 6;  // rows of a tile, and what they become: m and m + 2 of F(m,3)
constexpr int kVectors = 3;          // registers of neighbouring pixels at once
constexpr int kColumns = 48;         // columns of a tile; a multiple of kVectors * kLanes
constexpr int kPitch = (kColumns + 2 + kLanes - 1) / kLanes * kLanes;  // floats of a row of a tile's input
constexpr int kBlock = 64;           // channels, in and out, of a task of the kernel's gradient
constexpr int64_t kTasks = 16;       // of the kernel's gradient, where there is work enough

struct Tile {  // kRows x kColumns pixels of a picture, or what there is of them
  int64_t picture, top, left, columns;
};

struct Shape {
  int64_t batch, channels, height, width;
  int64_t plane() const { return height * width; }
  int64_t tiles() const { return batch * ceil_div(height, kRows) * ceil_div(width, kColumns); }
  Tile tile(int64_t i) const {
    int64_t across = ceil_div(width, kColumns), down = ceil_div(height, kRows), left = i % across * kColumns;
    return {i / across / down, i / across % down * kRows, left, std::min<int64_t>(kColumns, width - left)};
  }
};

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
void transform_input(const float *plane, const Shape &s, const Tile &tile, int64_t stride, float *to) {
  alignas(64) float rows[kTaps * kPitch];
  copy_rows(plane, s, tile.top - 1, kTaps, tile.left - 1, kPitch, rows);
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
void transform_output(const float *m, float bias, float *plane, const Shape &s, const Tile &tile) {
  int rows = std::min<int64_t>(kRows, s.height - tile.top);
  for (int x = 0; x < tile.columns; x += kLanes) {
    Vector v[kTaps], y[kRows];
    for (int t = 0; t < kTaps; ++t) v[t] = load(m + t * kOutputs * kColumns + x);
    Vector even = v[1] + v[2], odd = v[1] - v[2], even2 = v[3] + v[4], odd2 = v[3] - v[4];
    y[0] = v[0] + even + even2 + bias;
    y[1] = A * odd + B * odd2 + bias;
    y[2] = A2 * even + B2 * even2 + bias;
    y[3] = A * A2 * odd + B * B2 * odd2 + v[5] + bias;
    for (int r = 0; r < rows; ++r) {
      float *to = plane + (tile.top + r) * s.width + tile.left + x;
      if (tile.columns - x >= kLanes) store(to, y[r]);
      else std::memcpy(to, &y[r], 4 * (tile.columns - x));
    }
  }
}

// G g for all kernels: from [to][from][3][3], or turned by 180 degrees from [from][to][3][3], to
// [to / kOutputs][kTaps][from][3][kOutputs], with zeros for the outputs that are not there.
void pack_kernels(const float *w, int64_t outputs, int64_t inputs, bool turned, float *packed) {
  int64_t stride = inputs * 3 * kOutputs;
  parallel(ceil_div(outputs, kOutputs), 0, [&](int64_t block, float *) {
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
  int64_t kernel = in.channels * 3 * kOutputs, stride = in.channels * kPitch;
  Buffer packed(ceil_div(outputs, kOutputs) * kTaps * kernel);
  pack_kernels(w, outputs, in.channels, turned, packed.data);
  parallel(in.tiles(), kTaps * stride, [&](int64_t task, float *v) {
    Tile tile = in.tile(task);
    for (int64_t c = 0; c < in.channels; ++c)
      transform_input(x + (tile.picture * in.channels + c) * in.plane(), in, tile, stride, v + c * kPitch);
    alignas(64) float m[kTaps][kOutputs * kColumns];
    for (int64_t o = 0; o < outputs; o += kOutputs) {
      for (int t = 0; t < kTaps; ++t) {
        const float *u = packed.data + (o / kOutputs * kTaps + t) * kernel;
        for (int64_t i = 0; i < tile.columns; i += kVectors * kLanes) {
          const float *from = v + t * stride + i;
          if (tile.columns - i > 2 * kLanes) multiply<3>(from, u, in.channels, m[t] + i);
          else if (tile.columns - i > kLanes) multiply<2>(from, u, in.channels, m[t] + i);
          else multiply<1>(from, u, in.channels, m[t] + i);
        }
      }
      for (int64_t i = 0; i < std::min<int64_t>(kOutputs, outputs - o); ++i)
        transform_output(m[0] + i * kColumns, bias ? bias[o + i] : 0,
                         y + (tile.picture * outputs + o + i) * in.plane(), in, tile);
    }
  });
}

// A dy: four rows of one channel of the output's gradient into six places `stride` apart. Returns their sum.
float transform_gradient(const float *plane, const Shape &s, const Tile &tile, int64_t stride, float *to) {
  alignas(64) float rows[kRows * kColumns];
  copy_rows(plane, s, tile.top, kRows, tile.left, kColumns, rows);
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

// sums [kOutputs][3][kLanes] += gradients y [kOutputs][kColumns] times pixels v [columns + 2][kLanes] of the inputs.
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

struct Block {  // of channels
  Block(int64_t index, int64_t channels) : first(index * kBlock), count(std::min<int64_t>(kBlock, channels - first)) {}
  int64_t first, count;
};

constexpr int64_t kSums = kTaps * 3 * kBlock * kBlock;  // floats of the sums of a task
constexpr int64_t kPlace = kOutputs * 3 * kLanes;       // and of those that accumulate() adds to
constexpr int64_t kGradients = kBlock * kColumns, kPixels = (kColumns + 2) * kLanes, kStage = kLanes * kPitch;

// Where in a task's sums those for tap t, the outputs around o and the inputs around c stand.
int64_t place(const Block &outputs, const Block &inputs, int t, int64_t o, int64_t c) {
  int64_t row = t * ceil_div(outputs.count, kOutputs) + o / kOutputs;
  return (row * ceil_div(inputs.count, kLanes) + c / kLanes) * kPlace;
}

// Adds what one tile gives to the sums, and to the sums of dy unless bias is null.
void add_tile(const float *dy, const float *x, const Shape &in, const Tile &tile, const Block &outputs,
              const Block &inputs, float *scratch, float *sums, double *bias) {
  float *u = scratch, *stage = u + kTaps * kGradients, *v = stage + kTaps * kStage;
  for (int64_t o = 0; o < outputs.count; ++o) {
    float total = transform_gradient(dy + o * in.plane(), in, tile, kGradients, u + o * kColumns);
    if (bias) bias[o] += total;
  }
  for (int64_t c = 0; c < inputs.count; ++c) {
    transform_input(x + c * in.plane(), in, tile, kStage, stage + c % kLanes * kPitch);
    if (c + 1 < inputs.count && (c + 1) % kLanes) continue;
    for (int t = 0; t < kTaps; ++t) transpose(stage + t * kStage, v + (c / kLanes * kTaps + t) * kPixels);
  }
  for (int t = 0; t < kTaps; ++t)
    for (int64_t o = 0; o < outputs.count; o += kOutputs)
      for (int64_t c = 0; c < inputs.count; c += kLanes)
        accumulate(u + t * kGradients + o * kColumns, v + (c / kLanes * kTaps + t) * kPixels, tile.columns,
                   sums + place(outputs, inputs, t, o, c));
}

// G' times the sums of all slices, `stride` floats apart, for output o and the inputs from c on: to dw [inputs][3][3].
void add_slices(const float *sums, int64_t slices, int64_t stride, const Block &outputs, const Block &inputs, int64_t o,
                int64_t c, float *dw) {
  for (int tap = 0; tap < 3; ++tap) {
    Vector s[kTaps] = {};
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int t = 0; t < kTaps; ++t)
        s[t] += load(sums + slice * stride + place(outputs, inputs, t, o, c) + (o % kOutputs * 3 + tap) * kLanes);
    Vector even = GA * (s[1] + s[2]), even2 = GB * (s[3] + s[4]);
    Vector g[3] = {G0 * s[0] + even + even2, A * GA * (s[1] - s[2]) + B * GB * (s[3] - s[4]),
                   A2 * even + B2 * even2 + s[5]};
    for (int64_t i = 0; i < std::min<int64_t>(kLanes, inputs.count - c); ++i)
      for (int row = 0; row < 3; ++row) dw[i * 9 + row * 3 + tap] = g[row][i];
  }
}

// The gradients of the kernel [outputs][channels][3][3] and of the bias [outputs]. A task takes a Block of outputs, one
// of inputs, and one slice of the tiles; how many slices there are depends on the shape alone.
void kernel_gradient(const float *dy, const float *x, const Shape &in, int64_t outputs, float *dw, float *dbias) {
  int64_t inward = ceil_div(in.channels, kBlock), blocks = ceil_div(outputs, kBlock) * inward;
  int64_t tiles = in.tiles(), slices = std::min(tiles, ceil_div(kTasks, blocks));
  int64_t scratch_size = kTaps * (kGradients + kStage + kBlock / kLanes * kPixels);
  Buffer sums(slices * blocks * kSums);
  std::vector<double> bias(slices * outputs);
  parallel(slices * blocks, scratch_size, [&](int64_t task, float *scratch) {
    int64_t slice = task / blocks;
    Block to(task % blocks / inward, outputs), from(task % inward, in.channels);
    std::memset(scratch, 0, 4 * scratch_size);  // channels that are not there stay zero
    std::memset(sums.data + task * kSums, 0, 4 * kSums);
    for (int64_t i = tiles * slice / slices; i < tiles * (slice + 1) / slices; ++i) {
      Tile tile = in.tile(i);
      add_tile(dy + (tile.picture * outputs + to.first) * in.plane(),
               x + (tile.picture * in.channels + from.first) * in.plane(), in, tile, to, from, scratch,
               sums.data + task * kSums, from.first ? nullptr : &bias[slice * outputs + to.first]);
    }
  });
  parallel(outputs, 0, [&](int64_t o, float *) {
    double total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) total += bias[slice * outputs + o];
    dbias[o] = total;
    Block to(o / kBlock, outputs);
    for (int64_t c = 0; c < in.channels; c += kLanes) {
      Block from(c / kBlock, in.channels);
      add_slices(sums.data + (o / kBlock * inward + c / kBlock) * kSums, slices, blocks * kSums, to, from, o - to.first,
                 c - from.first, dw + (o * in.channels + c) * 9);
    }
  });
}

Shape shape_of(const int64_t *shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

const float *in(void **tensors, int i) { return static_cast<const float *>(tensors[i]); }

float *out(void **tensors, int i) { return static_cast<float *>(tensors[i]); }

}  // namespace

// SetThreads, and the operators in the form that mindspore.ops.Custom(func_type='aot') calls: inputs, then outputs; they
// return 0, or ENOMEM.
extern "C" {

// Threads of every operator; 0: as many as there are processors that this process may use.
void SetThreads(int count) { chosen_threads = count; }

// x [N,C,H,W], weight [O,C,3,3], bias [O] -> y [N,O,H,W]
int Convolution(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    convolve(in(tensors, 0), shape_of(shapes[0]), in(tensors, 1), false, in(tensors, 2), out(tensors, 3), shapes[1][0]);
  });
}

// The shape of y; MindSpore asks for it where pictures are of any size, which is -1 until they are there.
std::vector<int64_t> ConvolutionInferShape(int *, int64_t **shapes, void *) {
  return {shapes[0][0], shapes[1][0], shapes[0][2], shapes[0][3]};
}

// dy [N,O,H,W], weight [O,C,3,3] -> dx [N,C,H,W]
int InputGradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    convolve(in(tensors, 0), shape_of(shapes[0]), in(tensors, 1), true, nullptr, out(tensors, 2), shapes[1][1]);
  });
}

// dy [N,O,H,W], x [N,C,H,W] -> dweight [O,C,3,3], dbias [O]
int KernelGradient(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    kernel_gradient(in(tensors, 0), in(tensors, 1), shape_of(shapes[1]), shapes[0][1], out(tensors, 2),
                    out(tensors, 3));
  });
}
}
