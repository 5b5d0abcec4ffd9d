"""The compiled convolution computes what numpy does, for any shape, any threads and any width of registers."""
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import native

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 7, 9), (1, 8, 20, 4, 50), (3, 5, 8, 6, 1), (2, 20, 3, 13, 16), (1, 64, 64, 9, 17),
          (2, 70, 130, 5, 49), (1, 3, 64, 8, 33), (2, 64, 3, 10, 48),
          (1, 5, 2, 6, 210)]  # batch, channels in, channels out, height, width


def operands(shape, seed=0):
    batch, n_in, n_out, height, width = shape
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(np.float32) for size in (
        (batch, n_in, height, width), (n_out, n_in, 3, 3), (n_out,), (batch, n_out, height, width))]


def computed(x, weight, bias, dy):
    """y, dx, dweight, dbias of the compiled kernels."""
    return [native.convolution(x, weight, bias), native.input_gradient(dy, weight), *native.kernel_gradient(dy, x)]


def agrees(arrays):
    for ours, exact in zip(computed(*arrays), expected(*arrays)):
        assert ours.ctypes.data % 64 == 0
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5 * np.sqrt(np.mean(exact ** 2)) + 1e-6)


def expected(x, weight, bias, dy):
    """The same in float64, one tap after the other."""
    height, width = x.shape[2:]
    x, weight, dy = (array.astype(np.float64) for array in (x, weight, dy))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y, dpadded, dweight = 0, np.zeros_like(padded), np.empty_like(weight)
    for i in range(3):
        for j in range(3):
            part = np.s_[:, :, i:i + height, j:j + width]
            y = y + np.einsum('nchw,oc->nohw', padded[part], weight[:, :, i, j])
            dpadded[part] += np.einsum('nohw,oc->nchw', dy, weight[:, :, i, j])
            dweight[:, :, i, j] = np.einsum('nchw,nohw->oc', padded[part], dy)
    return y + bias[:, None, None], dpadded[:, :, 1:-1, 1:-1], dweight, dy.sum((0, 2, 3))


@pytest.mark.parametrize('shape', SHAPES)
def test_output_and_gradients_of_any_shape(shape):
    agrees(operands(shape))


def test_arrays_of_any_layout():
    x, weight, bias, dy = operands((2, 6, 5, 7, 9))
    agrees((np.asfortranarray(x), weight[:, :, ::-1], bias.astype(np.float64), dy[::-1]))


def test_arrays_that_do_not_fit():
    x, weight, bias, dy = operands((2, 6, 5, 7, 9))
    for wrong in (lambda: native.convolution(x, weight[:, 1:], bias), lambda: native.convolution(x, weight, bias[1:]),
                  lambda: native.input_gradient(dy[:, 1:], weight), lambda: native.kernel_gradient(dy[:, :, 1:], x)):
        with pytest.raises(AssertionError):
            wrong()


def test_what_is_no_number_stays_where_it_is():
    """What is not a number spoils the tiles of 4x4 pixels whose neighbourhood it is in, and no others."""
    x, weight, bias, dy = operands((1, 4, 8, 16, 100))
    clean = computed(x, weight, bias, dy)[0]
    x[0, 2, 5, 60] = np.nan
    spoilt = computed(x, weight, bias, dy)[0]
    touched = np.isnan(spoilt).any((0, 1))
    assert touched[4:7, 59:62].all()
    touched[4:8, 56:64] = False
    assert not touched.any()
    np.testing.assert_array_equal(spoilt[..., :56], clean[..., :56])


@pytest.mark.parametrize('shape', [(3, 8, 8, 21, 50), (2, 70, 130, 5, 49), (2, 9, 3, 30, 48)])
def test_threads_change_no_bit(shape):
    results = []
    for threads in (1, 2, 7, 0):
        native.open_library().SetThreads(threads)
        results.append(computed(*operands(shape)))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """open_library() as in a process of its own with an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return native.open_library.__wrapped__


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='other flags')
@pytest.mark.parametrize('narrower', ['-mno-avx512f', '-mno-avx'])
def test_processors_with_narrower_registers(fresh, monkeypatch, narrower):
    wide = attentions()
    monkeypatch.setenv('CXX', f'g++ {narrower}')
    library = fresh()
    monkeypatch.setattr(native, 'open_library', lambda: library)
    for shape in SHAPES[1:4]:
        agrees(operands(shape))
    for one, other in zip(wide, attentions()):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def attentions():
    """Both attentions and their gradients, of sizes that fill no register."""
    found, rng = [], np.random.default_rng(0)
    for depth, channels, height, width in ((19, 2, 10, 12), (1, 1, 4, 30), (5, 7, 18, 14)):
        query, v = (rng.standard_normal((2, count, height, width)) for count in (depth, channels))
        y, key = native.attention(query, query, v), np.ascontiguousarray(query[:, :, ::2, ::2])
        pasted = native.cross_scale_attention(query, key, v)
        found += [y, *native.attention_gradients(v, query, query, v, y), pasted,
                  *native.cross_scale_gradients(np.cos(pasted), query, key, v)]
    return found


@pytest.mark.parametrize('compiler, message', [('false', 'false: the C.. compiler failed'),
                                               ('/nowhere/c', '/nowhere/c: the C.. compiler cannot be started')])
def test_without_a_compiler(fresh, monkeypatch, compiler, message):
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(ValueError, match=message):
        fresh()


def test_no_compiler_on_the_path(fresh, monkeypatch, tmp_path):
    monkeypatch.delenv('CXX', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(ValueError, match='no C\\+\\+ compiler'):
        fresh()


def test_a_library_that_computes_nothing_is_refused(fresh, monkeypatch, tmp_path):
    (tmp_path / 'idle.cc').write_text('extern "C" { int Convolution() { return 0; } int InputGradient() { return 0; } '
                                      'int KernelGradient() { return 0; } }')
    idle = tmp_path / 'compiler'
    idle.write_text(f'#!/bin/sh\nfor last; do :; done\nexec g++ -shared -fPIC "{tmp_path}/idle.cc" -o "$last"\n')
    idle.chmod(0o700)
    monkeypatch.setenv('CXX', f'"{idle}"')
    with pytest.raises(ValueError, match='wrong in the output'):
        fresh()


def test_a_folder_that_cannot_be_written(fresh, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(ValueError, match='cannot be written or loaded'):
        fresh()


def test_two_processes_compile_at_once(tmp_path):
    program = 'from common.native import open_library; print(open_library()._name)'
    environment = dict(os.environ, XDG_CACHE_HOME=str(tmp_path))
    both = [subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                             text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(paths) == 1
    assert [str(path) for path in (tmp_path / 'sr-modelzoo' / 'native').iterdir()] == list(paths)


LIMITED = """
import resource
import numpy as np
from common import native
x, weight, bias = np.ones((1, 1024, 4, 4)), np.ones((1024, 1024, 3, 3), np.float32), np.ones(1024)
native.convolution(x, weight, bias)
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 ** 24, -1))
try:
    native.convolution(x, weight, bias)
except MemoryError as error:
    print(error)
"""


def test_no_memory_is_an_error_and_no_crash():
    done = subprocess.run([sys.executable, '-c', LIMITED], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, 'no memory for a convolution\n'), done.stderr
