// The gradients of the attention within a picture.
#pragma once

#include "attention.h"

namespace {

// What the gradients of a picture need: right factors, and where tasks sum what they find about keys and values.
struct InScale {
  InScale(const float *dy, const float *q, const float *k, const float *v, const float *y, int64_t depth,
          int64_t channels, int64_t pixels)
      : dy(dy), q(q), y(y), depth(depth), channels(channels), pixels(pixels), keys(depth, pixels),
        key_rows(pixels, depth), values(channels, pixels) {
    pack_planes(k, depth, pixels, keys);
    parallel(key_rows.registers, 0, [&](int64_t j, float *) { pack_pixels(k, pixels, depth, key_rows, j); });
    pack_planes(v, channels, pixels, values);
  }

  const float *dy, *q, *y;
  int64_t depth, channels, pixels;
  Packed keys, key_rows, values;
  int64_t row = pitch(kKeys);                                     // of scores
  int64_t sums_row = round_up(depth, kLanes) + round_up(channels, kLanes);  // of the sums of a key: dk, dv
  int64_t padded = round_up(pixels, kKeys);                       // keys of the sums
};

// A block of queries: adds what it gives to the sums [padded][sums_row], and writes dq.
void in_scale_block(const InScale &g, int64_t begin, float *scratch, float *sums, float *dq) {
  int64_t there = std::min(kQueries, g.pixels - begin), d_row = pitch(g.key_rows.registers * kLanes);
  float *queries = scratch, *dys = queries + kQueries * g.depth, *scores = dys + kQueries * g.channels;
  float *ds = scores + kQueries * g.row, *dqs = ds + kQueries * g.row, *packed = dqs + kQueries * d_row;
  float factors[kQueries], delta[kQueries];
  Panels query_rows(kQueries, g.depth, packed);
  Panels dy_rows(kQueries, g.channels, packed + Panels::floats(kQueries, g.depth));
  copy_pixels(g.q + begin, g.pixels, g.depth, there, queries, kQueries);
  copy_pixels(g.dy + begin, g.pixels, g.channels, there, dys, kQueries);
  for (int64_t j = 0; j < query_rows.registers; ++j) pack_pixels(queries, kQueries, g.depth, query_rows, j);
  for (int64_t j = 0; j < dy_rows.registers; ++j) pack_pixels(dys, kQueries, g.channels, dy_rows, j);
  for (int64_t r = 0; r < kQueries; ++r) {
    delta[r] = 0;
    for (int64_t c = 0; r < there && c < g.channels; ++c)
      delta[r] += dys[c * kQueries + r] * g.y[c * g.pixels + begin + r];
  }
  Softmax softmax(queries, g.keys, g.pixels, scores, g.row);
  for (int64_t first = 0; first < g.pixels; first += kKeys) softmax.add(first, factors);
  for (int64_t first = 0; first < g.pixels; first += kKeys) {
    int64_t count = softmax.count(first), end = first + count, d_wide = round_up(g.depth, kLanes);
    softmax.finish(first);
    product({dys, 1, kQueries}, kQueries, g.values, 0, g.channels, first / kLanes, end / kLanes, false, ds, g.row);
    float *to = sums + first * g.sums_row;
    product({scores, 1, g.row}, count, dy_rows, 0, kQueries, 0, dy_rows.registers, true, to + d_wide, g.sums_row);
    for (int64_t r = 0; r < kQueries; ++r)
      for (int64_t i = 0; i < count; i += kLanes) {
        float *p = ds + r * g.row + i;
        store(p, load(scores + r * g.row + i) * (load(p) - delta[r]));
      }
    product({ds, 1, g.row}, count, query_rows, 0, kQueries, 0, query_rows.registers, true, to, g.sums_row);
    product({ds, g.row, 1}, kQueries, g.key_rows, first, std::min(kKeys, g.pixels - first), 0, g.key_rows.registers,
            first > 0, dqs, d_row);
  }
  from_rows(dqs, d_row, g.depth, there, 1, dq + begin, g.pixels);
}

// dq, dk [depth][pixels] and dv [channels][pixels] of one picture of `batch`.
void in_scale_gradients(const InScale &g, int64_t batch, float *dq, float *dk, float *dv) {
  int64_t blocks = ceil_div(g.pixels, kQueries), floats = g.padded * g.sums_row, parts = parts_of(blocks, batch, floats);
  Buffer sums(parts * floats);
  int64_t needed = kQueries * (g.depth + g.channels + 2 * g.row + pitch(g.key_rows.registers * kLanes)) +
                   Panels::floats(kQueries, g.depth) + Panels::floats(kQueries, g.channels);
  parallel(parts, needed, [&](int64_t part, float *scratch) {
    std::memset(sums.data + part * floats, 0, 4 * floats);
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block)
      in_scale_block(g, block * kQueries, scratch, sums.data + part * floats, dq);
  });
  add_parts(sums.data, parts, floats);
  from_rows(sums.data, g.sums_row, g.depth, g.pixels, 1, dk, g.pixels);
  from_rows(sums.data + round_up(g.depth, kLanes), g.sums_row, g.channels, g.pixels, 1, dv, g.pixels);
}

}  // namespace
