// Winograd's F(4x4,3x3): between pixels and the values that are multiplied, one register holding kLanes channels.
#pragma once

#include <cstring>

#include "support.h"

namespace {

constexpr int kSide = 4, kPoints = kSide + 2;  // pixels of a side of a tile, and what they become: m, m + 2 of F(m,3)
constexpr int kProducts = kPoints * kPoints;
constexpr int kRun = 15;    // tiles beside each other that are transformed at once
constexpr int kPitch = 64;  // pixels of their rows: kSide * kRun + 2 and a multiple of kLanes

// The points of F(4,3) are 0, A, -A, B, -B and infinity; of those tried, these leave the least rounding error.
constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr float G0 = 1 / (A2 * B2), GA = 0.5f / (A2 * (A2 - B2)), GB = 0.5f / (B2 * (B2 - A2));

inline void input_points(const Vector *d, Vector *v) {  // B'd
  Vector even = d[4] - B2 * d[2], odd = A * (d[3] - B2 * d[1]), even2 = d[4] - A2 * d[2], odd2 = B * (d[3] - A2 * d[1]);
  v[0] = A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4];
  v[1] = even + odd;
  v[2] = even - odd;
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  v[5] = A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5];
}

inline void output_pixels(const Vector *m, Vector *y) {  // A'm
  Vector even = m[1] + m[2], odd = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
  y[0] = m[0] + even + even2;
  y[1] = A * odd + B * odd2;
  y[2] = A2 * even + B2 * even2;
  y[3] = A * A2 * odd + B * B2 * odd2 + m[5];
}

inline void gradient_points(const Vector *y, Vector *m) {  // A y
  Vector even = y[0] + A2 * y[2], odd = A * (y[1] + A2 * y[3]), even2 = y[0] + B2 * y[2], odd2 = B * (y[1] + B2 * y[3]);
  m[0] = y[0];
  m[1] = even + odd;
  m[2] = even - odd;
  m[3] = even2 + odd2;
  m[4] = even2 - odd2;
  m[5] = y[3];
}

inline void kernel_points(const Vector *g, Vector *u) {  // G g
  Vector even = g[0] + A2 * g[2], even2 = g[0] + B2 * g[2];
  u[0] = G0 * g[0];
  u[1] = GA * (even + A * g[1]);
  u[2] = GA * (even - A * g[1]);
  u[3] = GB * (even2 + B * g[1]);
  u[4] = GB * (even2 - B * g[1]);
  u[5] = g[2];
}

inline void kernel_taps(const Vector *u, Vector *g) {  // G'u
  Vector even = GA * (u[1] + u[2]), even2 = GB * (u[3] + u[4]);
  g[0] = G0 * u[0] + even + even2;
  g[1] = A * GA * (u[1] - u[2]) + B * GB * (u[3] - u[4]);
  g[2] = A2 * even + B2 * even2 + u[5];
}

struct Shape {
  int64_t batch, channels, height, width;
  int64_t plane() const { return height * width; }
  int64_t across() const { return ceil_div(width, kSide); }
  int64_t down() const { return ceil_div(height, kSide); }
  int64_t tiles() const { return batch * down() * across(); }
};

struct Run {  // of tiles beside each other, the first of which is tile `index` of a range
  int64_t picture, top, left, count, index;
};

// work(run) for the runs that tiles first..last consist of.
template <typename Work>
void for_runs(const Shape &s, int64_t first, int64_t last, const Work &work) {
  for (int64_t t = first, count; t < last; t += count) {
    int64_t row = t / s.across(), column = t % s.across();
    count = std::min({int64_t{kRun}, s.across() - column, last - t});
    work(Run{row / s.down(), row % s.down() * kSide, column * kSide, count, t - first});
  }
}

struct Planes {  // kLanes channels of a picture, or what there is of them
  const float *first;
  int64_t count;
};

// Channels `channel` and following of a picture of a tensor with `s.channels` channels.
Planes planes_of(const float *tensor, const Shape &s, int64_t picture, int64_t channel) {
  return {tensor + (picture * s.channels + channel) * s.plane(), std::min<int64_t>(kLanes, s.channels - channel)};
}

// Rows top..top+rows and columns left..left+columns of a plane to rows `pitch` apart, zeros outside of it.
void copy_rows(const float *plane, const Shape &s, int64_t top, int rows, int64_t left, int64_t columns, int64_t pitch,
               float *to) {
  int64_t first = std::max<int64_t>(left, 0), last = std::min(left + columns, s.width);
  for (int r = 0; r < rows; ++r, to += pitch) {
    int64_t y = top + r;
    if (y < 0 || y >= s.height) {
      std::memset(to, 0, 4 * columns);
      continue;
    }
    const float *from = plane + y * s.width;
    for (int64_t x = first; x < last + 16; x += 16) __builtin_prefetch(from + 4 * s.plane() + x);  // channels to come
    if (first > left) to[0] = 0;  // left is -1 at the least
    std::memcpy(to + (first - left), from + first, 4 * (last - first));
    if (last - left < columns) std::memset(to + (last - left), 0, 4 * (left + columns - last));
  }
}

// The same of all planes to [rows][kPitch][kLanes].
template <int kHeight>
void load_pixels(const Planes &planes, const Shape &s, int64_t top, int64_t left, int64_t columns, float *to) {
  constexpr int kPlane = kHeight * kPitch + 16;  // no power of two: those fall into the same few sets of the cache
  alignas(64) float staged[kLanes * kPlane];
  for (int64_t c = 0; c < planes.count; ++c)
    copy_rows(planes.first + c * s.plane(), s, top, kHeight, left, columns, kPitch, staged + c * kPlane);
  std::memset(staged + planes.count * kPlane, 0, 4 * (kLanes - planes.count) * kPlane);
  for (int r = 0; r < kHeight; ++r)
    for (int64_t x = 0; x < columns; x += kLanes) {
      Vector v[kLanes];
      for (int c = 0; c < kLanes; ++c) v[c] = load(staged + c * kPlane + r * kPitch + x);
      transpose(v);
      for (int i = 0; i < kLanes; ++i) store(to + (r * kPitch + x + i) * kLanes, v[i]);
    }
}

struct Place {  // of a run's first tile in [kProducts][tiles][channels]: floats from product to product, tile to tile
  float *at;
  int64_t product, tile;
};

// B'd B: the input of a run's tiles.
void transform_input(const Planes &planes, const Shape &s, const Run &run, const Place &to) {
  alignas(64) float pixels[kPoints * kPitch * kLanes];
  int64_t columns = kSide * run.count + 2;
  load_pixels<kPoints>(planes, s, run.top - 1, run.left - 1, columns, pixels);
  Vector d[kPoints], v[kPoints];
  for (int64_t x = 0; x < columns; ++x) {
    for (int r = 0; r < kPoints; ++r) d[r] = load(pixels + (r * kPitch + x) * kLanes);
    input_points(d, v);
    for (int r = 0; r < kPoints; ++r) store(pixels + (r * kPitch + x) * kLanes, v[r]);
  }
  for (int64_t t = 0; t < run.count; ++t)
    for (int r = 0; r < kPoints; ++r) {
      for (int i = 0; i < kPoints; ++i) d[i] = load(pixels + (r * kPitch + kSide * t + i) * kLanes);
      input_points(d, v);
      for (int i = 0; i < kPoints; ++i) store(to.at + (r * kPoints + i) * to.product + t * to.tile, v[i]);
    }
}

// A dy A': the output's gradient at a run's tiles. Returns its sum.
Vector transform_gradient(const Planes &planes, const Shape &s, const Run &run, const Place &to) {
  alignas(64) float pixels[kSide * kPitch * kLanes];
  load_pixels<kSide>(planes, s, run.top, run.left, kSide * run.count, pixels);
  Vector total = {};
  for (int64_t t = 0; t < run.count; ++t) {
    Vector rows[kPoints][kSide], y[kSide], m[kPoints];
    for (int x = 0; x < kSide; ++x) {
      for (int r = 0; r < kSide; ++r) y[r] = load(pixels + (r * kPitch + kSide * t + x) * kLanes);
      total += (y[0] + y[1]) + (y[2] + y[3]);
      gradient_points(y, m);
      for (int r = 0; r < kPoints; ++r) rows[r][x] = m[r];
    }
    for (int r = 0; r < kPoints; ++r) {
      gradient_points(rows[r], m);
      for (int i = 0; i < kPoints; ++i) store(to.at + (r * kPoints + i) * to.product + t * to.tile, m[i]);
    }
  }
  return total;
}

// [kSide][kPitch][kLanes] to those rows and columns of planes that a run covers.
void store_pixels(const float *pixels, const Shape &s, const Run &run, int64_t channels, float *planes) {
  int64_t columns = std::min(kSide * run.count, s.width - run.left);
  for (int r = 0; r < std::min<int64_t>(kSide, s.height - run.top); ++r)
    for (int64_t x = 0; x < columns; x += kLanes) {
      Vector v[kLanes];
      for (int i = 0; i < kLanes; ++i) v[i] = load(pixels + (r * kPitch + x + i) * kLanes);
      transpose(v);
      float *to = planes + (run.top + r) * s.width + run.left + x;
      for (int64_t c = 0; c < channels; ++c, to += s.plane()) {
        if (columns - x >= kLanes) store(to, v[c]);
        else std::memcpy(to, &v[c], 4 * (columns - x));
      }
    }
}

// A'm A + bias: a run's tiles of the output, into `channels` planes.
void transform_output(const Place &from, Vector bias, const Shape &s, const Run &run, int64_t channels, float *planes) {
  alignas(64) float pixels[kSide * kPitch * kLanes];
  for (int64_t t = 0; t < run.count; ++t) {
    Vector columns[kSide][kPoints], m[kPoints], y[kSide];
    for (int r = 0; r < kPoints; ++r) {
      for (int i = 0; i < kPoints; ++i) m[i] = load(from.at + (r * kPoints + i) * from.product + t * from.tile);
      output_pixels(m, y);
      for (int x = 0; x < kSide; ++x) columns[x][r] = y[x];
    }
    for (int x = 0; x < kSide; ++x) {
      output_pixels(columns[x], y);
      for (int r = 0; r < kSide; ++r) store(pixels + (r * kPitch + kSide * t + x) * kLanes, y[r] + bias);
    }
  }
  store_pixels(pixels, s, run, channels, planes);
}

// G g G' for kLanes kernels g [9][kLanes].
inline void transform_kernels(const Vector *g, Vector *u) {
  Vector columns[3][kPoints], taps[3];
  for (int x = 0; x < 3; ++x) {
    for (int y = 0; y < 3; ++y) taps[y] = g[y * 3 + x];
    kernel_points(taps, columns[x]);
  }
  for (int r = 0; r < kPoints; ++r) {
    for (int x = 0; x < 3; ++x) taps[x] = columns[x][r];
    kernel_points(taps, u + r * kPoints);
  }
}

// G'u G: the gradients [9][kLanes] of kLanes kernels.
inline void kernel_gradients(const Vector *u, Vector *g) {
  Vector rows[3][kPoints], column[kPoints], taps[3];
  for (int i = 0; i < kPoints; ++i) {
    for (int r = 0; r < kPoints; ++r) column[r] = u[r * kPoints + i];
    kernel_taps(column, taps);
    for (int y = 0; y < 3; ++y) rows[y][i] = taps[y];
  }
  for (int y = 0; y < 3; ++y) kernel_taps(rows[y], g + y * 3);
}

}  // namespace
