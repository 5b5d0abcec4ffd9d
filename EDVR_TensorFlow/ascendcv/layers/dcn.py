"""The modulated deformable convolution (DCNv2, Zhu et al., arXiv:1811.11168), 3x3, stride 1, as EDVR uses it.

    y = deformable_convolution(x, sampling, kernel, bias, groups=8)    # [N,H,W,C] to [N,H,W,O]

Pure TensorFlow, for every device; deformable_convolution_npu() is the Ascend operator in its place. Our CPU kernel,
which common/tf/kernels.py has, computes the same in NCHW.
"""
import tensorflow.compat.v1 as tf

TAPS = 9


def deformable_convolution(x, sampling, kernel, bias, groups):
    """y [N,H,W,O] of float32 x [N,H,W,C], sampling [N,H,W,27*groups], kernel [3,3,C,O] and bias [O].

    sampling: x offsets, y offsets (pixels) and factors of 9 taps for each group, [3, groups, 3, 3] flattened, the order
    of the Ascend operator. A tap reads, bilinearly, where it lies in an ordinary convolution, moved by its offset; what
    is outside the picture is 0. Group g moves and weighs the g-th of `groups` equal parts of the channels.
    Memory: one tap of all groups is there at a time, four corners of it, also in the gradient, which computes anew what
    each tap has read.
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

        def gradient(dy):
            dy = tf.reshape(dy, [-1, outputs])
            dtable, parts, dkernel = tf.zeros_like(table), [], []
            for tap in range(TAPS):
                with tf.control_dependencies([dtable]):  # a tap begins when the one before is done with
                    columns, part = _sample(table, sampling, tap, groups)
                dkernel.append(tf.matmul(columns, dy, transpose_a=True))
                dcolumns = tf.matmul(dy, kernel[tap // 3, tap % 3], transpose_b=True)
                of_table, of_part = tf.gradients(columns, [table, part], dcolumns)
                dtable += tf.convert_to_tensor(of_table)
                parts.append(of_part)
            dx, = tf.gradients(table, [x], dtable)
            # [N,H,W,G,3] of each tap to [N,H,W,3,G,9]
            dsampling = tf.reshape(tf.transpose(tf.stack(parts, -1), [0, 1, 2, 4, 3, 5]), tf.shape(sampling))
            return dx, dsampling, tf.reshape(tf.stack(dkernel), [3, 3, channels, outputs])

        table, total = _corners(x, groups), None
        for tap in range(TAPS):
            with tf.control_dependencies([] if total is None else [total]):
                columns, _ = _sample(table, sampling, tap, groups)
            product = tf.matmul(columns, kernel[tap // 3, tap % 3])
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


def _sample(table, sampling, tap, groups):
    """(what a tap reads, [N*H*W,C]; its part of sampling, [N,H,W,G,3])."""
    shape = tf.shape(sampling)
    n, height, width = shape[0], shape[1], shape[2]
    part = tf.reshape(sampling, [n, height, width, 3, groups, TAPS])[..., tap]
    part = tf.transpose(part, [0, 1, 2, 4, 3])
    dx, dy, factor = part[..., 0], part[..., 1], part[..., 2]
    top, down = _split(dy + _places(height, tap // 3)[:, None, None], height)
    left, right = _split(dx + _places(width, tap % 3)[:, None], width)
    row = (tf.range(n)[:, None, None, None] * (height + 1) + top) * (width + 1) + left  # of the table, [N,H,W,G]
    found = tf.gather(tf.reshape(table, [-1, table.shape.as_list()[4]]), row * groups + tf.range(groups))
    weights = tf.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], 4)
    weights *= factor[..., None]
    channels = table.shape.as_list()[4] // 4
    found = tf.reshape(found, [-1, 4, channels]) * tf.reshape(weights, [-1, 4, 1])
    return tf.reshape(tf.reduce_sum(found, 1), [-1, groups * channels]), part


def _places(length, tap):
    """Rows or columns that a tap reads without offsets, counted from the zeros around the picture."""
    return tf.cast(tf.range(length) + tap, tf.float32)


def _split(position, length):
    """(whole part, int32; rest) of positions in a picture with one pixel of zeros around; those further out are moved
    to that border, where the pixels are 0 and the gradient to the position is, too.
    """
    end = tf.cast(length, tf.float32)
    position = tf.clip_by_value(position, 0.0, end + 1)
    position = tf.where(tf.is_nan(position), tf.zeros_like(position), position)  # the factor has the NaN, too
    whole = tf.minimum(tf.floor(position), end)
    return tf.cast(whole, tf.int32), position - tf.stop_gradient(whole)
