"""Our compiled convolutions in a graph compute what TensorFlow's do, and learn what they learn."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from common import native
from common.tiles import is_out_of_memory
from models.bsrn import BSRN, initial_weights
from models.convolution import Builtin
from models.native import Native

SHAPES = [(2, 8, 16, 11, 13), (1, 3, 5, 1, 70), (3, 16, 3, 9, 49), (2, 1, 64, 6, 1)]  # batch, in, out, height, width


def operands(shape):
    """x [N,H,W,C], kernel, bias, and what the output is multiplied by."""
    batch, n_in, n_out, height, width = shape
    rng = np.random.default_rng(0)
    return [rng.standard_normal(size).astype(np.float32) for size in (
        (batch, height, width, n_in), (3, 3, n_in, n_out), (n_out,), (batch, height, width, n_out))]


def outcome(conv, arrays, known, dtype=tf.float32):
    """y, dx, dkernel, dbias of a convolution; known: whether the graph knows the size of the pictures."""
    with tf.Graph().as_default(), tf.Session() as session:
        x, dy = (tf.placeholder(dtype, array.shape if known else (None, None, None, array.shape[3]))
                 for array in (arrays[0], arrays[3]))
        kernel, bias = (tf.constant(array, dtype) for array in arrays[1:3])
        y = conv.leave(conv.convolve(conv.enter(x), kernel, bias)) if conv else tf.nn.bias_add(
            tf.nn.conv2d(x, kernel, [1, 1, 1, 1], 'SAME'), bias)
        assert y.shape.as_list() == dy.shape.as_list()
        gradients = tf.gradients(y, [x, kernel, bias], dy)
        assert [g.shape.as_list() for g in gradients] == [v.shape.as_list() for v in (x, kernel, bias)]
        return session.run([y, *gradients], {x: arrays[0], dy: arrays[3]})


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('known', [True, False])
def test_output_and_gradients(shape, known):
    arrays = operands(shape)
    for ours, exact in zip(outcome(Native(), arrays, known), outcome(None, arrays, known, tf.float64)):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5 * np.sqrt(np.mean(exact ** 2)) + 1e-6)


@pytest.mark.parametrize('block', [2, 3])
def test_depth_to_space(block):
    array = np.random.default_rng(0).standard_normal((2, 5, 7, 4 * block ** 2)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        x, conv = tf.placeholder(tf.float32, (None, None, None, array.shape[3])), Native()
        ours = conv.leave(conv.depth_to_space(conv.enter(x), block))
        assert ours.shape.as_list()[3] == 4
        a, b = session.run([ours, tf.depth_to_space(x, block)], {x: array})
    np.testing.assert_array_equal(a, b)


def learnt(conv):
    """(losses of three steps on one batch, an output, the variables)."""
    rng = np.random.default_rng(0)
    lr, hr = (rng.uniform(0, 255, (2, side, side, 3)).astype(np.float32) for side in (7, 28))
    with tf.Graph().as_default(), tf.Session() as session:
        network = BSRN((4,), 8, 8, 2, conv=conv)
        outputs = network.outputs(tf.constant(lr), 4)
        loss = network.losses(outputs, tf.constant(hr))[0]
        step = tf.train.AdamOptimizer(1e-3).minimize(loss)
        session.run(tf.global_variables_initializer())
        weights = initial_weights({'scales': (4,), 'conv_features': 8, 'state_features': 8}, rng)
        for variable in network.variables:
            variable.load(weights[variable.name[:-2]], session)
        losses = [session.run([loss, step])[0] for _ in range(3)]
        return losses, session.run(outputs[-1]), session.run(network.variables)


def test_a_network_learns_as_with_the_builtin_ones():
    """Three steps of Adam; several convolutions are ready at a time."""
    ours, theirs = learnt(Native()), learnt(Builtin())
    assert theirs[0][2] < theirs[0][0]
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-2)
    for a, b in zip(ours[2], theirs[2]):
        np.testing.assert_allclose(a, b, atol=5e-5)


def test_no_memory_is_an_error_that_tiles_understand(monkeypatch):
    def failing(*_):
        raise MemoryError('no memory for a convolution')
    monkeypatch.setattr(native, 'convolution', failing)
    with pytest.raises(tf.errors.ResourceExhaustedError, match='no memory for a convolution') as caught:
        outcome(Native(), operands(SHAPES[0]), True)
    assert is_out_of_memory(caught.value)


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(native, 'open_library', native.open_library.__wrapped__)  # as in a process of its own
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CXX', 'false')
    with pytest.raises(ValueError, match='the C.. compiler failed'):
        Native()
