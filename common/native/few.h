// Convolutions with at most kFew outputs, such as the last one of a network, and the gradient to their kernels: too few
// products for Winograd's transforms to pay, so it is the plain sum over nine taps, one register holding kLanes pixels.
#pragma once

#include <vector>

#include "transforms.h"

namespace {

constexpr int kFew = 3;
constexpr int kSpread = kLanes == 16 ? 2 : 1;   // registers of pixels of a row at once
constexpr int kStrip = 192;                     // pixels of the rows that are copied at once
constexpr int kRow = kStrip + 16;               // floats of such a row, with its neighbours
constexpr int kStaged = kPoints * kRow + 16;    // and of kPoints of them: no multiple of a page
constexpr int64_t kTapSums = kFew * 9 * kLanes; // floats of the sums of a gradient, for one input

// Pixels that are computed of the `left`, where a row has so many left: whole registers.
int64_t strip(int64_t left) { return std::min<int64_t>(kStrip, ceil_div(left, kSpread * kLanes) * kSpread * kLanes); }

// kSide rows of all outputs: to [kFew][kSide][kSpread]; from rows [channels][kPoints] and w [channels][9][kFew].
inline void sum_taps(const float *rows, const float *w, int64_t channels, Vector (*to)[kSide][kSpread]) {
  Vector sums[kFew][kSide][kSpread] = {};
  for (int64_t c = 0; c < channels; ++c, rows += kStaged, w += 9 * kFew) {
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i)
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        Vector pixels[kSpread];
#pragma GCC unroll 2
        for (int n = 0; n < kSpread; ++n) pixels[n] = load(rows + i * kRow + x + n * kLanes);
#pragma GCC unroll 3
        for (int y = 0; y < 3; ++y)
          if (i - y >= 0 && i - y < kSide)
#pragma GCC unroll 3
            for (int o = 0; o < kFew; ++o)
#pragma GCC unroll 2
              for (int n = 0; n < kSpread; ++n) sums[o][i - y][n] += w[(y * 3 + x) * kFew + o] * pixels[n];
      }
  }
  std::memcpy(to, sums, sizeof sums);
}

// As convolve() in convolution.h.
void convolve_few(const float *x, const Shape &in, const float *w, bool turned, const float *bias, float *y,
                  int64_t outputs) {
  std::vector<float> packed(in.channels * 9 * kFew);
  for (int64_t c = 0; c < in.channels; ++c)
    for (int64_t o = 0; o < outputs; ++o)
      for (int tap = 0; tap < 9; ++tap)
        packed[(c * 9 + tap) * kFew + o] =
            turned ? w[(c * outputs + o) * 9 + 8 - tap] : w[(o * in.channels + c) * 9 + tap];
  parallel(in.batch * in.down(), in.channels * kStaged, [&](int64_t band, float *rows) {
    int64_t picture = band / in.down(), top = band % in.down() * kSide;
    for (int64_t left = 0; left < in.width; left += kStrip) {
      for (int64_t c = 0; c < in.channels; ++c)
        copy_rows(x + (picture * in.channels + c) * in.plane(), in, top - 1, kPoints, left - 1,
                  strip(in.width - left) + 2, kRow, rows + c * kStaged);
      for (int64_t i = left; i < left + strip(in.width - left); i += kSpread * kLanes) {
        Vector sums[kFew][kSide][kSpread];
        sum_taps(rows + i - left, packed.data(), in.channels, sums);
        for (int64_t o = 0; o < outputs; ++o)
          for (int r = 0; r < std::min<int64_t>(kSide, in.height - top); ++r) {
            for (int n = 0; n < kSpread; ++n) sums[o][r][n] += bias ? bias[o] : 0;
            std::memcpy(y + ((picture * outputs + o) * in.height + top + r) * in.width + i, sums[o][r],
                        4 * std::min<int64_t>(kSpread * kLanes, in.width - i));
          }
      }
    }
  });
}

// to [kFew][9] of registers += dy [kFew][kSide][columns] times the neighbours of each pixel in x [kPoints].
inline void add_taps(const float *dy, const float *x, int64_t columns, float *to) {
  Vector sums[kFew][9];
#pragma GCC unroll 27
  for (int i = 0; i < kFew * 9; ++i) sums[i / 9][i % 9] = load(to + i * kLanes);
  for (int64_t column = 0; column < columns; column += kLanes)
#pragma GCC unroll 6
    for (int i = 0; i < kPoints; ++i)
#pragma GCC unroll 3
      for (int tap = 0; tap < 3; ++tap) {
        Vector pixels = load(x + i * kRow + column + tap);
#pragma GCC unroll 3
        for (int y = 0; y < 3; ++y)
          if (i - y >= 0 && i - y < kSide)
#pragma GCC unroll 3
            for (int o = 0; o < kFew; ++o)
              sums[o][y * 3 + tap] += pixels * load(dy + o * kStaged + (i - y) * kRow + column);
      }
#pragma GCC unroll 27
  for (int i = 0; i < kFew * 9; ++i) store(to + i * kLanes, sums[i / 9][i % 9]);
}

// As kernel_gradient() in convolution.h.
void kernel_gradient_few(const float *dy, const float *x, const Shape &in, int64_t outputs, float *dw, float *dbias) {
  int64_t bands = in.batch * in.down(), slices = std::min<int64_t>(bands, 16), stride = in.channels * kTapSums;
  Buffer sums(slices * stride);
  std::vector<double> bias(slices * kFew);
  parallel(slices, (kFew + 1) * kStaged, [&](int64_t slice, float *rows) {
    float *own = sums.data + slice * stride, *pixels = rows + kFew * kStaged;
    std::memset(own, 0, 4 * stride);
    std::memset(rows, 0, 4 * kFew * kStaged);
    for (int64_t band = bands * slice / slices; band < bands * (slice + 1) / slices; ++band)
      for (int64_t left = 0; left < in.width; left += kStrip) {
        int64_t picture = band / in.down(), top = band % in.down() * kSide, columns = strip(in.width - left);
        for (int64_t o = 0; o < outputs; ++o) {
          float *to = rows + o * kStaged, total = 0;
          copy_rows(dy + (picture * outputs + o) * in.plane(), in, top, kSide, left, columns, kRow, to);
          for (int r = 0; r < kSide; ++r)
            for (int64_t i = 0; i < columns; ++i) total += to[r * kRow + i];
          bias[slice * kFew + o] += total;
        }
        for (int64_t c = 0; c < in.channels; ++c) {
          copy_rows(x + (picture * in.channels + c) * in.plane(), in, top - 1, kPoints, left - 1, columns + 2, kRow,
                    pixels);
          add_taps(rows, pixels, columns, own + c * kTapSums);
        }
      }
  });
  for (int64_t o = 0; o < outputs; ++o) {
    double total = 0;
    for (int64_t slice = 0; slice < slices; ++slice) total += bias[slice * kFew + o];
    dbias[o] = total;
    for (int64_t i = 0; i < in.channels * 9; ++i) {
      double sum = 0;
      for (int64_t slice = 0; slice < slices; ++slice)
        for (int lane = 0; lane < kLanes; ++lane)
          sum += sums.data[slice * stride + i / 9 * kTapSums + (o * 9 + i % 9) * kLanes + lane];
      dw[o * in.channels * 9 + i] = sum;
    }
  }
}

}  // namespace
