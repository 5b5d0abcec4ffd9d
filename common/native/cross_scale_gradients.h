// The gradients of the attention across scales.
#pragma once

#include "cross_scale.h"

namespace {

// What the gradients of a picture need, and how what a task sums of a key lies in memory: dk, then dv, then the sum of
// ds * s, which the key's norm asks for.
struct AcrossGradients {
  AcrossGradients(const Across &shapes, const float *q, const float *k, const float *v)
      : g(shapes), q(q), k(k), keys(g, k), key_rows(g.keys, g.depth), values(g.folded, g.keys) {
    g.cut([](int64_t queries) { return 5 * queries; });
    pack(key_rows, [&](int64_t key, int64_t c) { return pixel(g, k, key, c); });
    pack(values, [&](int64_t channel, int64_t key) { return folded(g, v, key, channel); });
  }

  Across g;
  const float *q, *k;
  Keys keys;
  Packed key_rows, values;
  int64_t d_wide = round_up(g.depth, kLanes), sums_row = d_wide + g.wide;
  int64_t sums = g.keys * sums_row + g.keys;  // floats
};

// The gradient of a region's pasted pixels [folded channels][padded], from dy [channels][s height][s width].
void fold_region(const Across &g, const float *dy, const Region &r, float *to) {
  int64_t s = g.factor;
  for (int64_t channel = 0; channel < g.folded; ++channel, to += r.padded()) {
    int64_t c = channel / (s * s), i = channel / s % s, l = channel % s;
    r.each([&](int64_t y, int64_t x) {
      to[r.index(y, x)] = dy[((c * g.height + y) * s + i) * s * g.width + s * x + l] * (1 / kOverlap);
    });
    std::memset(to + r.size(), 0, 4 * (r.padded() - r.size()));
  }
}

// Floats of the scratch of a task.
struct Needed {
  explicit Needed(const Across &g)
      : around(Matrix::floats(g, g.largest(2))), near(Matrix::floats(g, g.largest(1))),
        tile(Matrix::floats(g, g.largest())), columns((g.depth + g.folded) * round_up(g.largest(2), kRows)),
        rows(round_up(g.largest(), kRows) *
             std::max(round_up(g.depth, kLanes) + g.wide, pitch(round_up(g.depth, kLanes)))) {}
  int64_t all() const { return around + 3 * near + tile + columns + rows; }
  int64_t around, near, tile, columns, rows;
};

// Rows of a region in a right factor, from the columns [channels][padded] of a larger region.
void pack_region(const Region &from, const float *columns, int64_t channels, const Region &r, const Panels &to) {
  for (int64_t j = 0; j < to.registers; ++j) {
    float *at = to.at(to.first(j)) + (j - to.first(j)) * kLanes;
    for (int64_t y = r.top; y < r.bottom; ++y)
      to_rows(columns + j * kLanes * from.padded() + from.index(y, r.left), from.padded(),
              std::min<int64_t>(kLanes, channels - j * kLanes), r.width(), at + r.index(y, r.left) * to.width(j),
              to.width(j));
  }
}

// A tile of queries: adds what it gives to the sums, and writes dq.
void cross_scale_tile(const AcrossGradients &a, const float *dy, const Region &tile, const Needed &needed,
                      float *scratch, float *sums, float *dq) {
  const Across &g = a.g;
  Region near = g.grown(tile, 1), around = g.grown(tile, 2);
  float *memory = scratch + needed.around + 3 * needed.near + needed.tile;
  float *queries = memory, *dys = queries + g.depth * around.padded(), *rows = memory + needed.columns;
  Matrix x(g, around, scratch), scores(g, near, scratch + needed.around);
  Matrix weights(g, near, scores.at - g.guard + needed.near), ds(g, near, weights.at - g.guard + needed.near);
  Matrix b(g, tile, ds.at - g.guard + needed.near);
  Panels query_rows(tile.size(), g.depth, rows);
  Panels dy_rows(tile.size(), g.folded, rows + Panels::floats(tile.size(), g.depth));

  compare(g, a.q, a.keys, queries, x);
  fold_region(g, dy, around, dys);
  pack_region(around, queries, g.depth, tile, query_rows);
  pack_region(around, dys, g.folded, tile, dy_rows);
  near.each([&](int64_t top, int64_t left) {
    float *score = scores(top, left), *weight = weights(top, left);
    shifted_sum(g, x, top, left, score);
    float most = scores_of(g, a.keys, score);
    std::memcpy(weight, score, 4 * g.keys);
    float sum = exponentials(weight, g.keys, most);
    scale(weight, g.keys, 1 / sum);
  });

  tile.each([&](int64_t top, int64_t left) { shifted_sum(g, weights, top, left, b(top, left)); });
  product({b.at, 1, b.row}, g.keys, dy_rows, 0, tile.size(), 0, dy_rows.registers, true, sums + a.d_wide, a.sums_row);
  product({dys, 1, around.padded()}, around.size(), a.values, 0, g.folded, 0, a.values.registers, false, x.at, x.row);
  near.each([&](int64_t top, int64_t left) {
    float *d = ds(top, left), *weight = weights(top, left), *score = scores(top, left);
    bool inside = top >= tile.top && top < tile.bottom && left >= tile.left && left < tile.right;
    float *norm = sums + g.keys * a.sums_row;
    shifted_sum(g, x, top, left, d);
    float mean = dot(weight, d, g.keys);
    for (int64_t j = 0; j < g.keys; j += kLanes) {
      Vector slope = load(weight + j) * (load(d + j) - mean), there = load(a.keys.factors + j);
      Vector finite = there > 0 ? load(score + j) : Vector{};  // no infinity times 0
      if (inside) store(norm + j, load(norm + j) + slope * finite);
      store(d + j, slope * there);
    }
  });
  tile.each([&](int64_t top, int64_t left) { shifted_sum(g, ds, top, left, b(top, left)); });
  product({b.at, 1, b.row}, g.keys, query_rows, 0, tile.size(), 0, query_rows.registers, true, sums, a.sums_row);
  int64_t row = pitch(a.d_wide);
  product({b.at, b.row, 1}, tile.size(), a.key_rows, 0, g.keys, 0, a.key_rows.registers, false, rows, row);
  for (int64_t y = tile.top; y < tile.bottom; ++y)
    from_rows(rows + tile.index(y, tile.left) * row, row, g.depth, tile.width(), 1,
              dq + y * g.width + tile.left, g.height * g.width);
}

// dk [depth][rows][columns] and dv [channels][height][width] of the sums.
void cross_scale_sums(const AcrossGradients &a, const float *sums, float *dk, float *dv) {
  const Across &g = a.g;
  std::vector<float> pull(g.keys + 2 * g.guard);  // what a neighbourhood's norm gives each of its pixels, over the pixel
  for (int64_t key = 0; key < g.keys; ++key) {
    float norm = a.keys.norms[key];
    bool there = a.keys.factors[key] > 0 && norm > kSmallestNorm;
    pull[g.guard + key] = there ? -sums[g.keys * a.sums_row + key] / (norm * norm) : 0;
  }
  for (int64_t u = 0; u < g.rows; ++u)
    for (int64_t x = 0; x < g.columns; ++x) {
      int64_t key = u * g.line + x;
      float sum = 0;
      for (int64_t d = 0; d < 9; ++d) sum += pull[g.guard + key + (d / 3 - 1) * g.line + d % 3 - 1];
      for (int64_t c = 0; c < g.depth; ++c) {
        int64_t at = (c * g.rows + u) * g.columns + x;
        dk[at] = sums[key * a.sums_row + c] + sum * a.k[at];
      }
    }
  int64_t s = g.factor;
  std::memset(dv, 0, 4 * g.channels * g.height * g.width);  // rows and columns beyond the last whole key
  for (int64_t channel = 0; channel < g.folded; ++channel) {
    int64_t c = channel / (s * s), i = channel / s % s, l = channel % s;
    for (int64_t u = 0; u < g.rows; ++u)
      for (int64_t x = 0; x < g.columns; ++x)
        dv[(c * g.height + s * u + i) * g.width + s * x + l] = sums[(u * g.line + x) * a.sums_row + a.d_wide + channel];
  }
}

// dq, dk and dv, like q, k and v, of one picture of `batch`.
void cross_scale_gradients(const AcrossGradients &a, const float *dy, int64_t batch, float *dq, float *dk, float *dv) {
  int64_t tiles = a.g.tiles(), parts = parts_of(tiles, batch, a.sums);
  Needed needed(a.g);
  Buffer sums(parts * a.sums);
  parallel(parts, needed.all(), [&](int64_t part, float *scratch) {
    std::memset(sums.data + part * a.sums, 0, 4 * a.sums);
    for (int64_t i = tiles * part / parts; i < tiles * (part + 1) / parts; ++i)
      cross_scale_tile(a, dy, a.g.tile(i), needed, scratch, sums.data + part * a.sums, dq);
  });
  add_parts(sums.data, parts, a.sums);
  cross_scale_sums(a, sums.data, dk, dv);
}

}  // namespace
