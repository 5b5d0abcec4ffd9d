"""The deformable convolution of TensorFlow's operators: golden cases, a plain loop, points outside the picture."""
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascendcv.layers.dcn import deformable_convolution
from common.tf.devices import base_config, tf
from import_weights import offset_order

GOLDEN = Path(__file__).parent / 'golden' / 'deform_conv.npz'  # cases of 4, 1 and 8 groups, computed in float64
GROUPS = {'a': 4, 'b': 1, 'c': 8}


def computed(x, sampling, kernel, bias, groups, dy=None):
    """y, or with dy: y, dx, dsampling, dkernel, dbias."""
    with tf.Graph().as_default() as graph:
        inputs = [tf.placeholder(tf.float32, [None, None, None, array.shape[3]]) for array in (x, sampling)]
        inputs += [tf.constant(array, tf.float32) for array in (kernel, bias)]
        y = deformable_convolution(*inputs, groups)
        assert y.shape.as_list()[3] == len(bias)
        fetches = y if dy is None else [y, *tf.gradients(y, inputs, tf.constant(dy, tf.float32))]
        with tf.Session(graph=graph, config=base_config('cpu')) as session:
            return session.run(fetches, {inputs[0]: x, inputs[1]: sampling})


@pytest.mark.parametrize('case', GROUPS)
def test_golden_cases(case):
    groups, golden = GROUPS[case], {}
    with np.load(GOLDEN) as file:
        for name in file.files:
            if name.startswith(f'{case}/'):
                value = file[name]
                golden[name[2:]] = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
    for name in ('', 'grad_'):  # y and x offsets of a tap side by side, as in the authors' code, to our order
        both = np.concatenate([golden[name + 'offset'], golden[name + 'mask']], 3)
        golden[name + 'sampling'] = both[..., offset_order(groups)]
    kernel, dkernel = (golden[name].transpose(1, 2, 3, 0) for name in ('weight', 'grad_weight'))  # OHWI to HWIO
    y, dx, dsampling, *rest = computed(golden['x'], golden['sampling'], kernel, golden['bias'], groups,
                                       golden['grad_output'])
    one_sided = np.concatenate([golden['offset_is_integer'], np.zeros_like(golden['mask'])], 3)
    between = one_sided[..., offset_order(groups)] == 0  # the gradient jumps where a point lies on a pixel
    assert between.mean() > 0.9
    close(y, golden['output'])
    close(dx, golden['grad_x'])
    close(dsampling[between], golden['grad_sampling'][between])
    for found, expected in zip(rest, (dkernel, golden['grad_bias'])):
        close(found, expected)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * abs(expected).max())


def by_loops(x, sampling, kernel, bias, groups):
    """What the docstring of ascendcv/layers/dcn.py says, one number after the other, in float64."""
    n, height, width, channels = x.shape
    parts, y = sampling.reshape(n, height, width, 3, groups, 9), np.zeros((n, height, width, len(bias)))
    for place in np.ndindex(n, height, width):
        columns = np.zeros((9, channels))
        for tap, channel in np.ndindex(9, channels):
            dx, dy, factor = parts[place][:, channel * groups // channels, tap].astype(np.float64)
            columns[tap, channel] = factor * bilinear(x[place[0], :, :, channel], place[1] - 1 + tap // 3 + dy,
                                                      place[2] - 1 + tap % 3 + dx)
        y[place] = np.tensordot(columns, kernel.reshape(9, channels, -1), 2) + bias
    return y


def bilinear(plane, row, column):
    total = 0.0
    for down, right in np.ndindex(2, 2):
        y, x = int(np.floor(row)) + down, int(np.floor(column)) + right
        if 0 <= y < plane.shape[0] and 0 <= x < plane.shape[1]:
            total += plane[y, x] * (1 - abs(row - y)) * (1 - abs(column - x))
    return total


def operands(n, height, width, groups, per_group, outputs, reach, seed=0):
    rng = np.random.default_rng(seed)
    channels, shape = groups * per_group, (n, height, width)
    sampling = np.concatenate([rng.uniform(-reach, reach, shape + (18 * groups,)),
                               rng.uniform(0, 1, shape + (9 * groups,))], 3)
    arrays = (rng.standard_normal(shape + (channels,)), sampling, rng.standard_normal((3, 3, channels, outputs)),
              rng.standard_normal(outputs))
    return [array.astype(np.float32) for array in arrays]


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 2), height=st.integers(1, 4), width=st.integers(1, 4), groups=st.integers(1, 3),
       per_group=st.integers(1, 2), outputs=st.integers(1, 3), reach=st.sampled_from([0, 0.9, 3, 40]),
       seed=st.integers(0, 99))
def test_it_is_what_loops_compute(n, height, width, groups, per_group, outputs, reach, seed):
    arrays = operands(n, height, width, groups, per_group, outputs, reach, seed)
    np.testing.assert_allclose(computed(*arrays, groups), by_loops(*arrays, groups), rtol=0, atol=1e-4)


def test_without_offsets_it_is_a_convolution():
    x, sampling, kernel, bias = operands(2, 6, 5, 2, 2, 3, 0)
    sampling[..., 36:] = 1
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=base_config('cpu')) as session:
        expected = session.run(tf.nn.conv2d(tf.constant(x), kernel, [1, 1, 1, 1], 'SAME') + bias)
    np.testing.assert_allclose(computed(x, sampling, kernel, bias, 2), expected, rtol=0, atol=1e-5)


def test_points_far_outside_read_nothing():
    offsets = [-4.5, 7.0, 1e4, -3e38, np.inf]  # one for each picture
    x, sampling, kernel, bias = operands(len(offsets), 3, 4, 1, 2, 2, 0)
    sampling[..., :18] = np.reshape(offsets, (-1, 1, 1, 1))
    y, dx, dsampling, dkernel, _ = computed(x, sampling, kernel, bias, 1, np.ones((len(offsets), 3, 4, 2)))
    assert np.array_equal(y, np.broadcast_to(bias, y.shape))
    assert not dx.any() and not dsampling.any() and not dkernel.any()


def test_offsets_that_are_no_numbers():
    """A training must live to say so: nothing outside the memory is read, other points are as they are."""
    x, sampling, kernel, bias = operands(1, 3, 4, 1, 2, 2, 1)
    before = computed(x, sampling, kernel, bias, 1)
    sampling[0, 1, 2] = np.nan
    y, *gradients = computed(x, sampling, kernel, bias, 1, np.ones((1, 3, 4, 2)))
    others = np.ones((3, 4), bool)
    others[1, 2] = False
    assert np.isnan(y[0, 1, 2]).all() and np.array_equal(y[0][others], before[0][others])
    assert [gradient.shape for gradient in gradients] == [x.shape, sampling.shape, kernel.shape, bias.shape]
