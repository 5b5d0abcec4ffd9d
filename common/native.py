"""3x3 convolutions (stride 1, zeros around) and attention for CPUs, faster than frameworks' own; NCHW, float32.

    y = native.convolution(x, weight, bias)
    y = native.deformable_convolution(x, sampling, weight, bias, groups)
    y = native.attention(query, key, v)
    y = native.cross_scale_attention(query, key, v)

Each has its gradients beside it.

They are C++, common/native/, compiled when they are first asked for. All arrays that the functions
return begin at a multiple of 64 bytes, so that TensorFlow takes them over without a copy. While they compute, other
Python threads run. They raise MemoryError, and the ValueError of open_library().
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

import numpy as np

from common.patches import default_cache_dir

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'native')
SOURCES = [os.path.join(FOLDER, name) for name in (
    'operators.cc', 'attention.h', 'attention_gradients.h', 'convolution.h', 'cross_scale.h', 'cross_scale_gradients.h',
    'deformable.h', 'elements.h', 'few.h', 'support.h', 'transforms.h')]


def convolution(x, weight, bias):
    """y [N,O,H,W] of x [N,C,H,W], weight [O,C,3,3] and bias [O]."""
    assert weight.shape == (len(bias), x.shape[1], 3, 3), (x.shape, weight.shape, bias.shape)
    return _call(open_library(), 'Convolution', (x, weight, bias), (len(x), len(bias), *x.shape[2:]))[0]


def input_gradient(dy, weight):
    """dx [N,C,H,W] of dy [N,O,H,W] and weight [O,C,3,3]."""
    assert weight.shape == (dy.shape[1], weight.shape[1], 3, 3), (dy.shape, weight.shape)
    return _call(open_library(), 'InputGradient', (dy, weight), (len(dy), weight.shape[1], *dy.shape[2:]))[0]


def kernel_gradient(dy, x):
    """dweight [O,C,3,3] and dbias [O] of dy [N,O,H,W] and x [N,C,H,W]."""
    assert (len(dy), *dy.shape[2:]) == (len(x), *x.shape[2:]), (dy.shape, x.shape)
    outputs = dy.shape[1]
    return _call(open_library(), 'KernelGradient', (dy, x), (outputs, x.shape[1], 3, 3), (outputs,))


def deformable_convolution(x, sampling, weight, bias, groups):
    """y [N,O,H,W] of x [N,C,H,W], sampling [N,27*groups,H,W], weight [O,C,3,3] and bias [O].

    Each tap of the kernel reads x at a point of its own, between four pixels; the channels are cut into `groups` that
    are read at the same points (Deformable ConvNets v2, 2019). sampling [N,3,groups,9,H,W]: what is added to the column
    of each tap, in pixels; to its row; and what its value is multiplied by. Of no number comes none.
    """
    _check_shapes(x, sampling, weight, groups)
    assert bias.shape == weight.shape[:1], (weight.shape, bias.shape)
    return _call(open_library(), 'Deformable', (x, sampling, weight, bias), (len(x), len(bias), *x.shape[2:]))[0]


def deformable_gradients(dy, x, sampling, weight, groups):
    """dx, dsampling, dweight and dbias [O] of dy [N,O,H,W] and the arguments of deformable_convolution()."""
    _check_shapes(x, sampling, weight, groups)
    assert dy.shape == (len(x), len(weight), *x.shape[2:]), (dy.shape, x.shape, weight.shape)
    return _call(open_library(), 'DeformableGradients', (dy, x, sampling, weight),
                 x.shape, sampling.shape, weight.shape, weight.shape[:1])


def attention(query, key, v):
    """y [N,C,H,W]: of v [N,C,H,W] the mean over all pixels of a picture, weighed for each pixel by the softmax of
    query'key over the pixels; query, key [N,D,H,W]. A matrix of pixels by pixels is never in memory.
    """
    assert query.shape == key.shape == (len(v), query.shape[1], *v.shape[2:]), (query.shape, key.shape, v.shape)
    return _call(open_library(), 'InScaleAttention', (query, key, v), v.shape)[0]


def attention_gradients(dy, query, key, v, y):
    """dquery, dkey and dv of dy, the arguments of attention() and its result."""
    assert dy.shape == v.shape == y.shape, (dy.shape, v.shape, y.shape)
    return _call(open_library(), 'InScaleAttentionGradients', (dy, query, key, v, y), query.shape, key.shape, v.shape)


def cross_scale_attention(query, key, v):
    """y [N,C,s*H,s*W] of query [N,D,H,W], key [N,D,H/s,W/s] and v [N,C,H,W] (CSNLN, 2020, section 3.1).

    Each pixel's 3x3 neighbourhood in query is compared with all of key, zeros around: their product over the norm of
    the latter, times 10. By the softmax of that, 3s x 3s pixels of v are pasted over its own; y is the sum of all / 6.
    """
    n, _, height, width = query.shape
    s = height // key.shape[2]
    assert key.shape == (n, query.shape[1], height // s, width // s), (query.shape, key.shape)
    assert (n, s * key.shape[2], s * key.shape[3]) == (len(v), *v.shape[2:]), (key.shape, v.shape)
    return _call(open_library(), 'CrossScaleAttention', (query, key, v), (*v.shape[:2], s * height, s * width))[0]


def cross_scale_gradients(dy, query, key, v):
    """dquery, dkey and dv of dy and the arguments of cross_scale_attention()."""
    return _call(open_library(), 'CrossScaleAttentionGradients', (dy, query, key, v), query.shape, key.shape, v.shape)


def _check_shapes(x, sampling, weight, groups):
    assert sampling.shape == (len(x), 27 * groups, *x.shape[2:]), (x.shape, sampling.shape, groups)
    assert weight.shape[1:] == (x.shape[1], 3, 3) and x.shape[1] % groups == 0, (x.shape, weight.shape, groups)


@functools.lru_cache(maxsize=None)
def open_library():
    """The compiled kernels (ctypes.CDLL), a shared library in the cache folder; compiled now unless it is there.

    Any number of processes may ask at once. Its threads are $OMP_NUM_THREADS, else one for each processor that this
    process may use. Raises ValueError: no compiler ($CXX, else g++, c++ or clang++), it fails, the folder cannot be
    written, or the kernels' results are not those of numpy.
    """
    sources = []
    for source in SOURCES:
        with open(source, 'rb') as file:
            sources.append(file.read())
    tune = '-mcpu=native' if platform.machine() == 'aarch64' else '-march=native'
    command = [*_compiler(), '-O3', tune, '-std=c++17', '-shared', '-fPIC', '-pthread', SOURCES[0], '-o']
    name = hashlib.sha256(repr((sources, command, _processor())).encode()).hexdigest()[:16] + '.so'
    path = os.path.join(default_cache_dir(), 'native', name)
    try:
        if not os.path.exists(path):
            _compile(command, path)
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ValueError(f'{path}: the compiled convolution cannot be written or loaded ({error})') from error
    _check(library)
    asked = os.environ.get('OMP_NUM_THREADS', '')  # the user's; MindSpore sets a 1 of its own that only C sees
    library.SetThreads(int(asked) if asked.isdecimal() else 0)
    return library


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


def _call(library, function, inputs, *shapes):
    """The float32 arrays of those shapes that a function of the library computes from float32 arrays."""
    outputs = [_empty(shape) for shape in shapes]
    arrays = [np.ascontiguousarray(array, np.float32) for array in inputs] + outputs
    sizes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
    tensors = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    dimensions = (ctypes.c_void_p * len(arrays))(*(ctypes.addressof(size) for size in sizes))
    status = library[function](len(arrays), tensors, None, dimensions, None, None, None)
    if status == errno.ENOMEM:
        raise MemoryError('no memory for a convolution')
    assert status == 0, (function, status)
    return outputs


def _empty(shape):
    size = 4 * int(np.prod(shape))
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start:start + size].view(np.float32).reshape(shape)


def _check(library):
    """ValueError unless a small convolution and its gradients, plain and deformable, and attentions are numpy's."""
    for results in (_plain, _deformable, _attention):
        for name, ours, theirs in results(library):
            if not np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max():
                raise ValueError(f'the compiled code is wrong in the {name}; set CXX to another C++ compiler')


def _plain(library):  # (name, what the library computes, what numpy does) of each result
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((1, 3, 5, 50)), rng.standard_normal((1, 9, 5, 50))
    weight, bias = rng.standard_normal((9, 3, 3, 3)), rng.standard_normal(9)
    ours = (*_call(library, 'Convolution', (x, weight, bias), dy.shape),
            *_call(library, 'InputGradient', (dy, weight), x.shape),
            *_call(library, 'KernelGradient', (dy, x), weight.shape, bias.shape))
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    theirs = (np.einsum('nchwij,ocij->nohw', _windows(x), weight) + bias[:, None, None],
              np.einsum('nchwij,ocij->nohw', _windows(dy), turned),
              np.einsum('nchwij,nohw->ocij', _windows(x), dy), dy.sum((0, 2, 3)))
    return zip(('output', 'gradient to its input', 'gradient to its kernel', 'gradient to its bias'), ours, theirs)


def _windows(x):  # [N,C,H,W] to the 3x3 neighbourhoods [N,C,H,W,3,3], zeros outside
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.as_strided(padded, (*x.shape, 3, 3), (*padded.strides, *padded.strides[2:]))


def _deformable(library):  # the same; i, j: row and column of what is read, t: tap, g: group
    rng = np.random.default_rng(0)
    x, dy, sampling = (rng.standard_normal((1, channels, 3, 50)) for channels in (10, 3, 54))
    weight, bias = rng.standard_normal((3, 10, 3, 3)), rng.standard_normal(3)
    y, = _call(library, 'Deformable', (x, sampling, weight, bias), dy.shape)
    gradients = _call(library, 'DeformableGradients', (dy, x, sampling, weight),
                      x.shape, sampling.shape, weight.shape, bias.shape)
    right, down, mask = sampling.reshape(3, 2, 9, 3, 50)
    tap = np.arange(9)[:, None, None]
    rows, slopes = _tents(np.arange(3)[:, None] + tap // 3 - 1 + down, 3)
    columns, slants = _tents(np.arange(50) + tap % 3 - 1 + right, 50)
    x, weight = x.reshape(2, 5, 3, 50), weight.reshape(3, 2, 5, 9)
    samples, by_y, by_x = (np.einsum('gthwi,gthwj,gcij->gcthw', a, b, x, optimize=True)
                           for a, b in ((rows, columns), (slopes, columns), (rows, slants)))
    back = np.einsum('ohw,ogct->gcthw', dy[0], weight)
    theirs = (np.einsum('gcthw,gthw,ogct->ohw', samples, mask, weight, optimize=True) + bias[:, None, None],
              np.einsum('gcthw,gthw,gthwi,gthwj->gcij', back, mask, rows, columns, optimize=True),
              np.stack([(back * by_x).sum(1) * mask, (back * by_y).sum(1) * mask, (back * samples).sum(1)]),
              np.einsum('gcthw,gthw,ohw->ogct', samples, mask, dy[0], optimize=True), dy.sum((0, 2, 3)))
    names = ('output', *(f'gradient to its {part}' for part in ('input', 'sampling', 'kernel', 'bias')))
    return [(f'deformable {name}', ours, exact.reshape(ours.shape))
            for name, ours, exact in zip(names, (y, *gradients), theirs)]


def _tents(at, size):  # what each of `size` pixels is multiplied by for the value between them, and its derivative
    distance = at[..., None] - np.arange(size)
    weight = np.maximum(1 - np.abs(distance), 0)
    return weight, -np.sign(distance) * (weight > 0)


def _attention(library):  # the same, without gradients; across scales with keys as many as queries
    rng = np.random.default_rng(0)
    query, key, v = (rng.standard_normal((1, channels, 5, 50)) for channels in (3, 3, 18))
    within, = _call(library, 'InScaleAttention', (query, key, v), v.shape)
    across, = _call(library, 'CrossScaleAttention', (query, key, v), v.shape)
    yield 'attention', within, np.einsum('nchw,ijhw->ncij', v, _softmax(np.einsum('ndij,ndhw->ijhw', query, key)))
    keys = _windows(key)
    keys = keys / np.sqrt((keys ** 2).sum((1, 4, 5), keepdims=True))
    weights = _softmax(10 * np.einsum('ndijab,ndhwab->ijhw', _windows(query), keys, optimize=True))
    pasted = np.einsum('ijhw,nchwab->ncijab', weights, _windows(v), optimize=True)
    theirs = np.zeros((1, 18, 7, 52))
    for tap in range(9):
        theirs[:, :, tap // 3:tap // 3 + 5, tap % 3:tap % 3 + 50] += pasted[..., tap // 3, tap % 3]
    yield 'attention across scales', across, theirs[:, :, 1:-1, 1:-1] / 6


def _softmax(scores):  # over the last two axes
    powers = np.exp(scores - scores.max((2, 3), keepdims=True))
    return powers / powers.sum((2, 3), keepdims=True)
