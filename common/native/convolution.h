// The 3x3 convolution (stride 1, zeros around the picture, NCHW, float32) and its two gradients for CPUs, called through
// common/native.py and as MindSpore's custom operators: the frameworks' own kernels reach half of what a processor can.
//
// It is Winograd's F(4x4,3x3) (Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, 2016): a tile of 6x6
// pixels d of the input and a kernel g give 4x4 pixels y of the output,
//     y = A'[(G g G') * (B'd B)] A,
// by 36 products where the plain way takes 144; summed over the channels they are 36 matrix products. The gradient to
// the input is a convolution by the turned kernel, and the gradient to the kernel is G'[(A dy A') * (B'd B)] G. Results
// do not depend on the number of threads.
#pragma once

#include <list>
#include <memory>

#include "few.h"

namespace {

constexpr int64_t kCache = 160000;  // floats of transformed input that a thread works on at a time: they stay in L2
constexpr int kMostTiles = 64;      // and tiles
constexpr int64_t kKept = int64_t{1} << 25;  // floats of packed kernels that are kept for the next calls
constexpr int kBlock = 64;          // channels, in and out, of a task of the kernel's gradient
constexpr int kChunk = 48;          // tiles that such a task works on at a time
constexpr int64_t kTasks = 16;      // of the kernel's gradient, where there is work enough

// G g G' of all kernels, from [to][from][3][3], or turned by 180 degrees from [from][to][3][3], to
// [kProducts][panels of outputs][from][outputs of the panel], with zeros for the outputs that are not there; `product`
// floats from product to product.
void pack_kernels(const float *w, int64_t outputs, int64_t inputs, bool turned, int64_t product, float *packed) {
  int64_t registers = ceil_div(outputs, kLanes);
  parallel(registers, 0, [&](int64_t j, float *) {
    int64_t first = panel_start(j, registers);
    int64_t width = panel(first, registers) * kLanes, there = std::min<int64_t>(kLanes, outputs - j * kLanes);
    const float *end = w + outputs * inputs * 9;
    for (int64_t c = 0; c < inputs; ++c) {
      Vector g[9] = {}, u[kProducts];
      for (int tap = 0; tap < 9; tap += kLanes) {
        Vector v[kLanes] = {};
        for (int64_t i = 0; i < there; ++i) {
          int64_t o = j * kLanes + i;
          const float *from = w + (turned ? c * outputs + o : o * inputs + c) * 9 + tap;
          v[i] = load(from, end - from);
        }
        transpose(v);
        for (int i = tap; i < std::min(9, tap + kLanes); ++i) g[turned ? 8 - i : i] = v[i - tap];
      }
      transform_kernels(g, u);
      for (int p = 0; p < kProducts; ++p)
        store(packed + p * product + first * kLanes * inputs + c * width + (j - first) * kLanes, u[p]);
    }
  });
}

// A kernel packed by pack_kernels, and what it was packed from.
struct PackedKernel {
  PackedKernel(const float *w, int64_t outputs, int64_t inputs, bool turned)
      // A line more from product to product: powers of two would all fall into the same few sets of the cache.
      : outputs(outputs), inputs(inputs), turned(turned), product(round_up(outputs, kLanes) * inputs + 16),
        weights(w, w + outputs * inputs * 9), packed(kProducts * product) {
    pack_kernels(w, outputs, inputs, turned, product, packed.data);
  }
  bool is_of(const float *w, int64_t o, int64_t i, bool t) const {
    return o == outputs && i == inputs && t == turned && std::equal(weights.begin(), weights.end(), w);
  }
  int64_t floats() const { return kProducts * product + weights.size(); }

  int64_t outputs, inputs;
  bool turned;
  int64_t product;  // floats from product to product
  std::vector<float> weights;
  Buffer packed;
};

// The packed kernel, of those kept where it is among them: recurrent networks ask for the same ones time and again, and to
// pack one takes as long as to convolve a small picture by it.
std::shared_ptr<const PackedKernel> packed_kernel(const float *w, int64_t outputs, int64_t inputs, bool turned) {
  static std::mutex &lock = *new std::mutex;
  static auto &kept = *new std::list<std::shared_ptr<const PackedKernel>>;  // the last used one first
  std::lock_guard<std::mutex> turn(lock);
  auto found = std::find_if(kept.begin(), kept.end(), [=](auto &k) { return k->is_of(w, outputs, inputs, turned); });
  if (found != kept.end()) {
    kept.splice(kept.begin(), kept, found);
    return kept.front();
  }
  kept.push_front(std::make_shared<const PackedKernel>(w, outputs, inputs, turned));
  int64_t floats = 0;
  auto last = std::find_if(kept.begin(), kept.end(), [&](auto &k) { return (floats += k->floats()) > kKept; });
  auto first = kept.front();
  kept.erase(last, kept.end());
  return first;
}

// m [kProducts][tiles][width] = transformed input v [kProducts][tiles][channels] times a panel u of width channels.
void multiply_panel(const Place &v, const float *u, int64_t u_product, int64_t channels, int64_t tiles, int64_t width,
                    const Place &m) {
  for (int p = 0; p < kProducts; ++p, u += u_product)
    for (int64_t t = 0; t < tiles; t += kRows) {
      auto part = width == kLanes ? multiply<1, false> : multiply<kVectors, false>;
      part(v.at + p * v.product + t * v.tile, v.tile, 1, u, width, channels, m.at + p * m.product + t * m.tile, m.tile);
    }
}

void convolve(const float *x, const Shape &in, const float *w, bool turned, const float *bias, float *y,
              int64_t outputs) {
  if (outputs <= kFew) return convolve_few(x, in, w, turned, bias, y, outputs);
  int64_t registers = ceil_div(outputs, kLanes), padded = round_up(in.channels, kLanes), count = in.tiles();
  auto kernel = packed_kernel(w, outputs, in.channels, turned);
  int64_t most = std::min<int64_t>(kCache / (kProducts * padded) / kRows * kRows, kMostTiles);
  int64_t tiles = std::max<int64_t>(std::min(most, round_up(ceil_div(count, 2 * thread_count()), kRows)), kRows);
  int64_t v_product = tiles * padded + 16, m_product = tiles * kVectors * kLanes + 16;
  parallel(ceil_div(count, tiles), kProducts * (v_product + m_product), [&](int64_t task, float *scratch) {
    int64_t first = task * tiles, last = std::min(first + tiles, count);
    Place v{scratch, v_product, padded}, m{scratch + kProducts * v_product, m_product, 0};
    for_runs(in, first, last, [&](const Run &run) {
      for (int64_t c = 0; c < in.channels; c += kLanes)
        transform_input(planes_of(x, in, run.picture, c), in, run, {v.at + run.index * padded + c, v.product, v.tile});
    });
    for (int64_t j = 0, wide; j < registers; j += wide) {
      wide = panel(j, registers), m.tile = wide * kLanes;
      multiply_panel(v, kernel->packed.data + j * kLanes * in.channels, kernel->product, in.channels,
                     last - first, m.tile, m);
      for_runs(in, first, last, [&](const Run &run) {
        for (int64_t n = 0; n < wide; ++n) {
          int64_t o = (j + n) * kLanes, there = std::min<int64_t>(kLanes, outputs - o);
          Vector shift = {};
          for (int64_t i = 0; bias && i < there; ++i) shift[i] = bias[o + i];
          transform_output({m.at + run.index * m.tile + n * kLanes, m.product, m.tile}, shift, in, run, there,
                           y + (run.picture * outputs + o) * in.plane());
        }
      });
    }
  });
}

struct Block {  // of channels
  Block(int64_t index, int64_t channels) : first(index * kBlock), count(std::min<int64_t>(kBlock, channels - first)) {}
  int64_t first, count;
};

constexpr int64_t kSums = kProducts * kBlock * kBlock;   // floats of the sums of a task: [kProducts][outputs][inputs]
constexpr int64_t kProduct = kChunk * kBlock + 16;       // and of what it multiplies, from product to product

// Adds what a few tiles give to the sums, or begins them, and to the sums of dy unless bias is null.
void add_tiles(const float *dy, const Shape &out, const float *x, const Shape &in, int64_t first, int64_t last,
               const Block &outputs, const Block &inputs, float *scratch, bool begin, float *sums, double *bias) {
  Place left{scratch, kProduct, kBlock}, right{scratch + kProducts * kProduct, kProduct, kBlock};
  for_runs(in, first, last, [&](const Run &run) {
    for (int64_t o = 0; o < outputs.count; o += kLanes) {
      Planes planes = planes_of(dy, out, run.picture, outputs.first + o);
      Vector total = transform_gradient(planes, out, run, {left.at + run.index * kBlock + o, kProduct, kBlock});
      for (int64_t i = 0; bias && i < planes.count; ++i) bias[o + i] += total[i];
    }
    for (int64_t c = 0; c < inputs.count; c += kLanes)
      transform_input(planes_of(x, in, run.picture, inputs.first + c), in, run,
                      {right.at + run.index * kBlock + c, kProduct, kBlock});
  });
  int64_t registers = ceil_div(inputs.count, kLanes);
  for (int p = 0; p < kProducts; ++p)
    for (int64_t o = 0; o < outputs.count; o += kRows)
      for (int64_t j = 0, wide; j < registers; j += wide) {
        wide = panel(j, registers);
        auto part = wide == 1 ? begin ? multiply<1, false> : multiply<1, true>
                              : begin ? multiply<kVectors, false> : multiply<kVectors, true>;
        part(left.at + p * kProduct + o, 1, kBlock, right.at + p * kProduct + j * kLanes, kBlock, last - first,
             sums + (p * kBlock + o) * kBlock + j * kLanes, kBlock);
      }
}

// G'(sums of all slices, `stride` floats apart) G for one output and kLanes inputs, to dw [inputs][3][3].
void add_slices(const float *sums, int64_t slices, int64_t stride, int64_t inputs, float *dw) {
  Vector u[kProducts], g[9];
  for (int p = 0; p < kProducts; ++p) {
    u[p] = Vector{};
    for (int64_t slice = 0; slice < slices; ++slice) u[p] += load(sums + slice * stride + p * kBlock * kBlock);
  }
  kernel_gradients(u, g);
  for (int64_t i = 0; i < std::min<int64_t>(kLanes, inputs); ++i)
    for (int tap = 0; tap < 9; ++tap) dw[i * 9 + tap] = g[tap][i];
}

// The gradients of the kernel [outputs][channels][3][3] and of the bias [outputs]. A task takes a Block of outputs, one
// of inputs, and one slice of the tiles; how many slices there are depends on the shape alone.
void kernel_gradient(const float *dy, const float *x, const Shape &in, int64_t outputs, float *dw, float *dbias) {
  if (outputs <= kFew) return kernel_gradient_few(dy, x, in, outputs, dw, dbias);
  Shape out{in.batch, outputs, in.height, in.width};
  int64_t inward = ceil_div(in.channels, kBlock), blocks = ceil_div(outputs, kBlock) * inward;
  int64_t tiles = in.tiles(), slices = std::min(tiles, ceil_div(kTasks, blocks));
  Buffer sums(slices * blocks * kSums);
  std::vector<double> bias(slices * outputs);
  parallel(slices * blocks, 2 * kProducts * kProduct, [&](int64_t task, float *scratch) {
    int64_t slice = task / blocks, begin = tiles * slice / slices, end = tiles * (slice + 1) / slices;
    Block to(task % blocks / inward, outputs), from(task % inward, in.channels);
    for (int64_t i = begin; i < end; i += kChunk)
      add_tiles(dy, out, x, in, i, std::min(i + kChunk, end), to, from, scratch, i == begin, sums.data + task * kSums,
                from.first ? nullptr : &bias[slice * outputs + to.first]);
  });
  parallel(outputs, 0, [&](int64_t o, float *) {
    double total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) total += bias[slice * outputs + o];
    dbias[o] = total;
    for (int64_t c = 0; c < in.channels; c += kLanes) {
      int64_t block = o / kBlock * inward + c / kBlock, place = o % kBlock * kBlock + c % kBlock;
      add_slices(sums.data + block * kSums + place, slices, blocks * kSums, in.channels - c,
                 dw + (o * in.channels + c) * 9);
    }
  });
}

}  // namespace
