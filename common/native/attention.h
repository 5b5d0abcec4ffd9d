// Attention within a picture: softmax(q'k) v over all its pixels, and its gradients, a block of queries and a few keys at a
// time, so that the matrix of scores is never there as a whole. Results do not depend on the number of threads.
#pragma once

#include <cmath>
#include <limits>

#include "transforms.h"

namespace {

constexpr int64_t kDepth = 256;   // rows of a right factor that a product works on at a time: they stay in the cache
constexpr int64_t kQueries = 64;  // of a task
constexpr int64_t kKeys = 256;    // whose scores are there at a time; whole panels
constexpr float kNone = -std::numeric_limits<float>::infinity();

// The right factor [depth][columns] of products: panels of kVectors registers of columns, or of 1, one after another,
// each [depth][lanes]; zeros in columns that are not there.
struct Panels {
  Panels(int64_t depth, int64_t columns, float *data) : depth(depth), registers(ceil_div(columns, kLanes)), start(data) {}
  static int64_t floats(int64_t depth, int64_t columns) { return round_up(columns, kLanes) * depth; }

  // The panel that begins with register j; the one that register j is in, and the floats of a row of it.
  float *at(int64_t j) const { return start + j * kLanes * depth; }
  int64_t first(int64_t j) const { return panel_start(j, registers); }
  int64_t width(int64_t j) const { return panel(first(j), registers) * kLanes; }

  int64_t depth, registers;
  float *start;
};

struct Packed : private Buffer, Panels {  // Panels in memory of their own
  Packed(int64_t depth, int64_t columns)
      : Buffer(floats(depth, columns)), Panels(depth, columns, Buffer::data) {}
};

struct Left {  // the left factor: element [i][k] is at[i * row + k * next]
  const float *at;
  int64_t row, next;
};

// to [rows][columns] = (or with add, +=) left [rows][count] times rows first..first+count of registers begin..end of
// right, which begin and end panels. rows are rounded up to whole kRows in left and to.
void product(const Left &left, int64_t rows, const Panels &right, int64_t first, int64_t count, int64_t begin,
             int64_t end, bool add, float *to, int64_t to_row) {
  for (int64_t k = 0; k < count; k += kDepth, add = true)
    for (int64_t j = begin, wide; j < end; j += wide) {
      wide = panel(j, right.registers);
      auto part = wide == 1 ? add ? multiply<1, true> : multiply<1, false>
                            : add ? multiply<kVectors, true> : multiply<kVectors, false>;
      const float *b = right.at(j) + (first + k) * wide * kLanes;
      for (int64_t r = 0; r < rows; r += kRows)
        part(left.at + r * left.row + k * left.next, left.row, left.next, b, wide * kLanes, std::min(kDepth, count - k),
             to + r * to_row + (j - begin) * kLanes, to_row);
    }
}

// planes [channels][..], `plane` floats apart, to [count][channels]; rows hold whole registers of channels.
void to_rows(const float *planes, int64_t plane, int64_t channels, int64_t count, float *to, int64_t row) {
  for (int64_t c = 0; c < channels; c += kLanes)
    for (int64_t i = 0; i < count; i += kLanes) {
      Vector v[kLanes];
      for (int64_t l = 0; l < kLanes; ++l)
        v[l] = c + l < channels ? load(planes + (c + l) * plane + i, count - i) : Vector{};
      transpose(v);
      for (int64_t l = 0; l < std::min<int64_t>(kLanes, count - i); ++l) store(to + (i + l) * row + c, v[l]);
    }
}

// And back, multiplied by `factor`.
void from_rows(const float *rows, int64_t row, int64_t channels, int64_t count, float factor, float *planes,
               int64_t plane) {
  for (int64_t c = 0; c < channels; c += kLanes)
    for (int64_t i = 0; i < count; i += kLanes) {
      Vector v[kLanes];
      for (int64_t l = 0; l < kLanes; ++l) v[l] = i + l < count ? load(rows + (i + l) * row + c) * factor : Vector{};
      transpose(v);
      for (int64_t l = 0; l < std::min<int64_t>(kLanes, channels - c); ++l)
        store(planes + (c + l) * plane + i, v[l], count - i);
    }
}

// Register j of the factor [pixels][channels] of planes [channels][pixels], `plane` floats apart.
void pack_pixels(const float *planes, int64_t plane, int64_t channels, const Panels &to, int64_t j) {
  to_rows(planes + j * kLanes * plane, plane, std::min<int64_t>(kLanes, channels - j * kLanes), to.depth,
          to.at(to.first(j)) + (j - to.first(j)) * kLanes, to.width(j));
}

// The factor [channels][pixels] of planes [channels][pixels].
void pack_planes(const float *planes, int64_t channels, int64_t pixels, const Panels &to) {
  for (int64_t j = 0, wide; j < to.registers; j += wide) {
    wide = panel(j, to.registers);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t n = 0; n < wide; ++n) {
        int64_t left = pixels - (j + n) * kLanes;
        store(to.at(j) + (c * wide + n) * kLanes,
              left > 0 ? load(planes + c * pixels + (j + n) * kLanes, left) : Vector{});
      }
  }
}

// `count` pixels of planes to [channels][columns], zeros behind them.
void copy_pixels(const float *planes, int64_t plane, int64_t channels, int64_t count, float *to, int64_t columns) {
  for (int64_t c = 0; c < channels; ++c, to += columns, planes += plane) {
    std::memcpy(to, planes, 4 * count);
    std::memset(to + count, 0, 4 * (columns - count));
  }
}

// e^x for x up to 88, to 2e-7 of itself; 0 below -87: x = n ln 2 + r, e^r by its Taylor series.
inline Vector exponential(Vector x) {
  constexpr float kMagic = 12582912;  // 1.5 * 2^23: adding it rounds, and leaves n in the lowest bits
  Vector shifted = x * 1.44269504f + kMagic, n = shifted - kMagic;
  Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * (1 / 5040.f) + (1 / 720.f);
  p = p * r + (1 / 120.f);
  p = p * r + (1 / 24.f);
  p = p * r + (1 / 6.f);
  p = p * r + .5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  Integers bits = reinterpret_cast<Integers>(p) + (reinterpret_cast<Integers>(shifted) << 23);
  bits &= reinterpret_cast<Integers>(x > -87.f);
  return reinterpret_cast<Vector>(bits);
}

float highest(Vector v) {
  float found = v[0];
  for (int l = 1; l < kLanes; ++l) found = std::max(found, v[l]);
  return found;
}

float largest(const float *p, int64_t count) {  // count: whole registers, here and below
  Vector most = load(p);
  for (int64_t i = kLanes; i < count; i += kLanes) {
    Vector v = load(p + i);
    most = most > v ? most : v;
  }
  return highest(most);
}

float total(Vector v) {
  float sum = 0;
  for (int l = 0; l < kLanes; ++l) sum += v[l];
  return sum;
}

// p = e^(p - shift); returns its sum.
float exponentials(float *p, int64_t count, float shift) {
  Vector sum = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    Vector e = exponential(load(p + i) - shift);
    store(p + i, e);
    sum += e;
  }
  return total(sum);
}

float dot(const float *a, const float *b, int64_t count) {
  Vector sum = {};
  for (int64_t i = 0; i < count; i += kLanes) sum += load(a + i) * load(b + i);
  return total(sum);
}

void scale(float *p, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i += kLanes) store(p + i, load(p + i) * factor);
}

// The softmax of the scores of kQueries queries, a chunk of keys at a time, with a running maximum.
class Softmax {
 public:
  Softmax(const float *queries, const Panels &keys, int64_t pixels, float *scores, int64_t row)
      : queries_(queries), scores_(scores), keys_(keys), pixels_(pixels), row_(row) {
    std::fill(top_, top_ + kQueries, kNone);
    std::fill(sum_, sum_ + kQueries, 0.f);
  }

  // Floats of the chunk that begins with key `first`, whole registers.
  int64_t count(int64_t first) const { return std::min(kKeys, keys_.registers * kLanes - first); }

  // The scores of a chunk as powers of e, with the maximum so far taken off; what was summed before is to be multiplied
  // by factors[kQueries].
  void add(int64_t first, float *factors) {
    score(first);
    for (int64_t r = 0; r < kQueries; ++r) {
      float *row = scores_ + r * row_, top = std::max(top_[r], largest(row, count(first)));
      factors[r] = std::exp(top_[r] - top);
      top_[r] = top;
      sum_[r] = sum_[r] * factors[r] + exponentials(row, count(first), top);
    }
  }

  // The softmax itself, when all chunks were added.
  void finish(int64_t first) {
    score(first);
    for (int64_t r = 0; r < kQueries; ++r) {
      exponentials(scores_ + r * row_, count(first), top_[r]);
      scale(scores_ + r * row_, count(first), 1 / sum_[r]);
    }
  }

  float sum(int64_t r) const { return sum_[r]; }

 private:
  void score(int64_t first) {
    int64_t end = first + count(first);
    product({queries_, 1, kQueries}, kQueries, keys_, 0, keys_.depth, first / kLanes, end / kLanes, false, scores_, row_);
    for (int64_t r = 0; r < kQueries; ++r)
      for (int64_t i = pixels_; i < end; ++i) scores_[r * row_ + i - first] = kNone;
  }

  const float *queries_;
  float *scores_, top_[kQueries], sum_[kQueries];
  const Panels &keys_;
  int64_t pixels_, row_;
};

// y [channels][pixels] of q and k [depth][pixels] and v [channels][pixels], of one picture.
void in_scale(const float *q, const float *k, const float *v, int64_t depth, int64_t channels, int64_t pixels,
              float *y) {
  Packed keys(depth, pixels), values(pixels, channels);
  pack_planes(k, depth, pixels, keys);
  parallel(values.registers, 0, [&](int64_t j, float *) { pack_pixels(v, pixels, channels, values, j); });
  int64_t row = pitch(kKeys), wide = values.registers * kLanes, y_row = pitch(wide);
  parallel(ceil_div(pixels, kQueries), kQueries * (depth + row + y_row), [&](int64_t task, float *scratch) {
    int64_t begin = task * kQueries, there = std::min(kQueries, pixels - begin);
    float *queries = scratch, *scores = queries + kQueries * depth, *sums = scores + kQueries * row, factors[kQueries];
    copy_pixels(q + begin, pixels, depth, there, queries, kQueries);
    Softmax softmax(queries, keys, pixels, scores, row);
    for (int64_t first = 0; first < pixels; first += kKeys) {
      softmax.add(first, factors);
      for (int64_t r = 0; first && r < kQueries; ++r)
        if (factors[r] != 1) scale(sums + r * y_row, wide, factors[r]);
      product({scores, row, 1}, kQueries, values, first, std::min(kKeys, pixels - first), 0, values.registers, first > 0,
              sums, y_row);
    }
    for (int64_t r = 0; r < kQueries; ++r) scale(sums + r * y_row, wide, 1 / softmax.sum(r));
    from_rows(sums, y_row, channels, there, 1, y + begin, pixels);
  });
}

// Tasks of one picture whose sums of gradients, `floats` each, are kept apart and added at the end: how many there are
// depends on the shapes alone.
int64_t parts_of(int64_t work, int64_t batch, int64_t floats) {
  int64_t wanted = std::min(ceil_div(16, batch), std::max<int64_t>((int64_t{1} << 26) / floats, 2));
  return std::min(work, wanted);
}

// The first of `count` arrays of that size becomes the sum of all.
void add_parts(float *parts, int64_t count, int64_t floats) {
  parallel(ceil_div(floats, 4096), 0, [&](int64_t task, float *) {
    for (int64_t part = 1; part < count; ++part)
      for (int64_t i = task * 4096; i < std::min((task + 1) * 4096, floats); ++i) parts[i] += parts[part * floats + i];
  });
}

}  // namespace
