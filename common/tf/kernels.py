"""Our own CPU kernels, those of common/native.py, in a graph; for graphs that stay in this process.

    y = kernels.convolution(x, weight, bias)

One that finds no memory ends a step with tf.errors.ResourceExhaustedError.
"""
import functools

import tensorflow.compat.v1 as tf

from common import native


@tf.custom_gradient
def convolution(x, weight, bias):
    """The 3x3 convolution [N,O,H,W], zeros around the picture, of x [N,C,H,W], weight [O,C,3,3] and bias [O]."""
    def gradient(dy):
        dx, = call(native.input_gradient, (dy, weight), x.shape)
        dweight, dbias = call(native.kernel_gradient, (dy, x), weight.shape, bias.shape)
        return dx, dweight, dbias
    y, = call(native.convolution, (x, weight, bias), [x.shape[0], weight.shape[0], *x.shape[2:]])
    return y, gradient


def deformable_convolution(x, sampling, weight, bias, groups):
    """The deformable 3x3 convolution [N,O,H,W] of x [N,C,H,W], sampling [N,27*groups,H,W], weight [O,C,3,3] and bias
    [O], as common/native.py has it.
    """
    @tf.custom_gradient
    def convolve(x, sampling, weight, bias):
        def gradient(dy):
            return call(functools.partial(native.deformable_gradients, groups=groups), (dy, x, sampling, weight),
                        x.shape, sampling.shape, weight.shape, bias.shape)
        y, = call(functools.partial(native.deformable_convolution, groups=groups), (x, sampling, weight, bias),
                  [x.shape[0], weight.shape[0], *x.shape[2:]])
        return y, gradient
    return convolve(x, sampling, weight, bias)


def call(function, inputs, *shapes):
    """Tensors, float32, of these static shapes: what a function of numpy arrays gives when the graph runs.

    shapes: one for each output, a tf.TensorShape or a list; None in it: not known before.
    """
    outputs = tf.numpy_function(function, inputs, [tf.float32] * len(shapes))
    for output, shape in zip(outputs, shapes):
        output.set_shape(shape)
    return outputs
