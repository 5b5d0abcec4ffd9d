"""The layers of a network by our own CPU kernels, those of common/native.py, called from the graph.

    network = EDVR(conv=Native())
"""
import tensorflow.compat.v1 as tf

from ascendcv.layers.convolution import Builtin
from common.tf import kernels


class Native:  # [N,C,H,W]
    """What ascendcv/layers/convolution.py's Builtin is, faster in float32; for graphs that stay in this process."""

    axis = 1  # of the channels

    def enter(self, x):
        """From [N,H,W,C] to the layout of this class."""
        return tf.transpose(x, [0, 3, 1, 2])

    def leave(self, x):
        """Back to [N,H,W,C]."""
        return tf.transpose(x, [0, 2, 3, 1])

    def convolve(self, x, kernel, bias):
        """A convolution, zeros around the picture; kernel [3,3,in,out] or [1,1,in,out], bias [out]. All of float32."""
        if kernel.shape.as_list()[0] == 3:
            return kernels.convolution(x, tf.transpose(kernel, [3, 2, 0, 1]), bias)
        shape, (inputs, outputs) = tf.shape(x), kernel.shape.as_list()[2:]
        planes = tf.reshape(x, [shape[0], inputs, shape[2] * shape[3]])
        y = tf.matmul(tf.transpose(kernel[0, 0])[None], planes) + bias[:, None]
        return tf.reshape(y, [shape[0], outputs, shape[2], shape[3]])

    def convolve_with(self, x, shared, times, kernel, bias):
        """convolve() of x [N*times,C,H,W], each N-th part of it with the channels of shared [N,C,H,W] behind its own;
        what comes of `shared` is computed once.
        """
        of_x, of_shared = tf.split(kernel, [x.shape.as_list()[1], shared.shape.as_list()[1]], 2)
        y, more = self.convolve(x, of_x, tf.zeros_like(bias)), self.convolve(shared, of_shared, bias)
        windows = tf.reshape(y, tf.concat([[-1, times], tf.shape(y)[1:]], 0))
        return tf.reshape(windows + more[:, None], tf.shape(y))

    def convolve_halving(self, x, kernel, bias, before):
        """The same of stride 2, to [N,C,H/2,W/2]: `before` rows and columns of zeros before the picture, one after."""
        return self.enter(Builtin().convolve_halving(self.leave(x), kernel, bias, before))

    def deform(self, x, sampling, kernel, bias, groups):
        """The deformable convolution, as ascendcv/layers/dcn.py has it."""
        return kernels.deformable_convolution(x, sampling, tf.transpose(kernel, [3, 2, 0, 1]), bias, groups)

    def depth_to_space(self, x):
        """[N,4*C,H,W] to [N,C,2H,2W]; channel (dy*2 + dx)*C + c goes to row dy, column dx."""
        shape, channels = tf.shape(x), x.shape.as_list()[1] // 4
        x = tf.transpose(tf.reshape(x, [-1, 2, 2, channels, shape[2], shape[3]]), [0, 3, 4, 1, 5, 2])
        return tf.reshape(x, [-1, channels, 2 * shape[2], 2 * shape[3]])

    def side_by_side(self, x, frames):
        """[N*T,C,H,W] to [N,T*C,H,W]: the channels of T frames behind each other."""
        shape, channels = tf.shape(x), x.shape.as_list()[1]
        return tf.reshape(x, [-1, frames * channels, shape[2], shape[3]])
