"""The convolutions of a network by TensorFlow's own operators; models/native.py has those by our own CPU kernels."""
import tensorflow.compat.v1 as tf


class Builtin:  # [N,H,W,C]
    """tf.nn operators in float32; with half=tf.bfloat16 the convolutions compute in that type."""

    axis = 3  # of the channels

    def __init__(self, half=None):
        self._half = half

    def enter(self, x):
        """From [N,H,W,C] to the layout of this class."""
        return x

    def leave(self, x):
        """Back to [N,H,W,C]."""
        return x

    def convolve(self, x, kernel, bias):
        """The 3x3 convolution, zeros around the picture; kernel [3,3,in,out], bias [out] of float32.

        The result is of type half where that is given; from and to three colours it is of float32 in any case, since
        the picture itself would be rounded to 8 bits.
        """
        dtype = self._half if self._half and min(kernel.shape.as_list()[2:]) > 3 else tf.float32
        # kernels are cast for each use, so that their gradients are summed in float32
        x, kernel, bias = (tf.cast(value, dtype) for value in (x, kernel, bias))
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], 'SAME'), bias)

    def depth_to_space(self, x, block):
        """[N,H,W,block*block*C] to [N,block*H,block*W,C]; channel (dy*block + dx)*C + c goes to row dy, column dx."""
        return tf.depth_to_space(x, block)
