"""python3 import_weights.py --source RCAN_BIX2.pt --output RCAN_BIX2.pth

Turns released RCAN weights into a checkpoint of this directory. Four dialects are recognised by their names:

    authors   yulunzhang/RCAN *.pt: head, body, tail, sub_mean, add_mean            style paper
    BasicSR   *.pth: conv_first, body, conv_after_body, upsample, conv_last         style paper; params_ema first
    port      the Ascend port and yjn870/RCAN-pytorch: sf, rgs, conv1, conv2        style port, `module.` or not
    ours      checkpoints of main.py; upscaler.py and test.py read all four directly
"""

import contextlib
import hashlib
import os
import re

import numpy as np
import torch

from common import checkpoints, cli
from device import torch_version
from model import RCAN, RGB_MEAN, size_of

KNOWN_FILES = {'f567f8560fde71ba0973a7fe472a42f2': 'RCAN_BIX2.pt of the authors (x2, bicubic)'}  # by MD5
CONTAINERS = ('params_ema', 'params', 'model', 'state_dict', 'network')
GROUP_PARTS = {'0': '0', '2': '2', '3.conv_du.0': '3.module.1', '3.conv_du.2': '3.module.3',  # authors
               '3.attention.1': '3.module.1', '3.attention.3': '3.module.3'}  # BasicSR


def read_weights(path):
    """(state_dict in the names of model.RCAN, arguments of RCAN(...), dialect) of any of the four kinds of file.

    Raises ValueError naming the file and what it holds instead, or what is missing, extra or of another shape.
    """
    tensors = _unwrap(load_file(path), path)
    dialect, renamed = _translate(tensors, path)
    try:
        size = size_of(renamed)
        with torch.device('meta'):
            expected = {name: tuple(value.shape) for name, value in RCAN(**size).state_dict().items()}
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    problems = [f'missing {n}' for n in expected if n not in renamed]
    problems += [f'extra {n}' for n in renamed if n not in expected]
    problems += [f'{n} is {tuple(renamed[n].shape)}, expected {shape}' for n, shape in expected.items()
                 if n in renamed and tuple(renamed[n].shape) != shape]
    if problems:
        raise ValueError(f'{path}: {dialect} RCAN weights that do not fit RCAN({_say(size)}): ' + _some(problems))
    return {name: renamed[name].float().contiguous() for name in expected}, size, dialect


def load_file(path):
    """What a .pt, .pth or .safetensors file holds, tensors on the CPU; no code in it is run.

    Raises ValueError naming the file when it is damaged or holds more than numbers.
    """
    with open(path, 'rb'):  # a missing file is an OSError, not a broken checkpoint
        pass
    try:
        if os.path.splitext(path)[1] == '.safetensors':
            from safetensors.torch import load_file as load_safetensors
            return load_safetensors(path)
        with _numpy_scalars_allowed():
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file raises anything in the unpickler
        if 'numpy' in str(error) and torch_version() < (2, 6):
            reason = f'it holds numpy numbers, which torch {torch.__version__} does not read safely; 2.6 or later does'
        elif 'weights_only' in str(error) or 'Unsupported' in str(error):
            reason = 'it holds more than numbers, and reading that could run code; refused'
        else:
            reason = f'damaged, or not a file of PyTorch ({type(error).__name__})'
        raise ValueError(f'{path}: {reason}') from None


def _numpy_scalars_allowed():
    """A context in which weights_only takes numpy numbers: the port's files hold their scores as such."""
    if torch_version() < (2, 6):
        return contextlib.nullcontext()
    scalar = np.float64(0).__reduce__()[0]
    return torch.serialization.safe_globals([
        (scalar, 'numpy.core.multiarray.scalar'), (scalar, 'numpy._core.multiarray.scalar'),  # numpy 1 and 2
        np.dtype, type(np.dtype('f8')), type(np.dtype('f4'))])


def _unwrap(content, path):
    """The dict of tensors inside the containers that training programs write, with one leading `module.` removed."""
    for _ in range(3):
        inner = next((content[c] for c in CONTAINERS if isinstance(content.get(c), dict)), None) \
            if isinstance(content, dict) else None
        if inner is None:
            break
        content = inner
    named = content.items() if isinstance(content, dict) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and torch.is_tensor(v)}
    if not tensors:
        raise ValueError(f'{path}: holds no weights; expected an RCAN of the authors, of BasicSR or of the port')
    if all(name.startswith('module.') for name in tensors):  # DistributedDataParallel; our names hold .module. inside
        tensors = {name[len('module.'):]: value for name, value in tensors.items()}
    return tensors


def _translate(tensors, path):
    """(dialect, tensors under our names); ValueError for what is not an RCAN."""
    names = list(tensors)
    attention = any('conv_du' in n or '.attention.' in n or '.3.module.1.' in n for n in names)
    if 'sf.weight' in tensors and attention:
        return ('ours' if 'sub_mean.weight' in tensors else 'port'), dict(tensors)
    if 'head.0.weight' in tensors and attention:
        indices = [re.match(r'body\.(\d+)\.body\.', name) for name in names]
        groups = 1 + max((int(index[1]) for index in indices if index), default=-1)
        return 'authors', {_from_authors(name, groups): value for name, value in tensors.items()}
    if 'conv_first.weight' in tensors and attention:
        indices = [re.match(r'body\.\d+\.residual_group\.(\d+)\.', name) for name in names]
        blocks = 1 + max((int(index[1]) for index in indices if index), default=-1)
        renamed = {_from_basicsr(name, blocks): value for name, value in tensors.items()}
        for name, sign in (('sub_mean', -1), ('add_mean', 1)):  # constants of its code, not in its files
            renamed[f'{name}.weight'] = torch.eye(3).view(3, 3, 1, 1)
            renamed[f'{name}.bias'] = sign * 255 * torch.tensor(RGB_MEAN)
        return 'BasicSR', renamed
    guess = 'an EDSR' if any(re.match(r'body\.0\.(body\.0|conv1)\.weight', n) for n in names) else 'another network'
    raise ValueError(f'{path}: this is {guess}, not an RCAN: no channel attention in it; it begins with '
                     + _some(names, 4))


def _from_authors(name, groups):
    in_group = re.fullmatch(r'body\.(\d+)\.body\.(\d+)\.(weight|bias)', name)
    in_block = re.fullmatch(r'body\.(\d+)\.body\.(\d+)\.body\.(.+)\.(weight|bias)', name)
    if in_block and in_block[3] in GROUP_PARTS:
        return f'rgs.{in_block[1]}.module.{in_block[2]}.module.{GROUP_PARTS[in_block[3]]}.{in_block[4]}'
    if in_group:
        return f'rgs.{in_group[1]}.module.{in_group[2]}.{in_group[3]}'
    for theirs, ours in (('head.0.', 'sf.'), (f'body.{groups}.', 'conv1.'), ('tail.0.', 'upscale.'),
                         ('tail.1.', 'conv2.')):
        if name.startswith(theirs):
            return ours + name[len(theirs):]
    return name


def _from_basicsr(name, blocks):
    in_block = re.fullmatch(r'body\.(\d+)\.residual_group\.(\d+)\.rcab\.(.+)\.(weight|bias)', name)
    if in_block and in_block[3] in GROUP_PARTS:
        return f'rgs.{in_block[1]}.module.{in_block[2]}.module.{GROUP_PARTS[in_block[3]]}.{in_block[4]}'
    group_conv = re.fullmatch(r'body\.(\d+)\.conv\.(weight|bias)', name)
    if group_conv:
        return f'rgs.{group_conv[1]}.module.{blocks}.{group_conv[2]}'
    for theirs, ours in (('conv_first.', 'sf.'), ('conv_after_body.', 'conv1.'), ('upsample.', 'upscale.'),
                         ('conv_last.', 'conv2.')):
        if name.startswith(theirs):
            return ours + name[len(theirs):]
    return name


def _some(items, count=6):
    return ', '.join(items[:count]) + (f' and {len(items) - count} more' if len(items) > count else '')


def _say(size):
    return ', '.join(f'{key}={value!r}' for key, value in size.items())


def import_file(source, output):
    """Read `source`, write the checkpoint `output`, say what it was. Raises ValueError as read_weights does."""
    with open(source, 'rb') as file:
        digest = hashlib.md5(file.read()).hexdigest()
    weights, size, dialect = read_weights(source)
    checkpoints.save(output, lambda path: torch.save({'model': weights}, path))
    print(f'{source}: {dialect} weights, RCAN({_say(size)}), md5 {digest}'
          + (f': {KNOWN_FILES[digest]}' if digest in KNOWN_FILES else ''))
    print(f'written to {output}')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    parser.add_argument('--source', required=True, help='released file: .pt, .pth or .safetensors')
    parser.add_argument('--output', required=True, help='checkpoint to write, .pth')
    options = parser.parse_args(argv)
    if os.path.abspath(options.source) == os.path.abspath(options.output):
        raise ValueError(f'--output {options.output} is the source itself; choose another name')
    import_file(options.source, options.output)


if __name__ == '__main__':
    cli.run(main)
