"""Our compiled deformable convolution in a graph computes what the one of TensorFlow's operators does."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from ascendcv.layers.convolution import Builtin
from ascendcv.layers.native import Native


def outcome(conv, arrays, groups, known):
    """y, dx, dsampling, dkernel, dbias; known: whether the graph knows the size of the pictures."""
    with tf.Graph().as_default(), tf.Session() as session:
        x, sampling, dy = (tf.placeholder(tf.float32, array.shape if known else (None, None, None, array.shape[3]))
                           for array in arrays[:3])
        kernel, bias = (tf.constant(array) for array in arrays[3:])
        y = conv.leave(conv.deform(conv.enter(x), conv.enter(sampling), kernel, bias, groups))
        assert y.shape.as_list() == dy.shape.as_list()
        gradients = tf.gradients(y, [x, sampling, kernel, bias], dy)
        assert [g.shape.as_list() for g in gradients] == [v.shape.as_list() for v in (x, sampling, kernel, bias)]
        return session.run([y, *gradients], dict(zip((x, sampling, dy), arrays)))


@pytest.mark.parametrize('shape, known', [
    ((2, 9, 7, 16, 8, 2), True), ((1, 1, 20, 3, 5, 1), False), ((3, 6, 6, 24, 4, 8), False)])
def test_deformable_convolution(shape, known):
    batch, height, width, n_in, n_out, groups = shape
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(size).astype(np.float32) for size in (
        (batch, height, width, n_in), (batch, height, width, 27 * groups), (batch, height, width, n_out),
        (3, 3, n_in, n_out), (n_out,))]
    arrays[1][..., :18 * groups] *= 3
    for ours, theirs in zip(outcome(Native(), arrays, groups, known), outcome(Builtin(), arrays, groups, known)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=3e-5 * np.abs(theirs).max())
