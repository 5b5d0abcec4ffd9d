"""The compiled deformable convolution computes what numpy does, for any shape, points, threads and registers."""
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import native

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name('golden') / 'deform_conv.npz'
SHAPES = [(1, 1, 1, 1, 1, 1), (2, 64, 64, 9, 17, 8), (1, 6, 5, 4, 40, 2), (2, 32, 30, 3, 33, 2), (1, 72, 8, 6, 5, 3),
          (3, 12, 70, 1, 7, 12)]  # batch, channels in, channels out, height, width, groups


def operands(shape, seed=0, reach=2.0):
    """x, sampling, weight, bias, dy."""
    batch, n_in, n_out, height, width, groups = shape
    rng = np.random.default_rng(seed)
    sampling = rng.uniform(-reach, reach, (batch, 3, 9 * groups, height, width))
    sampling[:, 2] = rng.uniform(0, 1, sampling[:, 2].shape)
    arrays = (rng.standard_normal((batch, n_in, height, width)), sampling.reshape(batch, -1, height, width),
              rng.standard_normal((n_out, n_in, 3, 3)), rng.standard_normal(n_out),
              rng.standard_normal((batch, n_out, height, width)))
    return [array.astype(np.float32) for array in arrays]


def computed(x, sampling, weight, bias, dy, groups):
    """y, dx, dsampling, dweight, dbias of the compiled kernels."""
    return [native.deformable_convolution(x, sampling, weight, bias, groups),
            *native.deformable_gradients(dy, x, sampling, weight, groups)]


def corners(x, sampling, groups):
    """For each of the four pixels around the points: index [N,C,9,H,W] into x.ravel(), and what it is multiplied by."""
    batch, channels, height, width = x.shape
    right, down, mask = (part.repeat(channels // groups, 1) for part in
                         sampling.reshape(batch, 3, groups, 9, height, width).swapaxes(0, 1))
    tap = np.arange(9)[:, None, None]
    at_y, at_x = np.arange(height)[:, None] + tap // 3 - 1 + down, np.arange(width) + tap % 3 - 1 + right
    plane = np.arange(batch * channels).reshape(batch, channels, 1, 1, 1)
    for y in (np.floor(at_y), np.floor(at_y) + 1):
        for x in (np.floor(at_x), np.floor(at_x) + 1):
            there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            row, column = (np.where(there, value, 0).astype(int) for value in (y, x))
            yield (plane * height + row) * width + column, there * mask * (1 - abs(at_y - y)) * (1 - abs(at_x - x))


def samples(x, sampling, groups):  # [N,C,9,H,W]
    return sum(x.ravel()[index] * weight for index, weight in corners(x, sampling, groups))


def expected(x, sampling, weight, bias, dy, groups):
    """The same in float64; dsampling by differences: no point of `sampling` is within 1e-6 of a pixel."""
    x, sampling, weight, dy = (array.astype(np.float64) for array in (x, sampling, weight, dy))
    taps = weight.reshape(*weight.shape[:2], 9)
    y = np.einsum('nckhw,ock->nohw', samples(x, sampling, groups), taps) + bias[:, None, None]
    back = np.einsum('nohw,ock->nckhw', dy, taps)
    dx = np.zeros(x.size)
    for index, factor in corners(x, sampling, groups):
        np.add.at(dx, index, back * factor)
    dsampling = np.zeros((len(x), 3, groups, 9, *x.shape[2:]))
    for part in range(3):
        step = np.zeros((3, 9 * groups, 1, 1))
        step[part] = 1e-7
        step = step.reshape(-1, 1, 1)
        change = (samples(x, sampling + step, groups) - samples(x, sampling - step, groups)) / 2e-7
        dsampling[:, part] = (back * change).reshape(len(x), groups, -1, 9, *x.shape[2:]).sum(2)
    dweight = np.einsum('nckhw,nohw->ock', samples(x, sampling, groups), dy).reshape(weight.shape)
    return y, dx.reshape(x.shape), dsampling.reshape(sampling.shape), dweight, dy.sum((0, 2, 3))


def agrees(arrays, groups):
    for ours, exact in zip(computed(*arrays, groups), expected(*arrays, groups)):
        assert ours.ctypes.data % 64 == 0 and ours.shape == exact.shape
        np.testing.assert_allclose(ours, exact, rtol=2e-5, atol=2e-5 * np.sqrt(np.mean(exact ** 2)) + 1e-6)


@pytest.mark.parametrize('shape', SHAPES)
def test_output_and_gradients_of_any_shape(shape):
    agrees(operands(shape), shape[-1])


@settings(max_examples=30, deadline=None)
@given(st.tuples(*(st.integers(1, most) for most in (2, 9, 20, 9, 20, 3))), st.integers(0, 9),
       st.sampled_from([0.4, 30]))
def test_output_and_gradients_of_random_shapes(shape, seed, reach):
    batch, per_group, n_out, height, width, groups = shape
    agrees(operands((batch, per_group * groups, n_out, height, width, groups), seed, reach), groups)


def test_golden():
    """Offsets there are of y and x in turn; those that are integers have a gradient of one side alone."""
    with np.load(GOLDEN) as file:
        golden = dict(file)

    def sampling(offset, mask):
        return np.concatenate([offset[:, 1::2], offset[:, ::2], mask], 1)

    groups = golden['mask'].shape[1] // 9
    ours = computed(golden['x'], sampling(golden['offset'], golden['mask']), golden['weight'], golden['bias'],
                    golden['grad_output'], groups)
    smooth = sampling(golden['offset_is_integer'] == 0, np.ones_like(golden['mask'], bool))
    ours[2] = np.where(smooth, ours[2], 0)
    exact = [golden['output'], golden['grad_x'],
             np.where(smooth, sampling(golden['grad_offset'], golden['grad_mask']), 0),
             golden['grad_weight'], golden['grad_bias']]
    for a, b in zip(ours, exact):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_at_rest_it_is_the_plain_convolution():
    x, sampling, weight, bias, dy = operands((2, 16, 20, 7, 40, 2))
    sampling[:] = np.repeat([0, 0, 1], 18)[:, None, None]
    y, dx, _, dweight, dbias = computed(x, sampling, weight, bias, dy, 2)
    for ours, plain in zip((y, dx, dweight, dbias), (native.convolution(x, weight, bias),
                                                     native.input_gradient(dy, weight),
                                                     *native.kernel_gradient(dy, x))):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_points_at_and_beyond_the_edge():
    """The gradient to an offset is of the side that floor() chooses; a point a pixel or more outside gets nothing."""
    x, weight = np.full((1, 1, 1, 1), 5.0), np.zeros((1, 1, 3, 3))
    weight[0, 0, 1, 1] = 2
    for y, value, slope in ((-1.25, 0, 0), (-1, 0, 10), (-0.75, 2.5, 10), (0, 10, -10), (0.75, 2.5, -10), (1, 0, 0)):
        sampling = np.zeros((1, 3, 9, 1, 1))
        sampling[0, :, 4, 0, 0] = 0, y, 1
        outputs = computed(x, sampling.reshape(1, 27, 1, 1), weight, np.zeros(1), np.ones((1, 1, 1, 1)), 1)
        assert (outputs[0].item(), outputs[2][0, 9 + 4].item()) == (value, slope), y


def test_offsets_of_any_size():
    x, sampling, weight, bias, dy = operands((1, 8, 4, 6, 30, 1))
    clean = computed(x, sampling, weight, bias, dy, 1)
    for far in (1e9, -3e38, np.inf, -np.inf):
        sampling[:, :18, 3, 20] = far
        y, dx, dsampling, dweight, dbias = computed(x, sampling, weight, bias, dy, 1)
        np.testing.assert_array_equal(y[..., 3, 20], bias[None])
        assert not dsampling[..., 3, 20].any() and all(np.isfinite(a).all() for a in (dx, dweight, dbias))
    sampling[:, 5, 3, 20] = np.nan
    y, dx, dsampling, dweight, _ = computed(x, sampling, weight, bias, dy, 1)
    assert np.isnan(y[..., 3, 20]).all() and np.isnan(dx).any() and np.isnan(dweight).any()
    assert np.isnan(dsampling[0, [5, 14, 23], 3, 20]).any()
    y[..., 3, 20] = clean[0][..., 3, 20]
    np.testing.assert_array_equal(y, clean[0])


def test_arrays_that_do_not_fit():
    x, sampling, weight, bias, dy = operands((2, 6, 5, 7, 9, 2))
    for wrong in (lambda: native.deformable_convolution(x, sampling[:, 1:], weight, bias, 2),
                  lambda: native.deformable_convolution(x, sampling, weight, bias[1:], 2),
                  lambda: native.deformable_convolution(x, sampling[:, :27].repeat(4, 1), weight, bias, 4),
                  lambda: native.deformable_gradients(dy[:, 1:], x, sampling, weight, 2),
                  lambda: native.deformable_gradients(dy, x, sampling, weight[:, 1:], 2)):
        with pytest.raises(AssertionError):
            wrong()


@pytest.mark.parametrize('shape', [SHAPES[1], (21, 5, 3, 12, 30, 5)])
def test_threads_change_no_bit(shape):
    results = []
    for threads in (1, 2, 7, 0):
        native.open_library().SetThreads(threads)
        results.append(computed(*operands(shape), shape[-1]))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='other flags')
@pytest.mark.parametrize('narrower', ['-mno-avx512f', '-mno-avx'])
def test_processors_with_narrower_registers(tmp_path, monkeypatch, narrower):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CXX', f'g++ {narrower}')
    library = native.open_library.__wrapped__()
    monkeypatch.setattr(native, 'open_library', lambda: library)
    for shape in SHAPES[1:]:
        agrees(operands(shape), shape[-1])


def test_wrong_gradients_are_refused(tmp_path, monkeypatch):
    for source in native.SOURCES:
        text = Path(source).read_text()
        (tmp_path / Path(source).name).write_text(text.replace('halves[0] + halves[1]', 'halves[0] - halves[1]'))
    monkeypatch.setattr(native, 'SOURCES', [str(tmp_path / Path(source).name) for source in native.SOURCES])
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    with pytest.raises(ValueError, match='wrong in the deformable gradient to its sampling'):
        native.open_library.__wrapped__()


LIMITED = """
import resource
import numpy as np
from common import native
size = (1, 8, 1024, 1024)
x, weight, bias = np.ones(size, np.float32), np.ones((1, 8, 3, 3), np.float32), np.ones(1, np.float32)
sampling, dy = np.ones((1, 27, *size[2:]), np.float32), np.ones((1, 1, *size[2:]), np.float32)
native.open_library()
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 ** 24 + SPARE, -1))
try:
    CALL
except MemoryError as error:
    print(error)
"""


@pytest.mark.parametrize('call, spare', [
    ('native.deformable_convolution(x, sampling, weight, bias, 1)', 0),
    ('native.deformable_gradients(dy, x, sampling, weight, 1)', 35 * 2 ** 22)])
def test_no_memory_is_an_error_and_no_crash(call, spare):
    """The spare memory is for the gradients that are returned."""
    program = LIMITED.replace('SPARE', str(spare)).replace('CALL', call)
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert (done.returncode, done.stdout) == (0, 'no memory for a convolution\n'), done.stderr
