"""Weight files of MindSpore, PyTorch and safetensors as numpy arrays, whoever wrote them; our own are written here.

Which names a network's files have is for the import_weights.py of its directory.
"""
import binascii
import contextlib
import math
import os

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint

from common import checkpoints, files

CONTAINERS = ('params_ema', 'params', 'model', 'state_dict', 'network')
PREFIXES = ('module.', 'model.', 'net.', 'network.')
OPTIMISER = ('moment1.', 'moment2.', 'moments.', 'accum.', 'stat.')  # Adam, Momentum, SGD
TYPES = {'Float16': 'f2', 'Float32': 'f4', 'Float64': 'f8', 'Int32': 'i4', 'Int64': 'i8', 'Bool': '?',
         'BFloat16': 'u2'}  # numpy has no such type
HARMLESS = 1 << 30  # bytes of weights that a smaller file may claim: six times the largest EDSR's


def load_file(path):
    """{name: numpy array, torch tensor, text or dict}: what a .ckpt, .pt, .pth or .safetensors file holds, by content.

    No code in it is run. Raises ValueError naming the file when it is damaged, of another kind or holds more than
    numbers.
    """
    with open(path, 'rb') as file:
        begin = file.read(2)
    if os.path.splitext(path)[1] == '.safetensors':
        content = _load_safetensors(path)
    elif begin[:1] == b'\n':  # protobuf: the first field, of variable length
        content = load_checkpoint(path)
    elif begin == b'PK' or begin[:1] == b'\x80':  # zip, pickle
        content = _load_torch(path)
    else:
        raise ValueError(f'{path}: ' + ('no checkpoint of MindSpore or PyTorch' if begin else 'an empty file'))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no weights by name; expected a network's (README, Weights)")
    return content


def load_checkpoint(path):
    """{name: numpy array, or text} of a MindSpore checkpoint. Raises ValueError naming the file when it is damaged.

    MindSpore's own reader trusts the shapes that a file claims, and writes beyond its memory when they are wrong.
    """
    with open(path, 'rb') as file:
        content = file.read()
    if content[-17:-10] == b'crc_num':  # save_checkpoint(crc_check=True)
        content, sum_of_it = content[:-17], int.from_bytes(content[-10:], 'big')
        if binascii.crc32(content) != sum_of_it:
            raise ValueError(f'{path}: damaged: its checksum is wrong')
    try:
        parts = {}
        for entry in Checkpoint.FromString(content).value:  # a large tensor comes in several
            parts.setdefault(entry.tag, []).append(entry.tensor)
        return {name: _array(tensors) for name, tensors in parts.items()}
    except (DecodeError, ValueError, KeyError) as error:
        raise ValueError(f'{path}: damaged, or not a checkpoint of MindSpore ({error})') from None


def _array(tensors):
    data, kind, dims = b''.join(t.tensor_content for t in tensors), tensors[0].tensor_type, list(tensors[0].dims)
    if kind == 'str':
        return data.decode('utf-32-le').rstrip('\0')  # an empty text is one 0
    if kind not in TYPES:
        raise ValueError(f'numbers of type {kind}; known: {", ".join(TYPES)}')
    values = np.frombuffer(data, TYPES[kind]).reshape([] if dims == [0] else dims)
    return (values.astype('u4') << 16).view('f4') if kind == 'BFloat16' else values  # the upper half of a float32


def save_checkpoint(path, values, more, keep=1):
    """Write what load_checkpoint reads: atomic, with a checksum; `keep` - 1 earlier versions stay beside it.

    values: [{'name': ..., 'data': Parameter or Tensor}]; more: {name: number or text}, such as arguments of the
    network that its weights do not tell. Raises OSError as common.checkpoints.save does.
    """
    more = {name: Tensor(value, ms.float64) if isinstance(value, float) else value  # MindSpore would make it float32
            for name, value in more.items()}

    def write(temporary):
        half = files.temporary(path, '.tmp')  # of MindSpore, which renames in turn; removes those of killed runs
        try:
            ms.save_checkpoint(values, temporary, append_dict=more, crc_check=True)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.remove(half)
        os.chmod(temporary, 0o644)  # MindSpore makes it readable for its owner alone
    checkpoints.save(path, write, keep)


def _load_torch(path):
    try:
        import torch
    except ImportError:
        raise ValueError(f'{path}: a file of PyTorch, and PyTorch is not installed: pip install torch') from None
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file raises anything in the unpickler
        more = 'weights_only' in str(error) or 'Unsupported' in str(error)
        raise ValueError(f'{path}: ' + ('it holds more than numbers, and reading that could run code; refused' if more
                         else f'damaged, or not a file of PyTorch ({type(error).__name__})')) from None


def _load_safetensors(path):
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file as load_safetensors
    except ImportError:
        raise ValueError(f'{path}: safetensors is not installed: pip install safetensors') from None
    try:
        return load_safetensors(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f'{path}: damaged, or not a file of safetensors ({type(error).__name__})') from None


def tensors(content, file_size):
    """{name: float32 array}: the weights inside the containers that training programs write, without what is the
    optimiser's, and without the prefixes of wrappers.
    """
    for _ in range(3):
        inner = next((content[c] for c in CONTAINERS if isinstance(content.get(c), dict)), None)
        content = content if inner is None else inner
    found = {name: value for name, value in content.items() if isinstance(name, str) and hasattr(value, 'shape')
             and '.' in name and not name.startswith(OPTIMISER)}  # counters and rates have no dot
    if not found:
        raise ValueError("holds no weights by name; expected a network's (README, Weights)")
    claimed = sum(math.prod(value.shape) * value.dtype.itemsize for value in found.values()
                  if not isinstance(value, np.ndarray))
    if claimed > max(file_size, HARMLESS):  # PyTorch can repeat a number without storing it
        raise ValueError(f'damaged: it claims {claimed:,} bytes of weights and has {file_size:,} in all')
    while all(name.startswith(PREFIXES) for name in found):
        found = {name.split('.', 1)[1]: value for name, value in found.items()}
    return {name: _float32(value) for name, value in found.items()}


def _float32(value):
    try:
        return (value if isinstance(value, np.ndarray) else value.detach().float().numpy()).astype('f4', copy=False)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f'holds a tensor that is no plain array of numbers ({error})') from None


def number(content, name):
    """The number of that name that our own checkpoints hold, or None."""
    value = content.get(name)
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in 'fi':
        return None
    found = float(str(value.reshape(())[()]))  # of a float32 the shortest number: 0.1, not 0.10000000149
    if not 0 < found < math.inf:
        raise ValueError(f'{name} is {found:g} in it, expected a positive number')
    return found


def agree(one, other):
    """Whether two sizes, factors or ranges are the same, as far as a float32 can tell."""
    return math.isclose(one, other, rel_tol=1e-5)


def misfits(weights, expected):
    """What is missing, extra or of another shape, in words; '' where all fits.

    weights: {name: array}; expected: {name: shape}.
    """
    return some([f'missing {name}' for name in expected if name not in weights]
                + [f'extra {name}' for name in weights if name not in expected]
                + [f'{name} is {weights[name].shape}, expected {shape}' for name, shape in expected.items()
                   if name in weights and weights[name].shape != shape])


def some(items, count=6):
    """The first `count` of the texts in one, and how many more there are."""
    return ', '.join(items[:count]) + (f' and {len(items) - count} more' if len(items) > count else '')


def load_weights(network, weights):
    """Copy {name: float32 array} into the network. All names and shapes must fit, as misfits() tells."""
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(np.ascontiguousarray(weights[name], np.float32)))


def weights_of(network):
    """{name: float32 array} of the network."""
    return {name: parameter.asnumpy().copy() for name, parameter in network.parameters_and_names()}
