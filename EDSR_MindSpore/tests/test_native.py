"""A network of our compiled convolutions computes and learns what one of MindSpore's does."""
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from common import native
from common.ms.checkpoint import load_weights, weights_of
from common.ms.kernels import NativeConvolution, native_convolution, open_library
from src.context import Device, open_device
from src.model import EDSR, builtin_convolution


@pytest.fixture(scope='module', autouse=True)
def device():
    return open_device('cpu')


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


def test_without_a_compiler(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(native, 'open_library', native.open_library.__wrapped__)  # as in a process of its own
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setenv('CXX', 'false')
    message = 'false: the C.. compiler failed'
    assert Device('cpu').convolution('auto') is builtin_convolution
    assert re.search(message, capsys.readouterr().out)
    with pytest.raises(ValueError, match=message):
        Device('cpu').convolution('native')


def test_a_cache_folder_that_mindspore_cannot_read(monkeypatch):
    monkeypatch.setattr(native, 'open_library', lambda: SimpleNamespace(_name='a:b/kernels.so'))
    with pytest.raises(ValueError, match='a:b/kernels.so: MindSpore takes no library with a colon'):
        open_library()


def test_parameters_are_those_of_the_builtin_one():
    builtin, ours = builtin_convolution(3, 5), NativeConvolution(open_library(), 3, 5)
    assert {p.name: p.shape for p in builtin.get_parameters()} == {p.name: p.shape for p in ours.get_parameters()}


LIMITED = """
import resource
import numpy as np
from mindspore import Tensor
from src.context import open_device
from common.ms.kernels import lacked_memory
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
