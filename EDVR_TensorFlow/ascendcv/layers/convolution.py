"""The layers of a network by TensorFlow's own operators; ascendcv/layers/native.py has those by our CPU kernels."""
import tensorflow.compat.v1 as tf

from ascendcv.layers import dcn


class Builtin:  # [N,H,W,C]
    """tf.nn operators in float32; with half=tf.bfloat16 the convolutions compute in that type, deformable ones never.

    npu: deformable convolutions are the Ascend operator's.
    """

    axis = 3  # of the channels

    def __init__(self, half=None, npu=False):
        self._half = half
        self._deform = dcn.deformable_convolution_npu if npu else dcn.deformable_convolution

    def enter(self, x):
        """From [N,H,W,C] to the layout of this class."""
        return x

    def leave(self, x):
        """Back to [N,H,W,C]."""
        return x

    def convolve(self, x, kernel, bias):
        """A convolution, zeros around the picture; kernel [3,3,in,out] or [1,1,in,out], bias [out], of float32.

        The result is of type half where that is given, from and to three colours of float32 in any case.
        """
        return self._convolve(x, kernel, bias, 1, 'SAME')

    def convolve_with(self, x, shared, times, kernel, bias):
        """convolve() of x [N*times,H,W,C], each N-th part with the channels of shared [N,H,W,C] behind its own."""
        shape, channels = tf.shape(x), shared.shape.as_list()[3]
        shared = tf.reshape(tf.tile(shared[:, None], [1, times, 1, 1, 1]), [-1, shape[1], shape[2], channels])
        return self.convolve(tf.concat([x, tf.cast(shared, x.dtype)], 3), kernel, bias)

    def convolve_halving(self, x, kernel, bias, before):
        """The same of stride 2, to [N,H/2,W/2,C]: `before` rows and columns of zeros before the picture, one after."""
        padded = tf.pad(x, [[0, 0], [before, 1], [before, 1], [0, 0]])
        return self._convolve(padded, kernel, bias, 2, 'VALID')

    def _convolve(self, x, kernel, bias, stride, padding):
        dtype = self._half if self._half and min(kernel.shape.as_list()[2:]) > 3 else tf.float32
        # kernels are cast for each use, so that their gradients are summed in float32
        x, kernel, bias = (tf.cast(value, dtype) for value in (x, kernel, bias))
        return tf.nn.bias_add(tf.nn.conv2d(x, kernel, [1, stride, stride, 1], padding), bias)

    def deform(self, x, sampling, kernel, bias, groups):
        """The deformable convolution, as ascendcv/layers/dcn.py has it."""
        return self._deform(x, sampling, kernel, bias, groups)

    def depth_to_space(self, x):
        """[N,H,W,4*C] to [N,2H,2W,C]; channel (dy*2 + dx)*C + c goes to row dy, column dx."""
        return tf.depth_to_space(x, 2)

    def side_by_side(self, x, frames):
        """[N*T,H,W,C] to [N,H,W,T*C]: the channels of T frames behind each other."""
        shape, channels = tf.shape(x), x.shape.as_list()[3]
        x = tf.transpose(tf.reshape(x, [-1, frames, shape[1], shape[2], channels]), [0, 2, 3, 1, 4])
        return tf.reshape(x, [-1, shape[1], shape[2], frames * channels])
