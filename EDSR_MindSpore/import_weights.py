"""python3 import_weights.py --source edsr_x2-0edfb8a3.pt --output edsr_x2.ckpt

Turns released EDSR weights into a checkpoint of this directory. Five dialects are recognised by their names:

    authors   EDSR-PyTorch *.pt and what took its names over: head, body, tail.0.0, tail.1, sub_mean, add_mean
    BasicSR   *.pth: conv_first, body, conv_after_body, upsample, conv_last; params_ema first
    port      the released port's *.ckpt: tail.0, tail.2; other order of channels before the pixel shuffle
    rewrite   the later MindSpore one's *.ckpt: norm, de_norm, tail.0.up; that order too, and a network for 0..1
    ours      checkpoints of train.py; upscaler.py and eval.py read all five directly
"""
import binascii
import contextlib
import hashlib
import math
import os
import re

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor
from mindspore.train.checkpoint_pb2 import Checkpoint

from common import checkpoints, cli, files
from src.model import RGB_MEAN, shapes_of, size_of

CONTAINERS = ('params_ema', 'params', 'model', 'state_dict', 'network')
PREFIXES = ('module.', 'model.', 'net.', 'network.')
OPTIMISER = ('moment1.', 'moment2.', 'moments.', 'accum.', 'stat.')  # Adam, Momentum, SGD
TYPES = {'Float16': 'f2', 'Float32': 'f4', 'Float64': 'f8', 'Int32': 'i4', 'Int64': 'i8', 'Bool': '?',
         'BFloat16': 'u2'}  # numpy has no such type
BLOCK = ((r'body\.(\d+)\.conv1\.', r'body.\1.body.0.'), (r'body\.(\d+)\.conv2\.', r'body.\1.body.2.'))
BASICSR = ((r'conv_first\.', 'head.0.'), *BLOCK, (r'upsample\.', 'tail.0.'), (r'conv_last\.', 'tail.1.'))
REWRITE = (*BLOCK, (r'tail\.0\.up\.', 'tail.0.'))
PORT, PORT_X4 = (((rf'tail\.{last}\.', 'tail.1.'), (r'tail\.', 'tail.0.')) for last in (2, 4))
NORMS = ('norm.weight', 'norm.bias', 'de_norm.weight', 'de_norm.bias')
HARMLESS = 1 << 30  # bytes of weights that a smaller file may claim: six times the largest EDSR's
LARGE = 256  # features from which on the authors' networks have a res_scale of 0.1


def read_weights(path, res_scale=None):
    """({name: float32 array} in the names of src.model.EDSR, arguments of EDSR(...), dialect) of a weight file.

    res_scale: of the network, where the file does not say it. When neither does, it is the authors' (0.1 for 256
    features, else 1), and a note is printed. Raises ValueError naming the file and what it holds instead, or what is
    missing, extra, or of another shape, or a res_scale that is not the file's.
    """
    content = load_file(path)
    try:
        dialect, weights = _translate(_tensors(content, os.path.getsize(path)))
        size, own = _size(weights), _number(content, 'res_scale')
        if own is not None:
            dialect, size['rgb_range'] = 'ours', _number(content, 'rgb_range') or size['rgb_range']
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    expected = shapes_of(size['scale'], size['n_resblocks'], size['n_feats'])
    problems = [f'missing {n}' for n in expected if n not in weights]
    problems += [f'extra {n}' for n in weights if n not in expected]
    problems += [f'{n} is {weights[n].shape}, expected {shape}' for n, shape in expected.items()
                 if n in weights and weights[n].shape != shape]
    if problems:
        raise ValueError(f'{path}: {dialect} EDSR weights that do not fit EDSR({_say(size)}): ' + _some(problems))
    size['res_scale'] = _res_scale(path, own, res_scale, size['n_feats'])
    return {name: np.ascontiguousarray(weights[name]) for name in expected}, size, dialect


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
        raise ValueError(f'{path}: holds no weights by name; expected an EDSR (README, Weights)')
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

    values: [{'name': ..., 'data': Parameter or Tensor}]; more: {name: number or text}, among them the network's
    `res_scale` and `rgb_range`. Raises OSError as common.checkpoints.save does.
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


def _tensors(content, file_size):
    """{name: float32 array}: the weights inside the containers that training programs write, without what is the
    optimiser's, and without the prefixes of wrappers.
    """
    for _ in range(3):
        inner = next((content[c] for c in CONTAINERS if isinstance(content.get(c), dict)), None)
        content = content if inner is None else inner
    found = {name: value for name, value in content.items() if isinstance(name, str) and hasattr(value, 'shape')
             and '.' in name and not name.startswith(OPTIMISER)}  # counters and rates have no dot
    if not found:
        raise ValueError('holds no weights by name; expected an EDSR (README, Weights)')
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


def _translate(tensors):
    """(dialect, arrays under our names and in our order); ValueError for what is not an EDSR."""
    other = _other(tensors)
    if other:
        raise ValueError(f'this is {other}, not an EDSR; it begins with ' + _some(list(tensors), 4))
    empty = [name for name, value in tensors.items() if not value.shape or 0 in value.shape]
    if empty:
        raise ValueError('no numbers in ' + _some(empty))
    if 'conv_first.weight' in tensors:
        blocks = sum(name.endswith('.conv1.weight') for name in tensors)
        return 'BasicSR', _with_means(_renamed(tensors, (*BASICSR, (r'conv_after_body\.', f'body.{blocks}.'))))
    if 'norm.weight' in tensors:
        return 'rewrite', _in_our_order(_for_255(_renamed(tensors, REWRITE)))
    if 'tail.0.weight' in tensors:
        return 'port', _in_our_order(_renamed(tensors, PORT_X4 if 'tail.4.weight' in tensors else PORT))
    return 'authors', _with_means(tensors)


def _other(names):
    """What the weights are of, when that is clearly no EDSR; else ''."""
    if any(part in name for name in names for part in ('conv_du', '.attention.', '.3.module.1.')):
        return 'an RCAN'
    if any(name.startswith('pre_process.') for name in names):
        return 'an MDSR'
    return '' if {'head.0.weight', 'conv_first.weight'} & set(names) else 'another network'


def _renamed(tensors, rules):
    names = {}
    for name in tensors:
        pattern, ours = next((rule for rule in rules if re.match(rule[0], name)), ('', ''))
        names[name] = re.sub('^' + pattern, ours, name, count=1)
    return {names[name]: value for name, value in tensors.items()}


def _with_means(tensors):
    """With the mean shifts, which are constants in BasicSR's code; where a file holds them, they may be trained."""
    if any('_mean.' in name for name in tensors):
        return tensors
    shifts = {}
    for name, sign in (('sub_mean', -1), ('add_mean', 1)):
        shifts[f'{name}.weight'] = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        shifts[f'{name}.bias'] = np.float32(sign * 255 * np.array(RGB_MEAN))
    return {**tensors, **shifts}


def _for_255(tensors):
    """norm and de_norm (x * weight + bias, weight 1/255 and 255) as mean shifts, and head and tail that do the rest."""
    missing = [name for name in (*NORMS, 'head.0.weight', 'tail.1.weight', 'tail.1.bias') if name not in tensors]
    if missing:
        raise ValueError('missing ' + _some(missing))
    factor_in, shift_in, factor_out, shift_out = (tensors[name].reshape(3) for name in NORMS)
    weights = {name: value for name, value in tensors.items() if name not in NORMS}
    weights['head.0.weight'] = weights['head.0.weight'] * factor_in.reshape(3, 1, 1)
    weights['tail.1.weight'] = weights['tail.1.weight'] * factor_out.reshape(3, 1, 1, 1)
    weights['tail.1.bias'] = weights['tail.1.bias'] * factor_out
    return {**_with_means(weights), 'sub_mean.bias': shift_in / factor_in, 'add_mean.bias': shift_out}


def _in_our_order(tensors):
    """Channel t*C + c in front of MindSpore's DepthToSpace is channel c*r*r + t in front of a pixel shuffle."""
    n_feats = len(tensors['head.0.weight'])

    def ours(value):
        fits = len(value) % n_feats == 0
        return value.reshape(-1, n_feats, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape) if fits else value
    return {name: ours(value) if name.startswith('tail.0.') else value for name, value in tensors.items()}


def _size(weights):
    """The arguments of EDSR(...) that weights tell, under our names. Raises ValueError as size_of does."""
    bias = weights.get('add_mean.bias', np.zeros(3))
    if bias.shape != (3,):
        raise ValueError(f'add_mean.bias is {bias.shape}, expected (3,)')
    size = size_of(weights)
    if not np.isfinite(bias).all():
        raise ValueError(f'add_mean.bias is {bias}, expected finite numbers')
    if size['n_resblocks'] > len(weights):
        raise ValueError(f'a block {size["n_resblocks"] - 1}, but only {len(weights)} weights')
    if size['rgb_range'] <= 0 or not np.allclose(bias, size['rgb_range'] * np.array(RGB_MEAN), rtol=1e-4):
        size['rgb_range'] = 255.0  # a trained shift: the authors' first code did not freeze it
    return size


def _number(content, name):
    """The number of that name that our own checkpoints hold, or None."""
    value = content.get(name)
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in 'fi':
        return None
    number = float(str(value.reshape(())[()]))  # of a float32 the shortest number: 0.1, not 0.10000000149
    if not 0 < number < math.inf:
        raise ValueError(f'{name} is {number:g} in it, expected a positive number')
    return number


def agree(one, other):
    """Whether two sizes, factors or ranges are the same, as far as a float32 can tell."""
    return math.isclose(one, other, rel_tol=1e-5)


def _res_scale(path, own, given, n_feats):
    if given is not None and not 0 < given < math.inf:
        raise ValueError(f'--res_scale={given:g}: expected a positive number')
    if own is not None:
        if given is not None and not agree(given, own):
            raise ValueError(f'{path}: a network of res_scale {own:g}, not {given:g}; leave --res_scale out, or choose '
                             'another checkpoint')
        return own
    if given is None:
        given = 0.1 if n_feats >= LARGE else 1.0
        print(f'note: {path} does not say its res_scale; {given:g} is taken, as the authors have it for {n_feats} '
              'features (else: --res_scale)', flush=True)
    return given


def _some(items, count=6):
    return ', '.join(items[:count]) + (f' and {len(items) - count} more' if len(items) > count else '')


def _say(size):
    return ', '.join(f'{key}={value:g}' for key, value in size.items())


def import_file(source, output, res_scale=None):
    """Read `source`, write the checkpoint `output`, say what it was. Raises ValueError as read_weights does."""
    with open(source, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    weights, size, dialect = read_weights(source, res_scale)
    save_checkpoint(output, [{'name': name, 'data': Tensor(value)} for name, value in weights.items()],
                    {name: size[name] for name in ('res_scale', 'rgb_range')})
    print(f'{source}: {dialect} weights, EDSR({_say(size)}), sha256 {digest}')
    print(f'written to {output}')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add('--source', required=True, help='released file: .pt, .pth, .safetensors or .ckpt')
    add('--output', required=True, help='checkpoint to write, .ckpt')
    add('--res_scale', type=float, default=None, help='factor of the residuals; empty: 0.1 for 256 features, else 1')
    options = parser.parse_args(argv)
    if os.path.realpath(options.source) == os.path.realpath(options.output):
        raise ValueError(f'--output {options.output} is the source itself; choose another name')
    if not options.output.endswith('.ckpt'):
        raise ValueError(f'--output {options.output}: expected a name in .ckpt, which MindSpore asks for')
    import_file(options.source, options.output, options.res_scale)


if __name__ == '__main__':
    cli.run(main)
