// Pixel shuffles and PReLU, which frameworks compute in one thread, and their gradients.
#pragma once

#include "support.h"

namespace {

// y [planes][s height][s width] = the pixels of x [planes * s * s][height][width] side by side; with back, x of y.
template <bool kBack>
void shuffle(float *x, float *y, int64_t planes, int64_t height, int64_t width, int64_t s) {
  parallel(planes, 0, [=](int64_t plane, float *) {
    for (int64_t i = 0; i < s; ++i)
      for (int64_t j = 0; j < s; ++j)
        for (int64_t row = 0; row < height; ++row) {
          float *apart = x + (((plane * s + i) * s + j) * height + row) * width;
          float *close = y + ((plane * height + row) * s + i) * s * width + j;
          for (int64_t column = 0; column < width; ++column) {
            if (kBack) apart[column] = close[column * s];
            else close[column * s] = apart[column];
          }
        }
  });
}

// y = x where it is positive, else slope * x; the planes, of `size` floats, have `count` slopes in turn.
void prelu(const float *x, const float *slopes, int64_t planes, int64_t size, int64_t count, float *y) {
  parallel(planes, 0, [=](int64_t plane, float *) {
    float slope = slopes[plane % count];
    for (int64_t i = plane * size; i < (plane + 1) * size; ++i) y[i] = x[i] > 0 ? x[i] : slope * x[i];
  });
}

void prelu_gradients(const float *dy, const float *x, const float *slopes, int64_t planes, int64_t size, int64_t count,
                     float *dx, float *dslopes) {
  std::vector<double> sums(planes);
  parallel(planes, 0, [&](int64_t plane, float *) {
    float slope = slopes[plane % count];
    for (int64_t begin = plane * size, end = begin + size; begin < end; begin += 4096) {
      float sum[16] = {};
      for (int64_t i = begin; i < std::min(begin + 4096, end); ++i) {
        bool positive = x[i] > 0;
        dx[i] = positive ? dy[i] : slope * dy[i];
        sum[(i - begin) % 16] += positive ? 0 : x[i] * dy[i];
      }
      for (float part : sum) sums[plane] += part;
    }
  });
  std::vector<double> total(count);
  for (int64_t plane = 0; plane < planes; ++plane) total[plane % count] += sums[plane];
  std::copy(total.begin(), total.end(), dslopes);
}

}  // namespace
