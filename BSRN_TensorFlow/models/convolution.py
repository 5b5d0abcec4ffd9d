"""The convolutions of a network by TensorFlow's own operators; models/native.py has those by our own CPU kernels."""
import tensorflow.compat.v1 as tf


class Builtin:  # [N,H,W,C]
    """tf.nn operators on float32 tensors; with half=tf.bfloat16 the convolutions alone compute in that type."""

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
        """The 3x3 convolution, zeros around the picture; kernel [3,3,in,out], bias [out]. Of float32, as the result."""
        if self._half:  # kernels are cast for each use, so that their gradients are summed in float32
            x, kernel, bias = (tf.cast(value, self._half) for value in (x, kernel, bias))
        return tf.cast(tf.nn.bias_add(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], 'SAME'), bias), tf.float32)

    def depth_to_space(self, x, block):
        """[N,H,W,block*block*C] to [N,block*H,block*W,C]; channel (dy*block + dx)*C + c goes to row dy, column dx."""
        return tf.depth_to_space(x, block)
