// The operators of this library, in the form that mindspore.ops.Custom(func_type='aot') calls and common/native.py, too:
// inputs, then outputs; they return 0, or ENOMEM.
#include "attention_gradients.h"
#include "convolution.h"
#include "cross_scale_gradients.h"
#include "deformable.h"
#include "elements.h"

namespace {

Shape shape_of(const int64_t *shape) { return {shape[0], shape[1], shape[2], shape[3]}; }

const float *in(void **tensors, int i) { return static_cast<const float *>(tensors[i]); }

float *out(void **tensors, int i) { return static_cast<float *>(tensors[i]); }

}  // namespace

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

// x [N,C,H,W], sampling [N,27*G,H,W], weight [O,C,3,3], bias [O] -> y [N,O,H,W]; G groups of channels
int Deformable(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Deformed d(in(tensors, 0), shape_of(shapes[0]), in(tensors, 1), shapes[1][1] / 27);
    deform(d, in(tensors, 2), in(tensors, 3), out(tensors, 4), shapes[2][0]);
  });
}

// dy [N,O,H,W], x, sampling, weight -> dx, dsampling, dweight, dbias [O]
int DeformableGradients(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Deformed d(in(tensors, 1), shape_of(shapes[1]), in(tensors, 2), shapes[2][1] / 27);
    deformable_gradients(d, in(tensors, 0), in(tensors, 3), shapes[3][0], out(tensors, 4), out(tensors, 5),
                         out(tensors, 6), out(tensors, 7));
  });
}

// query [N,D,H,W], key [N,D,H,W], v [N,C,H,W] -> y [N,C,H,W]
int InScaleAttention(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    int64_t depth = shapes[0][1], channels = shapes[2][1], pixels = shape_of(shapes[0]).plane();
    for (int64_t n = 0; n < shapes[0][0]; ++n)
      in_scale(in(tensors, 0) + n * depth * pixels, in(tensors, 1) + n * depth * pixels,
               in(tensors, 2) + n * channels * pixels, depth, channels, pixels, out(tensors, 3) + n * channels * pixels);
  });
}

std::vector<int64_t> InScaleAttentionInferShape(int *, int64_t **shapes, void *) {
  return {shapes[2], shapes[2] + 4};
}

// dy [N,C,H,W], query, key, v, y -> dquery, dkey, dv
int InScaleAttentionGradients(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    int64_t batch = shapes[0][0], depth = shapes[1][1], channels = shapes[0][1], pixels = shape_of(shapes[0]).plane();
    for (int64_t n = 0; n < batch; ++n) {
      int64_t narrow = n * depth * pixels, wide = n * channels * pixels;
      InScale g(in(tensors, 0) + wide, in(tensors, 1) + narrow, in(tensors, 2) + narrow, in(tensors, 3) + wide,
                in(tensors, 4) + wide, depth, channels, pixels);
      in_scale_gradients(g, batch, out(tensors, 5) + narrow, out(tensors, 6) + narrow, out(tensors, 7) + wide);
    }
  });
}

// query [N,D,H,W], key [N,D,H/s,W/s], v [N,C,H,W] -> y [N,C,sH,sW]
int CrossScaleAttention(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Shape query = shape_of(shapes[0]), key = shape_of(shapes[1]), v = shape_of(shapes[2]);
    Across g(query.channels, v.channels, v.height, v.width, key.height, key.width);
    for (int64_t n = 0; n < v.batch; ++n)
      cross_scale(g, in(tensors, 0) + n * g.depth * query.plane(), in(tensors, 1) + n * g.depth * key.plane(),
                  in(tensors, 2) + n * g.channels * v.plane(), out(tensors, 3) + n * g.folded * v.plane());
  });
}

std::vector<int64_t> CrossScaleAttentionInferShape(int *, int64_t **shapes, void *) {
  const int64_t *v = shapes[2], factor = v[2] < 0 || shapes[1][2] < 1 ? -1 : v[2] / shapes[1][2];
  return {v[0], v[1], factor < 0 ? -1 : factor * v[2], factor < 0 || v[3] < 0 ? -1 : factor * v[3]};
}

// dy [N,C,sH,sW], query, key, v -> dquery, dkey, dv
int CrossScaleAttentionGradients(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Shape query = shape_of(shapes[1]), key = shape_of(shapes[2]), v = shape_of(shapes[3]);
    Across g(query.channels, v.channels, v.height, v.width, key.height, key.width);
    for (int64_t n = 0; n < v.batch; ++n) {
      int64_t queries = n * g.depth * query.plane(), keys = n * g.depth * key.plane(), values = n * g.channels * v.plane();
      AcrossGradients a(g, in(tensors, 1) + queries, in(tensors, 2) + keys, in(tensors, 3) + values);
      cross_scale_gradients(a, in(tensors, 0) + n * g.folded * v.plane(), v.batch, out(tensors, 4) + queries,
                            out(tensors, 5) + keys, out(tensors, 6) + values);
    }
  });
}

// x [N,C,H,W], slopes [C] or [1] -> y
int PReLU(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Shape x = shape_of(shapes[0]);
    prelu(in(tensors, 0), in(tensors, 1), x.batch * x.channels, x.plane(), shapes[1][0], out(tensors, 2));
  });
}

std::vector<int64_t> PReLUInferShape(int *, int64_t **shapes, void *) { return {shapes[0], shapes[0] + 4}; }

// dy, x [N,C,H,W], slopes -> dx, dslopes
int PReLUGradients(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {
  return status_of([=] {
    Shape x = shape_of(shapes[1]);
    prelu_gradients(in(tensors, 0), in(tensors, 1), in(tensors, 2), x.batch * x.channels, x.plane(), shapes[2][0],
                    out(tensors, 3), out(tensors, 4));
  });
}

// Shuffle: x [N,C*s*s,H,W] -> y [N,C,s*H,s*W]; Unshuffle: y -> x. An operator for each s, since none takes numbers.
#define SHUFFLES(s)                                                                              \
  int Shuffle##s(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) {   \
    return status_of([=] {                                                                       \
      Shape x = shape_of(shapes[0]);                                                             \
      shuffle<false>(out(tensors, 0), out(tensors, 1), x.batch * x.channels / (s * s), x.height, x.width, s); \
    });                                                                                          \
  }                                                                                              \
  std::vector<int64_t> Shuffle##s##InferShape(int *, int64_t **shapes, void *) {                 \
    const int64_t *x = shapes[0];                                                                \
    return {x[0], x[1] / (s * s), x[2] < 0 ? -1 : s * x[2], x[3] < 0 ? -1 : s * x[3]};           \
  }                                                                                              \
  int Unshuffle##s(int, void **tensors, int *, int64_t **shapes, const char **, void *, void *) { \
    return status_of([=] {                                                                       \
      Shape x = shape_of(shapes[1]);                                                             \
      shuffle<true>(out(tensors, 1), out(tensors, 0), x.batch * x.channels / (s * s), x.height, x.width, s); \
    });                                                                                          \
  }                                                                                              \
  std::vector<int64_t> Unshuffle##s##InferShape(int *, int64_t **shapes, void *) {               \
    const int64_t *y = shapes[0];                                                                \
    return {y[0], y[1] * s * s, y[2] < 0 ? -1 : y[2] / s, y[3] < 0 ? -1 : y[3] / s};             \
  }
SHUFFLES(2)
SHUFFLES(3)
SHUFFLES(4)
}
