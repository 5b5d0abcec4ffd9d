"""The compiled convolution computes what MindSpore's does, for any shape, any threads and any width of registers."""
import ctypes
import os
import platform
import re
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src import native
from src.context import Device, open_device
from src.model import EDSR, builtin_convolution, load_weights, weights_of
from src.native import NativeConvolution, native_convolution

SHAPES = [(1, 1, 1, 1, 1), (2, 3, 5, 7, 9), (1, 8, 20, 4, 50), (3, 5, 8, 6, 1), (2, 20, 3, 13, 16), (1, 64, 64, 9, 17),
          (2, 70, 130, 5, 49), (1, 3, 64, 8, 33), (2, 64, 3, 10, 48)]  # batch, channels in, channels out, height, width


@pytest.fixture(scope='module', autouse=True)
def device():
    return open_device('cpu')


@pytest.fixture(scope='module')
def kernels():
    return ctypes.CDLL(native.open_library())


def operands(shape, seed=0):
    batch, n_in, n_out, height, width = shape
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(np.float32) for size in (
        (batch, n_in, height, width), (n_out, n_in, 3, 3), (n_out,), (batch, n_out, height, width))]


def computed(kernels, x, weight, bias, dy):
    """y, dx, dweight, dbias of the compiled kernels."""
    return [*native.call(kernels, 'Convolution', (x, weight, bias), (dy.shape,)),
            *native.call(kernels, 'InputGradient', (dy, weight), (x.shape,)),
            *native.call(kernels, 'KernelGradient', (dy, x), (weight.shape, bias.shape))]


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
def test_output_and_gradients_of_any_shape(kernels, shape):
    arrays = operands(shape)
    for ours, exact in zip(computed(kernels, *arrays), expected(*arrays)):
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5 * np.sqrt(np.mean(exact ** 2)) + 1e-6)


def test_what_is_no_number_stays_where_it_is(kernels):
    """Nothing leaks sideways, or into other tiles: what is not a number spoils three columns of its own tile."""
    x, weight, bias, dy = operands((1, 4, 8, 16, 100))
    clean = computed(kernels, x, weight, bias, dy)[0]
    x[0, 2, 5, 60] = np.nan
    spoilt = computed(kernels, x, weight, bias, dy)[0]
    touched = np.isnan(spoilt).any((0, 1))
    assert touched[4:7, 59:62].all()
    touched[4:8, 59:62] = False
    assert not touched.any()
    np.testing.assert_array_equal(spoilt[..., :59], clean[..., :59])


@pytest.mark.parametrize('shape', [(3, 8, 8, 21, 50), (2, 70, 130, 5, 49)])
def test_threads_change_no_bit(kernels, shape):
    results = []
    for threads in (1, 2, 7, 1):
        kernels.SetThreads(threads)
        results.append(computed(kernels, *operands(shape)))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


class Loss(nn.Cell):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def construct(self, x, target):
        return ops.abs(self.network(x) - target).mean()


@pytest.mark.parametrize('scale', [2, 3])
def test_a_network_learns_as_with_the_builtin_one(scale):
    """Three steps of Adam, in GRAPH mode."""
    rng = np.random.default_rng(scale)
    x = Tensor(rng.uniform(0, 255, (2, 3, 11, 13)).astype(np.float32))
    target = Tensor(rng.uniform(0, 255, (2, 3, 11 * scale, 13 * scale)).astype(np.float32))
    losses, weights = [], []
    for convolution in (builtin_convolution, native_convolution):
        network = EDSR(scale, 1, 8, 0.5, conv=convolution)
        network.initialise(np.random.default_rng(0))
        step = nn.TrainOneStepCell(Loss(network), nn.Adam(network.trainable_params(), 1e-3))
        losses.append([float(step(x, target).asnumpy()) for _ in range(3)])
        weights.append(weights_of(network))
    assert losses[0][2] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert list(weights[0]) == list(weights[1])
    for name in weights[0]:
        np.testing.assert_allclose(weights[1][name], weights[0][name], atol=5e-5, err_msg=name)


def test_one_graph_for_pictures_of_all_sizes():
    builtin, ours = EDSR(2, 1, 8, conv=builtin_convolution), EDSR(2, 1, 8, conv=native_convolution)
    builtin.initialise(np.random.default_rng(0))
    load_weights(ours, weights_of(builtin))
    for network in (builtin, ours):
        network.set_train(False)
        network.set_inputs(Tensor(shape=[1, 3, None, None], dtype=ms.float32))
    for seed, (height, width) in enumerate([(9, 70), (33, 5), (1, 1)]):
        x = Tensor(np.random.default_rng(seed).uniform(0, 255, (1, 3, height, width)).astype(np.float32))
        y = ours(x).asnumpy()
        assert y.shape == (1, 3, 2 * height, 2 * width)
        np.testing.assert_allclose(y, builtin(x).asnumpy(), atol=1e-3)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """open_library() as in a process of its own with an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return native.open_library.__wrapped__


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='other flags')
@pytest.mark.parametrize('narrower', ['-mno-avx512f', '-mno-avx'])
def test_processors_with_narrower_registers(fresh, monkeypatch, narrower):
    monkeypatch.setenv('CXX', f'g++ {narrower}')
    kernels = ctypes.CDLL(fresh())
    for shape in SHAPES[1:4]:
        arrays = operands(shape)
        for ours, exact in zip(computed(kernels, *arrays), expected(*arrays)):
            np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5 * np.sqrt(np.mean(exact ** 2)) + 1e-6)


@pytest.mark.parametrize('compiler, message', [('false', 'false: the C.. compiler failed'),
                                               ('/nowhere/c', '/nowhere/c: the C.. compiler cannot be started')])
def test_without_a_compiler(fresh, monkeypatch, capsys, compiler, message):
    monkeypatch.setenv('CXX', compiler)
    with pytest.raises(ValueError, match=message):
        fresh()
    monkeypatch.setattr(native, 'open_library', fresh)
    assert Device('cpu').convolution('auto') is builtin_convolution
    assert re.search(message, capsys.readouterr().out)
    with pytest.raises(ValueError, match=message):
        Device('cpu').convolution('native')


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
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'a:b'))
    with pytest.raises(ValueError, match='colon'):
        fresh()


def test_two_processes_compile_at_once(tmp_path):
    environment = dict(os.environ, XDG_CACHE_HOME=str(tmp_path))
    both = [subprocess.Popen([sys.executable, '-c', 'from src.native import open_library; print(open_library())'],
                             env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(paths) == 1
    assert [str(path) for path in (tmp_path / 'sr-modelzoo' / 'native').iterdir()] == list(paths)


def test_parameters_are_those_of_the_builtin_one():
    builtin, ours = builtin_convolution(3, 5), NativeConvolution(native.open_library(), 3, 5)
    assert {p.name: p.shape for p in builtin.get_parameters()} == {p.name: p.shape for p in ours.get_parameters()}


LIMITED = """
import resource
import numpy as np
from mindspore import Tensor
from src.context import open_device
from src.native import lacked_memory
layer, x = open_device('cpu').convolution('native')(1024, 1024), Tensor(np.ones((1, 1024, 4, 4), np.float32))
layer(x).asnumpy()
with open('/proc/self/statm') as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2 ** 24, -1))
try:
    layer(x)
except RuntimeError as error:
    print(lacked_memory(error), lacked_memory(RuntimeError('other')))
"""


def test_no_memory_is_an_error_and_no_crash():
    done = subprocess.run([sys.executable, '-c', LIMITED], capture_output=True, text=True,
                          env=dict(os.environ, PYTHONPATH='.'))
    assert (done.returncode, done.stdout) == (0, 'True False\n'), done.stderr
