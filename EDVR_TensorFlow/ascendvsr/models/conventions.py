"""The six things in which the released TensorFlow port differs from the authors' network, each in one place.

    conventions = CONVENTIONS['paper']    # the configuration's edvr.compat

Weights serve the convention that they were trained with, and no other. All pictures here are [N,H,W,C].
"""
import tensorflow.compat.v1 as tf


class Paper:
    """The authors' code: PyTorch's borders, positions of pixels in resizing, and what its figures show."""

    before = 1  # zeros before a picture that a stride of 2 halves; after it one more
    half_pixel_centers = True  # pixels are resized as areas, not as points of a grid

    @staticmethod
    def pools(x):
        """(maxima, means) of 3x3 pixels at every second one, [N,H/2,W/2,C]; zeros around count in the means."""
        around = [[0, 0], [1, 1], [1, 1], [0, 0]]
        window = {'ksize': [1, 3, 3, 1], 'strides': [1, 2, 2, 1], 'padding': 'VALID'}
        maxima = tf.nn.max_pool(tf.pad(x, around, constant_values=x.dtype.min), **window)
        return maxima, tf.nn.avg_pool(tf.pad(x, around), **window)

    @staticmethod
    def gate(attention, added):
        """Of attention and its first added layer, what the sigmoid of the spatial attention is taken of."""
        return attention

    @staticmethod
    def shuffled(x):
        """The activation after each enlargement by depth_to_space."""
        return tf.nn.leaky_relu(x, 0.1)

    @staticmethod
    def tail(mid_channels):
        """Channels of the layers after the second enlargement."""
        return 64


class Port:
    """The released port: TensorFlow's own borders and resizing as of version 1, and its own slips."""

    before = 0
    half_pixel_centers = False

    @staticmethod
    def pools(x):
        window = {'ksize': [1, 3, 3, 1], 'strides': [1, 2, 2, 1], 'padding': 'SAME'}
        return tf.nn.max_pool(x, **window), tf.nn.avg_pool(x, **window)

    @staticmethod
    def gate(attention, added):
        return added

    @staticmethod
    def shuffled(x):
        return x

    @staticmethod
    def tail(mid_channels):
        return mid_channels


CONVENTIONS = {'paper': Paper, 'port': Port}
METHODS = {'bilinear': tf.raw_ops.ResizeBilinear, 'bicubic': tf.raw_ops.ResizeBicubic}


def resize(x, factor, method, conventions):
    """float32 [N,H,W,C] to [N,factor*H,factor*W,C]; method: 'bilinear' or 'bicubic'."""
    return METHODS[method](images=x, size=factor * tf.shape(x)[1:3], align_corners=False,
                           half_pixel_centers=conventions.half_pixel_centers)
