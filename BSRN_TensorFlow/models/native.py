"""The convolutions of a network by our own CPU kernels, those of common/native.py, called from the graph.

    network = BSRN(conv=Native())
"""
import tensorflow.compat.v1 as tf

from common import native
from common.tf.kernels import convolution


class Native:  # [N,C,H,W]
    """What models/convolution.py's Builtin is, about twice as fast in float32; for graphs that stay in this process.

    Raises ValueError where the kernels cannot be compiled, or do not compute what they should. A convolution that finds
    no memory ends a step with tf.errors.ResourceExhaustedError.
    """

    axis = 1  # of the channels

    def __init__(self):
        native.open_library()

    def enter(self, x):
        """From [N,H,W,C] to the layout of this class."""
        return tf.transpose(x, [0, 3, 1, 2])

    def leave(self, x):
        """Back to [N,H,W,C]."""
        return tf.transpose(x, [0, 2, 3, 1])

    def convolve(self, x, kernel, bias):
        """The 3x3 convolution, zeros around the picture; kernel [3,3,in,out], bias [out]. Of float32, as the result."""
        return convolution(x, tf.transpose(kernel, [3, 2, 0, 1]), bias)

    def depth_to_space(self, x, block):
        """[N,block*block*C,H,W] to [N,C,block*H,block*W]; channel (dy*block + dx)*C + c goes to row dy, column dx."""
        channels = x.shape.as_list()[1] // block ** 2
        height, width = tf.shape(x)[2], tf.shape(x)[3]
        x = tf.transpose(tf.reshape(x, [-1, block, block, channels, height, width]), [0, 3, 4, 1, 5, 2])
        return tf.reshape(x, [-1, channels, block * height, block * width])
