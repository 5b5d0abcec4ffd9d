"""The compiled attentions against their definition in plain numpy, and their gradients against differences of it."""
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common import native


@pytest.fixture(scope='module', autouse=True)
def library():
    try:
        return native.open_library()
    except ValueError as error:
        assert 'no C++ compiler' in str(error)
        pytest.skip(str(error))


def softmax(scores):  # over the last axis
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def attention(query, key, v):
    flat = [array.reshape(*array.shape[:2], -1) for array in (query, key, v)]
    weights = softmax(np.einsum('ndp,ndk->npk', *flat[:2]))
    return np.einsum('npk,nck->ncp', weights, flat[2]).reshape(v.shape)


def windows(x, side, step):
    """The side x side neighbourhoods of every step-th pixel, zeros around: [N,C,rows,columns,side,side]."""
    margin = (side - step) // 2
    x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    rows, columns = ((length - side) // step + 1 for length in x.shape[2:])
    n, c, down, right = x.strides
    return np.lib.stride_tricks.as_strided(x, (*x.shape[:2], rows, columns, side, side),
                                           (n, c, step * down, step * right, down, right))


def cross_scale(query, key, v):
    n, c, height, width = v.shape
    s = height // key.shape[2]
    keys = windows(key, 3, 1)
    keys = keys / np.maximum(np.sqrt((keys ** 2).sum((1, 4, 5), keepdims=True)), 1e-4)
    scores = 10 * np.einsum('ndhwij,nduxij->nhwux', windows(query, 3, 1), keys, optimize=True)
    weights = softmax(scores.reshape(n, height, width, -1)).reshape(scores.shape)
    patches = np.einsum('nhwux,ncuxij->nchwij', weights, windows(v, 3 * s, s), optimize=True)
    y = np.zeros((n, c, s * (height + 2), s * (width + 2)))
    for row in range(height):
        for column in range(width):
            y[:, :, s * row:s * (row + 3), s * column:s * (column + 3)] += patches[:, :, row, column]
    return y[:, :, s:-s, s:-s] / 6


def inputs(seed, spread, n, depth, channels, height, width, s):
    """query, key and v, and the gradient of the result, for s of 1 those of attention(); float64."""
    rng = np.random.default_rng(seed)
    return [spread * rng.standard_normal(shape) for shape in (
        (n, depth, height, width), (n, depth, height // s, width // s), (n, channels, height, width),
        (n, channels, s * height, s * width))]


def check(definition, arrays, y, gradients):
    """y to 1e-5 of the definition; the gradients in a random direction to what the definition changes in it."""
    *arrays, dy = arrays
    exact = definition(*arrays)
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    rng = np.random.default_rng(1)
    for i, gradient in enumerate(gradients):
        direction = rng.standard_normal(arrays[i].shape)
        step = 1e-5 * np.abs(arrays[i]).max()
        ends = [definition(*arrays[:i], arrays[i] + sign * step * direction, *arrays[i + 1:]) for sign in (1, -1)]
        change = ((ends[0] - ends[1]) * dy).sum() / (2 * step)
        floor = 1e-2 * np.abs(dy).max() * np.abs(arrays[2]).max()  # what cancels in gradients that are nearly 0
        assert abs((gradient * direction).sum() - change) <= 2e-4 * max(np.linalg.norm(gradient), floor), i


SIZES = (st.integers(0, 99), st.sampled_from((0.1, 0.5, 2.0)), st.integers(1, 3), st.integers(1, 20),
         st.integers(1, 20), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=30, deadline=None)
@given(*SIZES)
@example(0, 0.5, 1, 40, 70, 9, 9)  # more channels than a register or a panel has
@example(0, 0.5, 2, 3, 4, 22, 31)  # several blocks of queries and chunks of keys
@example(0, 0.3, 1, 1, 1, 1, 1)
def test_attention(seed, spread, n, depth, channels, height, width):
    arrays = inputs(seed, spread, n, depth, channels, height, width, 1)
    y = native.attention(*arrays[:3])
    check(attention, arrays, y, native.attention_gradients(arrays[3], *arrays[:3], y))


@settings(max_examples=20, deadline=None)
@given(*SIZES, st.sampled_from((2, 3)))
@example(0, 0.5, 1, 40, 40, 5, 6, 2)
@example(0, 0.5, 1, 3, 4, 20, 29, 2)
@example(0, 0.5, 1, 3, 2, 1, 9, 3)  # one row of keys
def test_cross_scale_attention(seed, spread, n, depth, channels, rows, columns, s):
    arrays = inputs(seed, spread, n, depth, channels, s * rows, s * columns, s)
    y = native.cross_scale_attention(*arrays[:3])
    check(cross_scale, arrays, y, native.cross_scale_gradients(arrays[3], *arrays[:3]))


def test_tiles_of_queries():
    """A picture of several tiles and parts of the sums."""
    arrays = inputs(0, 0.5, 1, 2, 2, 48, 60, 2)
    y = native.cross_scale_attention(*arrays[:3])
    check(cross_scale, arrays, y, native.cross_scale_gradients(arrays[3], *arrays[:3]))


def test_any_number_of_threads_gives_the_same_bits(library):
    small, large = inputs(0, 0.5, 2, 5, 6, 30, 26, 2), inputs(1, 0.5, 1, 3, 4, 60, 60, 2)
    found = []
    for threads in (1, 3):
        library.SetThreads(threads)
        found.append([native.cross_scale_attention(*small[:3]), *native.cross_scale_gradients(small[3], *small[:3]),
                      *native.cross_scale_gradients(large[3], *large[:3])])
        query, _, v, _ = small
        y = native.attention(query, query, v)
        found[-1] += [y, *native.attention_gradients(v, query, query, v, y)]
    library.SetThreads(0)
    assert all(np.array_equal(one, other) for one, other in zip(*found))


@pytest.mark.parametrize('key', [(2, 3, 4, 5), (2, 2, 4, 4)])
def test_shapes_that_do_not_fit(key):
    query = v = np.zeros((2, 3, 4, 4))
    with pytest.raises(AssertionError):
        native.attention(query, np.zeros(key), v)
