"""The modulated deformable convolution (DCNv2, Zhu et al., arXiv:1811.11168), 3x3, stride 1, as EDVR uses it.

    y = deformable_convolution(x, sampling, kernel, bias, groups=8)    # [N,H,W,C] to [N,H,W,O]

Pure TensorFlow, for every device; deformable_convolution_npu() is the Ascend operator in its place. Our CPU kernel,
which common/tf/kernels.py has, computes the same in NCHW.
"""
import tensorflow.compat.v1 as tf


def deformable_convolution(x, sampling, kernel, bias, groups):
    """y [N,H,W,O] of float32 x [N,H,W,C], sampling [N,H,W,27*groups], kernel [3,3,C,O] and bias [O].

    sampling: x offsets, y offsets (pixels) and factors of 9 taps for each group, [3, groups, 3, 3] flattened, the order
    of the Ascend operator. A tap reads, bilinearly, where it lies in an ordinary convolution, moved by its offset; what
    is outside the picture is 0. Group g moves and weighs the g-th of `groups` equal parts of the channels.
    Memory: one row of three taps is there at a time, four corners of each, also in the gradient, which computes anew
    what they have read.
    """
    return _convolution(groups)(tf.cast(x, tf.float32), tf.cast(sampling, tf.float32), tf.identity(kernel)) + bias


def deformable_convolution_npu(x, sampling, kernel, bias, groups):
    """The same by the operator of npu_bridge, the TF Adapter of an Ascend NPU."""
    from npu_bridge.tbe import npu_cube_ops
    y = npu_cube_ops.deformable_conv2d(
        tf.cast(x, tf.float32), kernel, tf.cast(sampling, tf.float32), strides=[1, 1, 1, 1], pads=[1, 1, 1, 1],
        data_format='NHWC', dilations=[1, 1, 1, 1], groups=1, deformable_groups=groups)
    return tf.nn.bias_add(y, bias)


def _convolution(groups):
    @tf.custom_gradient
    def convolution(x, sampling, kernel):
        channels, outputs = kernel.shape.as_list()[2:]
        kernels = [tf.reshape(kernel[row], [3 * channels, outputs]) for row in range(3)]

        def gradient(dy):
            dy = tf.reshape(dy, [-1, outputs])
            dtable, dsampling, dkernel = tf.zeros_like(table), [], []
            for row in range(3):
                with tf.control_dependencies([dtable]):  # a row begins when the one before is done with
                    taps = _Taps(table, sampling, row, groups)
                dkernel.append(tf.matmul(taps.columns, dy, transpose_a=True))
                of_table, of_sampling = taps.gradients(tf.matmul(dy, kernels[row], transpose_b=True))
                dtable += of_table
                dsampling.append(of_sampling)
            # [N,H,W,3,taps,G] of each row to [N,H,W,3,G,rows,taps]
            dsampling = tf.transpose(tf.stack(dsampling), [1, 2, 3, 4, 6, 0, 5])
            return (tf.gradients(table, [x], dtable)[0], tf.reshape(dsampling, tf.shape(sampling)),
                    tf.reshape(tf.stack(dkernel), [3, 3, channels, outputs]))

        table, total = _corners(x, groups), None
        for row in range(3):
            with tf.control_dependencies([] if total is None else [total]):
                taps = _Taps(table, sampling, row, groups)
            product = tf.matmul(taps.columns, kernels[row])
            total = product if total is None else total + product
        y = tf.reshape(total, tf.concat([tf.shape(x)[:3], [outputs]], 0))
        y.set_shape([*x.shape.as_list()[:3], outputs])
        return y, gradient
    return convolution


def _corners(x, groups):
    """[N,H+1,W+1,G,4*C/G]: at [n,y,x] the pixels (y-1,x-1), (y-1,x), (y,x-1), (y,x) of each group, zeros outside."""
    shape, channels = tf.shape(x), x.shape.as_list()[3]
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    padded = tf.reshape(padded, [shape[0], shape[1] + 2, shape[2] + 2, groups, channels // groups])
    return tf.concat([padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]], 4)


class _Taps:
    """The three taps of a row of the kernel: `columns`, what they read, [N*H*W,3*C], and the gradients to that.

    table: of _corners().
    """

    def __init__(self, table, sampling, row, groups):
        shape = tf.shape(sampling)
        n, height, width = shape[0], shape[1], shape[2]
        part = tf.reshape(sampling, [n, height, width, 3, groups, 3, 3])[..., row, :]
        dx, dy, self._factor = tf.unstack(tf.transpose(part, [0, 1, 2, 3, 5, 4]), axis=3)  # [N,H,W,taps,G]
        top, self._down, self._free_y = _split(dy, tf.range(height)[:, None, None, None] + row, height)
        left, self._right, self._free_x = _split(dx, tf.range(width)[:, None, None] + tf.range(3)[:, None], width)
        place = (tf.range(n)[:, None, None, None, None] * (height + 1) + top) * (width + 1) + left
        self._places, self._table = tf.reshape(place * groups + tf.range(groups), [-1]), tf.shape(table)
        length = table.shape.as_list()[4]
        self._channels = length // 4
        self._found = tf.reshape(tf.gather(tf.reshape(table, [-1, length]), self._places), [-1, 4, self._channels])
        down, right = self._down, self._right
        self._shares = [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
        self._weights = tf.reshape(tf.stack(self._shares, 5) * self._factor[..., None], [-1, 4, 1])
        self.columns = tf.reshape(tf.reduce_sum(self._found * self._weights, 1), [-1, 3 * groups * self._channels])

    def gradients(self, dcolumns):
        """(of the table, of this row's part of sampling [N,H,W,3,taps,G]) from that of the columns."""
        dcolumns = tf.reshape(dcolumns, [-1, 1, self._channels])
        of_found = tf.reshape(dcolumns * self._weights, [-1, 4 * self._channels])
        of_table = tf.math.unsorted_segment_sum(of_found, self._places, tf.reduce_prod(self._table[:4]))
        of_corners = tf.reshape(tf.reduce_sum(self._found * dcolumns, 2), tf.concat([tf.shape(self._factor), [4]], 0))
        a, b, c, d = tf.unstack(of_corners, axis=5)
        of_right = self._factor * ((1 - self._down) * (b - a) + self._down * (d - c))
        of_down = self._factor * ((1 - self._right) * (c - a) + self._right * (d - b))
        of_factor = tf.add_n([share * corner for share, corner in zip(self._shares, (a, b, c, d))])
        return tf.reshape(of_table, self._table), tf.stack(
            [of_right * self._free_x, of_down * self._free_y, of_factor], 3)


def _split(offset, place, length):
    """(whole part, int32; rest; 1 where an offset counts, else 0) of positions in a picture with one pixel of zeros
    around; those further out are moved to that border, where the pixels are 0.
    """
    end = tf.cast(length, tf.float32)
    wanted = offset + tf.cast(place, tf.float32)
    position = tf.clip_by_value(wanted, 0.0, end + 1)
    position = tf.where(tf.is_nan(position), tf.zeros_like(position), position)
    whole = tf.minimum(tf.floor(position), end)
    return tf.cast(whole, tf.int32), position - whole, tf.cast(tf.equal(position, wanted), tf.float32)
