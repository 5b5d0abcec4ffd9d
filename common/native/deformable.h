// The modulated deformable 3x3 convolution (Zhu et al., Deformable ConvNets v2, 2019; stride 1, zeros around pictures)
// and its gradients: each tap of the kernel reads the input at a point of its own, between four pixels.
//
// Channels come in groups that are read at the same points. What the nine taps read of a group for a stretch of pixels,
// its samples, is multiplied by the kernel at once and never stored as a whole. Results do not depend on the number of
// threads.
#pragma once

#include "transforms.h"

namespace {

constexpr int kStretch = 128;                  // pixels whose samples are in the cache at a time
constexpr int kPart = 8;                       // channels that are read at once
constexpr int64_t kFramed = int64_t{1} << 22;  // floats of framed pictures at a time, or one picture
constexpr int64_t kSlices = 16;                // of the batch, for the gradients

typedef float Part __attribute__((vector_size(4 * kPart), aligned(4), may_alias));
typedef float HalfPart __attribute__((vector_size(2 * kPart), aligned(4), may_alias));

inline Part &part(float *p) { return *reinterpret_cast<Part *>(p); }
inline const Part &part(const float *p) { return *reinterpret_cast<const Part *>(p); }

// An input, and where it is read: the offsets to x of every group and tap, to y, then the masks [batch][3][groups][9].
struct Deformed {
  Deformed(const float *x, const Shape &in, const float *sampling, int64_t groups)
      : x(x), sampling(sampling), in(in), groups(groups), channels(in.channels / groups),
        width(round_up(channels, kPart)), depth(9 * width), row(pitch(depth)), line((in.width + 2) * width),
        framed((in.height + 2) * line), third(9 * groups * in.plane()) {}

  // Floats before the planes of a group; before its offsets to x for a tap; `third` more: to y, and twice: the masks.
  int64_t planes(int64_t picture, int64_t group) const { return (picture * groups + group) * channels * in.plane(); }
  int64_t points(int64_t picture, int64_t group, int tap) const {
    return ((picture * 3 * groups + group) * 9 + tap) * in.plane();
  }

  const float *x, *sampling;
  Shape in;
  int64_t groups, channels, width;  // channels of a group, and floats of them: whole Parts
  int64_t depth, row;               // floats of the samples [9][width] of a pixel, and from pixel to pixel
  int64_t line, framed, third;      // floats of a row of a group's framed picture, and of all of it
};

// A row of the framed picture [height + 2][width + 2][d.width] of a group: a pixel of zeros all around it.
void frame_row(const Deformed &d, int64_t picture, int64_t group, int64_t row, float *to) {
  std::memset(to, 0, 4 * d.line);
  if (row == 0 || row > d.in.height) return;
  const float *from = d.x + d.planes(picture, group) + (row - 1) * d.in.width;
  for (int64_t c = 0; c < d.channels; ++c, from += d.in.plane())
    for (int64_t i = 0; i < d.in.width; ++i) to[(i + 1) * d.width + c] = from[i];
}

// The kernel w [outputs][channels][3][3] of each group, `floats` of it: what sample s, which is [9][d.width], adds to
// output o goes to s * across + o * down.
void arrange(const float *w, const Deformed &d, int64_t outputs, int64_t across, int64_t down, int64_t floats,
             float *to) {
  parallel(d.groups, 0, [=](int64_t group, float *) {
    float *own = to + group * floats;
    std::memset(own, 0, 4 * floats);
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < d.channels * 9; ++i)
        own[(i % 9 * d.width + i / 9) * across + o * down] = w[(o * d.groups + group) * d.channels * 9 + i];
  });
}

struct Stretch {  // of pixels of a picture, one row after the other
  Stretch(const Shape &in, int64_t first) : first(first), count(std::min<int64_t>(kStretch, in.plane() - first)) {
    for (int64_t i = 0; i < count; ++i) y[i] = (first + i) / in.width, x[i] = (first + i) % in.width;
  }
  int64_t first, count;
  alignas(64) float y[kStretch] = {}, x[kStretch] = {};
};

struct Points {  // that a tap reads for a Stretch
  alignas(64) int32_t corner[kStretch];                // the pixel above and left of it, in the framed picture
  alignas(64) float y[kStretch], x[kStretch];          // from there to the point
  alignas(64) float mask[kStretch], inside[kStretch];  // inside: 0 where all four pixels around it are outside, or 1
  alignas(64) float weights[4][kStretch];              // of the four pixels, times mask
};

// The pixel, -1..size-1, before a coordinate, and the way from there. Of no number: some pixel, and no number.
inline void locate(Vector at, int64_t size, Integers &pixel, Vector &way, Vector &inside) {
  Vector low = Vector{} - 1.0f, high = Vector{} + static_cast<float>(size);
  Integers least = Integers{} - 1, most = Integers{} + static_cast<int32_t>(size - 1);
  Vector near = at < low ? low : at > high ? high : at;
  pixel = __builtin_convertvector(near, Integers);
  pixel += __builtin_convertvector(pixel, Vector) > near;  // true is -1
  way = near - __builtin_convertvector(pixel, Vector);
  pixel = pixel < least ? least : pixel > most ? most : pixel;
  inside = at < low ? Vector{} : at < high ? Vector{} + 1.0f : Vector{};
}

void find_points(const Deformed &d, int64_t picture, int64_t group, int tap, const Stretch &pixels, Points &to) {
  const float *from = d.sampling + d.points(picture, group, tap) + pixels.first;
  float down = tap / 3 - 1, right = tap % 3 - 1;
  for (int64_t i = 0; i < pixels.count; i += kLanes, from += kLanes) {
    int64_t left = pixels.count - i;
    Integers row, column;
    Vector y, x, inside, beside;
    locate(load(pixels.y + i) + down + load(from + d.third, left), d.in.height, row, y, inside);
    locate(load(pixels.x + i) + right + load(from, left), d.in.width, column, x, beside);
    inside *= beside;
    Vector mask = load(from + 2 * d.third, left), below = mask * inside * y, above = mask * inside - below;
    Integers corner = (row + 1) * static_cast<int32_t>(d.in.width + 2) + column + 1;
    std::memcpy(to.corner + i, &corner, sizeof corner);
    store(to.y + i, y), store(to.x + i, x), store(to.mask + i, mask), store(to.inside + i, inside);
    store(to.weights[0] + i, above - above * x), store(to.weights[1] + i, above * x);
    store(to.weights[2] + i, below - below * x), store(to.weights[3] + i, below * x);
  }
}

// The samples of a tap, times mask, d.row floats from pixel to pixel. kParts: Parts of a pixel, or 0: any number.
template <int kParts>
void read_samples(const Deformed &d, const float *framed, const Points &points, int64_t count, float *to) {
  int64_t width = kParts ? kParts * kPart : d.width;
  for (int64_t i = 0; i < count; ++i, to += d.row) {
    const float *from = framed + points.corner[i] * width;
    for (int64_t c = 0; c < width; c += kPart, from += kPart)
      part(to + c) = points.weights[0][i] * part(from) + points.weights[1][i] * part(from + width) +
                     points.weights[2][i] * part(from + d.line) + points.weights[3][i] * part(from + d.line + width);
  }
}

// to [rows][columns] = (or with add, +=) a [rows][depth] times b [depth][columns]; whole registers, and kRows, of it.
void multiply_all(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_k, int64_t depth, int64_t rows,
                  int64_t columns, bool add, float *to, int64_t to_row) {
  int64_t registers = ceil_div(columns, kLanes);
  for (int64_t j = 0, wide; j < registers; j += wide) {
    wide = panel(j, registers);
    auto some = wide == 1 ? add ? multiply<1, true> : multiply<1, false>
                          : add ? multiply<kVectors, true> : multiply<kVectors, false>;
    for (int64_t r = 0; r < rows; r += kRows)
      some(a + r * a_row, a_row, a_k, b + j * kLanes, b_k, depth, to + r * to_row + j * kLanes, to_row);
  }
}

// y [N,outputs,H,W], from w [outputs][channels][3][3] and bias.
void deform(const Deformed &d, const float *w, const float *bias, float *y, int64_t outputs) {
  const Shape &in = d.in;
  int64_t row = pitch(outputs), stretches = ceil_div(in.plane(), kStretch), lines = in.height + 2;
  int64_t most = std::max<int64_t>(std::min(kFramed / (d.groups * d.framed), in.batch), 1);  // pictures at a time
  Buffer kernels(d.groups * d.depth * row), framed(most * d.groups * d.framed);
  arrange(w, d, outputs, row, 1, d.depth * row, kernels.data);
  auto read = d.width == kPart ? read_samples<1> : d.width == 2 * kPart ? read_samples<2> : read_samples<0>;
  for (int64_t first = 0; first < in.batch; first += most) {
    int64_t count = std::min(most, in.batch - first);
    parallel(count * d.groups * lines, 0, [&](int64_t line, float *) {
      frame_row(d, first + line / lines / d.groups, line / lines % d.groups, line % lines,
                framed.data + line * d.line);
    });
    parallel(count * stretches, kStretch * (d.row + row), [&](int64_t task, float *samples) {
      int64_t picture = first + task / stretches;
      Stretch pixels(in, task % stretches * kStretch);
      Points points;
      float *sums = samples + kStretch * d.row;
      for (int64_t group = 0; group < d.groups; ++group) {
        const float *from = framed.data + ((picture - first) * d.groups + group) * d.framed;
        for (int tap = 0; tap < 9; ++tap) {
          find_points(d, picture, group, tap, pixels, points);
          read(d, from, points, pixels.count, samples + tap * d.width);
        }
        multiply_all(samples, d.row, 1, kernels.data + group * d.depth * row, row, d.depth, pixels.count, outputs,
                     group > 0, sums, row);
      }
      for (int64_t o = 0; o < outputs; ++o) {
        float *to = y + (picture * outputs + o) * in.plane() + pixels.first;
        for (int64_t i = 0; i < pixels.count; ++i) to[i] = sums[i * row + o] + bias[o];
      }
    });
  }
}

// The first and the second half of a Part, added.
inline void fold(const Part &from, float *to) {
  HalfPart halves[2];
  std::memcpy(halves, &from, sizeof halves);
  *reinterpret_cast<HalfPart *>(to) = halves[0] + halves[1];
}

// From the gradient to a tap's samples: adds to that of the framed picture; writes the samples as above, and to dots
// [pixels][4][kPart / 2] what sums up to the gradients to the mask and, but for the mask, to y and x.
template <int kParts>
void return_samples(const Deformed &d, const float *gradient, const float *framed, const Points &points, int64_t count,
                    float *samples, float *dframed, float *dots) {
  int64_t width = kParts ? kParts * kPart : d.width, line = d.line;
  for (int64_t i = 0; i < count; ++i, gradient += d.row, samples += d.row, dots += 2 * kPart) {
    const float *from = framed + points.corner[i] * width;
    float *to = dframed + points.corner[i] * width, mask = points.mask[i] * points.inside[i];
    Part of_mask = {}, of_y = {}, of_x = {};
    for (int64_t c = 0; c < width; c += kPart, from += kPart, to += kPart) {
      Part g = part(gradient + c);
      Part above = part(from + width) - part(from), below = part(from + line + width) - part(from + line);
      Part start = part(from) + points.x[i] * above, down = part(from + line) + points.x[i] * below - start;
      Part sample = start + points.y[i] * down;
      part(samples + c) = mask * sample;
      of_mask += g * sample, of_y += g * down, of_x += g * (above + points.y[i] * (below - above));
      part(to) += points.weights[0][i] * g, part(to + width) += points.weights[1][i] * g;
      part(to + line) += points.weights[2][i] * g, part(to + line + width) += points.weights[3][i] * g;
    }
    fold(of_mask, dots), fold(of_y, dots + kPart / 2), fold(of_x, dots + kPart);
  }
}

// The gradients to a tap's offsets to x, to y and to its masks, `third` floats from one to the next.
void finish(const float *dots, const Points &points, int64_t count, int64_t third, float *to) {
  for (int64_t i = 0; i < count; i += kLanes, to += kLanes) {
    Vector sums[4], v[kLanes];
    for (int first = 0; first < 4; first += kLanes / 4) {
      for (int j = 0; j < kLanes; ++j) v[j] = load(dots + (i + j) * 2 * kPart + 4 * first);
      transpose(v);
      for (int n = 0; n < kLanes / 4; ++n) sums[first + n] = (v[4 * n] + v[4 * n + 1]) + (v[4 * n + 2] + v[4 * n + 3]);
    }
    Vector inside = load(points.inside + i), mask = load(points.mask + i) * inside;
    store(to, sums[2] * mask, count - i), store(to + third, sums[1] * mask, count - i);
    store(to + 2 * third, sums[0] * inside, count - i);
  }
}

// What a group of some pictures gives: dx and dsampling, and sums [outputs][d.row] for the kernel.
struct GroupGradients {
  GroupGradients(const Deformed &d, int64_t outputs)
      : d(d), outputs(outputs), rows(round_up(outputs, kRows)), floats(2 * d.framed + kStretch * (2 * d.row + 16) +
                                                                       rows * kLine) {}

  void add(const float *dy, const float *kernel, int64_t picture, int64_t group, float *scratch, float *sums,
           float *dsampling, float *dx) const {
    float *framed = scratch, *dframed = framed + d.framed;
    for (int64_t line = 0; line < d.in.height + 2; ++line)
      frame_row(d, picture, group, line, framed + line * d.line);
    std::memset(dframed, 0, 4 * d.framed);
    for (int64_t first = 0; first < d.in.plane(); first += kStretch)
      add_stretch(dy + picture * outputs * d.in.plane(), kernel, picture, group, {d.in, first}, scratch, sums,
                  dsampling);
    float *to = dx + d.planes(picture, group);
    for (int64_t c = 0; c < d.channels; ++c)
      for (int64_t i = 0; i < d.in.height; ++i)
        for (int64_t j = 0; j < d.in.width; ++j) *to++ = dframed[(i + 1) * d.line + (j + 1) * d.width + c];
  }

  void add_stretch(const float *dy, const float *kernel, int64_t picture, int64_t group, const Stretch &pixels,
                   float *framed, float *sums, float *dsampling) const {
    auto give = d.width == kPart ? return_samples<1> : d.width == 2 * kPart ? return_samples<2> : return_samples<0>;
    float *dframed = framed + d.framed, *samples = dframed + d.framed, *gradient = samples + kStretch * d.row;
    float *dots = gradient + kStretch * d.row, *lines = dots + kStretch * 16;
    for (int64_t o = 0; o < outputs; ++o)
      std::memcpy(lines + o * kLine, dy + o * d.in.plane() + pixels.first, 4 * pixels.count);
    multiply_all(lines, 1, kLine, kernel, d.row, outputs, pixels.count, d.depth, false, gradient, d.row);
    for (int tap = 0; tap < 9; ++tap) {
      Points points;
      find_points(d, picture, group, tap, pixels, points);
      give(d, gradient + tap * d.width, framed, points, pixels.count, samples + tap * d.width, dframed, dots);
      finish(dots, points, pixels.count, d.third, dsampling + d.points(picture, group, tap) + pixels.first);
    }
    multiply_all(lines, kLine, 1, samples, d.row, pixels.count, rows, d.depth, true, sums, d.row);
  }

  static constexpr int kLine = kStretch + 16;  // floats from output to output of a stretch of dy
  const Deformed &d;
  int64_t outputs, rows, floats;  // rows of the sums; floats of scratch
};

double sum_of(const float *plane, int64_t count) {
  double total = 0;
  for (int64_t first = 0; first < count; first += kStretch) {
    Vector sums = {};
    for (int64_t i = first; i < std::min(first + kStretch, count); i += kLanes) sums += load(plane + i, count - i);
    for (int i = 0; i < kLanes; ++i) total += sums[i];
  }
  return total;
}

// The gradients, from dy [N,outputs,H,W]. A task takes a group and a slice of the batch.
void deformable_gradients(const Deformed &d, const float *dy, const float *w, int64_t outputs, float *dx,
                          float *dsampling, float *dw, float *dbias) {
  GroupGradients gradients(d, outputs);
  int64_t batch = d.in.batch, slices = std::min(batch, kSlices), floats = gradients.rows * d.row;
  Buffer kernels(d.groups * outputs * d.row), sums(slices * d.groups * floats);  // [outputs][9][d.width] of each group
  arrange(w, d, outputs, 1, d.row, outputs * d.row, kernels.data);
  parallel(slices * d.groups, gradients.floats, [&](int64_t task, float *scratch) {
    int64_t slice = task / d.groups, group = task % d.groups;
    float *own = sums.data + task * floats;
    std::memset(own, 0, 4 * floats);
    for (int64_t picture = batch * slice / slices; picture < batch * (slice + 1) / slices; ++picture)
      gradients.add(dy, kernels.data + group * outputs * d.row, picture, group, scratch, own, dsampling, dx);
  });
  parallel(outputs, 0, [&](int64_t o, float *) {
    double total = 0;
    for (int64_t picture = 0; picture < batch; ++picture)
      total += sum_of(dy + (picture * outputs + o) * d.in.plane(), d.in.plane());
    dbias[o] = total;
    for (int64_t i = 0; i < d.in.channels * 9; ++i) {
      int64_t c = i / 9, group = c / d.channels, place = o * d.row + i % 9 * d.width + c % d.channels;
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice) sum += sums.data[(slice * d.groups + group) * floats + place];
      dw[o * d.in.channels * 9 + i] = sum;
    }
  });
}

}  // namespace
