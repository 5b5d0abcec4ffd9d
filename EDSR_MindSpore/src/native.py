"""EDSR's 3x3 convolution by our own CPU kernels, src/native/convolution.cc, compiled when they are first asked for.

    network = EDSR(scale=2, conv=native_convolution)
"""
import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from common.patches import default_cache_dir

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'native')
SOURCES = [os.path.join(FOLDER, name) for name in ('convolution.cc', 'support.h')]


def native_convolution(n_in, n_out):
    """nn.Conv2d(n_in, n_out, 3, pad_mode='pad', padding=1, has_bias=True) in float32; zeros until weights are loaded.

    Raises ValueError where the kernels cannot be compiled, or do not compute what they should.
    """
    return NativeConvolution(open_library(), n_in, n_out)


class NativeConvolution(nn.Cell):  # x [N,n_in,H,W] to [N,n_out,H,W]
    def __init__(self, path, n_in, n_out):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((n_out, n_in, 3, 3), np.float32)), name='weight')
        self.bias = Parameter(Tensor(np.zeros(n_out, np.float32)), name='bias')
        self.operator = Operator(path)

    def construct(self, x):
        return self.operator(x, self.weight, self.bias)


class Operator(nn.Cell):  # x [N,C,H,W], weight [O,C,3,3], bias [O] to y [N,O,H,W], and its gradients
    def __init__(self, path):
        super().__init__()
        self.convolution = ops.Custom(f'{path}:Convolution', None, ms.float32, 'aot')
        self.convolution.add_prim_attr('reg_op_name', 'Convolution')  # without it MindSpore 2.8 infers no shape in C++
        self.input_gradient = ops.Custom(f'{path}:InputGradient', _input_gradient_shape, ms.float32, 'aot')
        self.kernel_gradient = ops.Custom(f'{path}:KernelGradient', _kernel_gradient_shapes,
                                          (ms.float32, ms.float32), 'aot')

    def construct(self, x, weight, bias):
        return self.convolution(x, weight, bias)

    def bprop(self, x, weight, bias, y, dy):
        dweight, dbias = self.kernel_gradient(dy, x)
        return self.input_gradient(dy, weight), dweight, dbias


def _input_gradient_shape(dy, weight):
    return dy[0], weight[1], dy[2], dy[3]


def _kernel_gradient_shapes(dy, x):
    return (dy[1], x[1], 3, 3), (dy[1],)


@functools.lru_cache(maxsize=None)
def open_library():
    """Path of the compiled kernels, a shared library in the cache folder; compiled now unless it is there.

    Any number of processes may ask at once. Raises ValueError: no compiler ($CXX, else g++, c++ or clang++), it fails,
    the folder cannot be written, or the kernels' results are not those of numpy.
    """
    sources = []
    for source in SOURCES:
        with open(source, 'rb') as file:
            sources.append(file.read())
    tune = '-mcpu=native' if platform.machine() == 'aarch64' else '-march=native'
    command = [*_compiler(), '-O3', tune, '-std=c++17', '-shared', '-fPIC', '-pthread', SOURCES[0], '-o']
    name = hashlib.sha256(repr((sources, command, _processor())).encode()).hexdigest()[:16] + '.so'
    path = os.path.join(default_cache_dir(), 'native', name)
    if ':' in path:
        raise ValueError(f'{path}: MindSpore takes no library with a colon in its path; set XDG_CACHE_HOME to another')
    try:
        if not os.path.exists(path):
            _compile(command, path)
        kernels = ctypes.CDLL(path)  # the one that MindSpore will load, too
    except OSError as error:
        raise ValueError(f'{path}: the compiled convolution cannot be written or loaded ({error})') from error
    _check(kernels)
    asked = os.environ.get('OMP_NUM_THREADS', '')  # the user's; MindSpore sets a 1 of its own that only C sees
    kernels.SetThreads(int(asked) if asked.isdecimal() else 0)
    return path


def lacked_memory(error):
    """Whether MindSpore's error is that our kernels found no memory: it knows their status alone, not what it means."""
    return 'AOT kernel' in str(error) and f') is {errno.ENOMEM}.' in str(error)


def _compiler():
    asked = os.environ.get('CXX')
    if asked:
        return shlex.split(asked)
    for name in ('g++', 'c++', 'clang++'):
        if shutil.which(name):
            return [name]
    raise ValueError('no C++ compiler for the fast convolution: found no g++, c++ or clang++; install one or set CXX')


def _processor():  # a cache folder may be shared by machines with different instructions
    try:
        with open('/proc/cpuinfo') as file:
            return platform.machine(), re.findall(r'^(?:flags|Features)\s*:.*', file.read(), re.MULTILINE)[:1]
    except OSError:
        return platform.machine(), platform.processor()


def _compile(command, path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        output = os.path.join(folder, 'convolution.so')
        try:
            done = subprocess.run([*command, output], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        except OSError as error:
            raise ValueError(f'{command[0]}: the C++ compiler cannot be started ({error}); set CXX to one') from error
        if done.returncode or not os.path.exists(output):
            last = (done.stderr.strip() or 'it said nothing').splitlines()[-1]
            raise ValueError(f'{command[0]}: the C++ compiler failed on {SOURCES[0]} with status {done.returncode} '
                             f'({last}); set CXX to one that knows C++17')
        os.replace(output, path)  # at once: others may be doing the same


def call(kernels, function, inputs, shapes):
    """The float32 arrays of those shapes that a function of the library (ctypes) computes from float32 arrays."""
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    arrays = [np.ascontiguousarray(array, np.float32) for array in inputs] + outputs
    sizes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    tensors = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    dimensions = (ctypes.c_void_p * len(arrays))(*(ctypes.addressof(size) for size in sizes))
    status = kernels[function](len(arrays), tensors, None, dimensions, None, None, None)
    assert status == 0, (function, status)
    return outputs


def _check(kernels):
    """ValueError unless a small convolution and its gradients are numpy's."""
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, 3, 5, 50)), rng.standard_normal((1, 9, 5, 50))
    weight, bias = rng.standard_normal((9, 3, 3, 3)), rng.standard_normal(9)
    ours = (*call(kernels, 'Convolution', (x, weight, bias), (dy.shape,)),
            *call(kernels, 'InputGradient', (dy, weight), (x.shape,)),
            *call(kernels, 'KernelGradient', (dy, x), (weight.shape, bias.shape)))
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    theirs = (np.einsum('nchwij,ocij->nohw', _windows(x), weight) + bias[:, None, None],
              np.einsum('nchwij,ocij->nohw', _windows(dy), turned),
              np.einsum('nchwij,nohw->ocij', _windows(x), dy), dy.sum((0, 2, 3)))
    for name, a, b in zip(('output', 'gradient to its input', 'gradient to its kernel', 'gradient to its bias'),
                          ours, theirs):
        if not np.abs(a - b).max() < 1e-4 * np.abs(b).max():
            raise ValueError(f'the compiled convolution is wrong in the {name}; set CXX to another C++ compiler')


def _windows(x):  # [N,C,H,W] to the 3x3 neighbourhoods [N,C,H,W,3,3], zeros outside
    return np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
