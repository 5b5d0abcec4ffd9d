// Attention across scales (Mei et al., Image Super-Resolution with Cross-Scale Non-Local Attention, 2020): the softmax of
// how like the 3x3 neighbourhoods of a picture's pixels, the queries, are to those of a smaller picture, the keys; by it
// larger patches are pasted, enlarged. And its gradients.
//
// The likeness of two neighbourhoods is a sum over nine shifts of the likeness of two pixels,
//     (T x)[p][j] = sum over d of x[p + d][j + d],     x[p][j] = q[p]'k[j],
// and so is the pasting: with a = softmax(10 T x / norms), pixel p gets the sum over j of (T a)[p][j] times the s x s
// pixels of v at j. That is a ninth of the products. T is its own adjoint. Keys lie in rows with a zero behind each and
// above and below all, so that a shift is a distance in memory. A task takes a tile of queries and all keys, with what it
// needs of the queries around. Results do not depend on the number of threads.
#pragma once

#include "attention.h"

namespace {

constexpr int64_t kTall = 16, kWide = 24;        // queries of a tile, unless a larger one stays in the cache
constexpr int64_t kTile = int64_t{5} << 19;       // floats that do
constexpr int64_t kMost = int64_t{1} << 26;       // floats of a tile, beyond which it is 8x8
constexpr float kSharpness = 10, kOverlap = 6, kSmallestNorm = 1e-4f;

struct Region {  // of queries
  int64_t top, bottom, left, right;
  int64_t width() const { return right - left; }
  int64_t size() const { return (bottom - top) * width(); }
  int64_t padded() const { return round_up(size(), kRows); }
  int64_t index(int64_t y, int64_t x) const { return (y - top) * width() + x - left; }
  template <typename Function>
  void each(Function function) const {  // (y, x) of all
    for (int64_t y = top; y < bottom; ++y)
      for (int64_t x = left; x < right; ++x) function(y, x);
  }
};

// The shapes of one picture, and how matrices [queries][keys] lie in memory.
struct Across {
  Across(int64_t depth, int64_t channels, int64_t height, int64_t width, int64_t rows, int64_t columns)
      : depth(depth), channels(channels), height(height), width(width), rows(rows), columns(columns) {}

  Region grown(const Region &r, int64_t by) const {
    return {std::max<int64_t>(r.top - by, 0), std::min(r.bottom + by, height), std::max<int64_t>(r.left - by, 0),
            std::min(r.right + by, width)};
  }

  // The tiles, as equal as they can be; around: rows of a matrix for a query of the tile and those around it.
  template <typename Needed>
  void cut(Needed needed) {
    int64_t tall = height, wide = width;
    auto floats = [&] { return needed(std::min(tall + 4, height) * std::min(wide + 4, width)) * row; };
    while (floats() > kTile && (tall > kTall || wide > kWide)) {
      if (tall > kTall) tall = std::max(ceil_div(tall, 2), kTall);
      else wide = std::max(ceil_div(wide, 2), kWide);
    }
    if (floats() > kMost) tall = std::min<int64_t>(tall, 8), wide = std::min<int64_t>(wide, 8);
    down = ceil_div(height, tall), across = ceil_div(width, wide);
  }
  int64_t tiles() const { return down * across; }
  Region tile(int64_t i) const {
    int64_t y = i / across, x = i % across;
    return {height * y / down, height * (y + 1) / down, width * x / across, width * (x + 1) / across};
  }
  int64_t largest() const { return ceil_div(height, down) * ceil_div(width, across); }
  int64_t largest(int64_t by) const {
    return std::min(ceil_div(height, down) + 2 * by, height) * std::min(ceil_div(width, across) + 2 * by, width);
  }

  int64_t depth, channels;      // of queries and keys; of v
  int64_t height, width;        // of queries and v
  int64_t rows, columns;        // of keys
  int64_t factor = height / rows, folded = channels * factor * factor;
  int64_t line = columns + 1;                             // from one row of keys to the next
  int64_t keys = round_up(rows * line, kVectors * kLanes);
  int64_t guard = round_up(line + 1, 16);                 // zeros around the keys of a query
  int64_t row = pitch(keys + guard);                      // from query to query
  int64_t wide = round_up(folded, kLanes), out_row = pitch(wide);
  int64_t down = 0, across = 0;                           // tiles
};

// A matrix [queries][keys] in memory for floats(): with zeros around every row.
struct Matrix {
  static int64_t floats(const Across &g, int64_t queries) { return round_up(queries, kRows) * g.row + g.guard; }
  Matrix(const Across &g, const Region &region, float *memory) : region(region), at(memory + g.guard), row(g.row) {
    std::memset(memory, 0, 4 * g.guard);
    for (int64_t i = 0; i < region.size(); ++i) std::memset(at + i * row + g.keys, 0, 4 * (row - g.keys));
  }
  float *operator()(int64_t y, int64_t x) const { return at + region.index(y, x) * row; }

  Region region;
  float *at;
  int64_t row;
};

template <int kCount>
void add_up(const float *const *from, int64_t count, float *to) {
  for (int64_t j = 0; j < count; j += kLanes) {
    Vector sum = load(from[0] + j);
#pragma GCC unroll 9
    for (int i = 1; i < kCount; ++i) sum += load(from[i] + j);
    store(to + j, sum);
  }
}

// Row (y, x) of T m.
void shifted_sum(const Across &g, const Matrix &m, int64_t y, int64_t x, float *to) {
  const float *from[9];
  int count = 0;
  for (int64_t dy = -1; dy <= 1; ++dy)
    for (int64_t dx = -1; dx <= 1; ++dx)
      if (y + dy >= 0 && y + dy < g.height && x + dx >= 0 && x + dx < g.width)
        from[count++] = m(y + dy, x + dx) + dy * g.line + dx;
  switch (count) {
    case 1: return add_up<1>(from, g.keys, to);
    case 2: return add_up<2>(from, g.keys, to);
    case 3: return add_up<3>(from, g.keys, to);
    case 4: return add_up<4>(from, g.keys, to);
    case 6: return add_up<6>(from, g.keys, to);
    default: return add_up<9>(from, g.keys, to);
  }
}

// Channel c of the pixel of k at a key, 0 where there is none.
float pixel(const Across &g, const float *k, int64_t key, int64_t c) {
  int64_t u = key / g.line, x = key % g.line;
  return u < g.rows && x < g.columns && c < g.depth ? k[(c * g.rows + u) * g.columns + x] : 0;
}

// The keys of a picture: the factor of scores; what they are multiplied by and what is added, -infinity where there is no
// key; and the keys' norms.
struct Keys {
  Keys(const Across &g, const float *k) : pixels(g.depth, g.keys), memory(3 * g.keys) {
    factors = memory.data, none = factors + g.keys, norms = none + g.keys;
    std::vector<float> squares(g.keys + 2 * g.guard);
    for (int64_t j = 0, wide; j < pixels.registers; j += wide) {
      wide = panel(j, pixels.registers);
      for (int64_t c = 0; c < g.depth; ++c)
        for (int64_t i = 0; i < wide * kLanes; ++i) {
          int64_t key = j * kLanes + i;
          float value = pixel(g, k, key, c);
          pixels.at(j)[c * wide * kLanes + i] = value;
          squares[g.guard + key] += value * value;
        }
    }
    for (int64_t key = 0; key < g.keys; ++key) {
      float sum = 0;
      for (int64_t d = 0; d < 9; ++d) sum += squares[g.guard + key + (d / 3 - 1) * g.line + d % 3 - 1];
      bool there = key / g.line < g.rows && key % g.line < g.columns;
      norms[key] = std::sqrt(sum);
      factors[key] = there ? kSharpness / std::max(norms[key], kSmallestNorm) : 0;
      none[key] = there ? 0 : kNone;
    }
  }
  Packed pixels;
  Buffer memory;
  float *factors, *none, *norms;
};

// Element [j][(c, i, l)] of the folded values of v: pixel (s u + i, s x + l) of channel c, j being key (u, x).
float folded(const Across &g, const float *v, int64_t key, int64_t channel) {
  int64_t u = key / g.line, x = key % g.line, s = g.factor, c = channel / (s * s), i = channel / s % s, l = channel % s;
  if (u >= g.rows || x >= g.columns || channel >= g.folded) return 0;
  return v[(c * g.height + s * u + i) * g.width + s * x + l];
}

// A factor of the elements value(row, column).
template <typename Value>
void pack(const Panels &to, Value value) {
  parallel(to.registers, 0, [&](int64_t j, float *) {
    float *at = to.at(to.first(j)) + (j - to.first(j)) * kLanes;
    for (int64_t row = 0; row < to.depth; ++row, at += to.width(j))
      for (int l = 0; l < kLanes; ++l) at[l] = value(row, j * kLanes + l);
  });
}

// The pixels q [depth][height][width] of a region as columns of a left factor, [depth][padded].
void copy_region(const Across &g, const float *q, const Region &r, float *to) {
  for (int64_t c = 0; c < g.depth; ++c, to += r.padded()) {
    for (int64_t y = r.top; y < r.bottom; ++y)
      std::memcpy(to + r.index(y, r.left), q + (c * g.height + y) * g.width + r.left, 4 * r.width());
    std::memset(to + r.size(), 0, 4 * (r.padded() - r.size()));
  }
}

// Matrix m = likeness of the pixels of its region, and those of the keys; queries: memory for copy_region.
void compare(const Across &g, const float *q, const Keys &keys, float *queries, const Matrix &m) {
  copy_region(g, q, m.region, queries);
  product({queries, 1, m.region.padded()}, m.region.size(), keys.pixels, 0, g.depth, 0, keys.pixels.registers, false,
          m.at, m.row);
}

// The row of scores of a query, of its likenesses T m; returns the largest.
float scores_of(const Across &g, const Keys &keys, float *row) {
  Vector most = load(row) * load(keys.factors) + load(keys.none);
  for (int64_t j = 0; j < g.keys; j += kLanes) {
    Vector v = load(row + j) * load(keys.factors + j) + load(keys.none + j);
    store(row + j, v);
    most = most > v ? most : v;
  }
  return highest(most);
}

// rows [queries of a region][folded channels] / 6 to y [channels][factor * height][factor * width].
void unfold(const Across &g, const float *rows, const Region &r, float *y) {
  int64_t s = g.factor, line = s * g.width;
  for (int64_t c = 0; c < g.channels; ++c)
    for (int64_t i = 0; i < s; ++i)
      for (int64_t top = r.top; top < r.bottom; ++top) {
        float *to = y + (c * s * g.height + s * top + i) * line + s * r.left;
        const float *from = rows + r.index(top, r.left) * g.out_row + (c * s + i) * s;
        for (int64_t x = 0; x < r.width(); ++x, from += g.out_row, to += s)
          for (int64_t l = 0; l < s; ++l) to[l] = from[l] * (1 / kOverlap);
      }
}

// y [channels][factor * height][factor * width] of q [depth][height][width], k [depth][rows][columns] and
// v [channels][height][width], of one picture.
void cross_scale(Across g, const float *q, const float *k, const float *v, float *y) {
  Keys keys(g, k);
  Packed values(g.keys, g.folded);
  pack(values, [&](int64_t key, int64_t channel) { return folded(g, v, key, channel); });
  g.cut([](int64_t queries) { return 2 * queries; });
  int64_t likeness = Matrix::floats(g, g.largest(2)), weights = Matrix::floats(g, g.largest(1));
  int64_t rest = std::max(g.depth * round_up(g.largest(2), kRows), round_up(g.largest(), kRows) * g.out_row);
  parallel(g.tiles(), likeness + weights + rest, [&](int64_t task, float *scratch) {
    Region tile = g.tile(task);
    Matrix x(g, g.grown(tile, 2), scratch), a(g, g.grown(tile, 1), scratch + likeness);
    float *queries = scratch + likeness + weights, *pasted = queries;
    compare(g, q, keys, queries, x);
    a.region.each([&](int64_t top, int64_t left) {
      float *row = a(top, left);
      shifted_sum(g, x, top, left, row);
      float sum = exponentials(row, g.keys, scores_of(g, keys, row));
      scale(row, g.keys, 1 / sum);
    });
    Matrix b(g, tile, scratch);
    tile.each([&](int64_t top, int64_t left) { shifted_sum(g, a, top, left, b(top, left)); });
    product({b.at, b.row, 1}, tile.size(), values, 0, g.keys, 0, values.registers, false, pasted, g.out_row);
    unfold(g, pasted, tile, y);
  });
}

}  // namespace
