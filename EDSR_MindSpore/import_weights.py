"""python3 import_weights.py --source edsr_x2-0edfb8a3.pt --output edsr_x2.ckpt

Turns released EDSR weights into a checkpoint of this directory. Five dialects are recognised by their names:

    authors   EDSR-PyTorch *.pt and what took its names over: head, body, tail.0.0, tail.1, sub_mean, add_mean
    BasicSR   *.pth: conv_first, body, conv_after_body, upsample, conv_last; params_ema first
    port      the released port's *.ckpt: tail.0, tail.2; other order of channels before the pixel shuffle
    rewrite   the later MindSpore one's *.ckpt: norm, de_norm, tail.0.up; that order too, and a network for 0..1
    ours      checkpoints of train.py; upscaler.py and eval.py read all five directly
"""
import hashlib
import math
import os
import re

import numpy as np
from mindspore import Tensor

from common import cli
from common.ms import checkpoint
from src.model import RGB_MEAN, shapes_of, size_of

BLOCK = ((r'body\.(\d+)\.conv1\.', r'body.\1.body.0.'), (r'body\.(\d+)\.conv2\.', r'body.\1.body.2.'))
BASICSR = ((r'conv_first\.', 'head.0.'), *BLOCK, (r'upsample\.', 'tail.0.'), (r'conv_last\.', 'tail.1.'))
REWRITE = (*BLOCK, (r'tail\.0\.up\.', 'tail.0.'))
PORT, PORT_X4 = (((rf'tail\.{last}\.', 'tail.1.'), (r'tail\.', 'tail.0.')) for last in (2, 4))
NORMS = ('norm.weight', 'norm.bias', 'de_norm.weight', 'de_norm.bias')
LARGE = 256  # features from which on the authors' networks have a res_scale of 0.1


def read_weights(path, res_scale=None):
    """({name: float32 array} in the names of src.model.EDSR, arguments of EDSR(...), dialect) of a weight file.

    res_scale: of the network, where the file does not say it. When neither does, it is the authors' (0.1 for 256
    features, else 1), and a note is printed. Raises ValueError naming the file and what it holds instead, or what is
    missing, extra, or of another shape, or a res_scale that is not the file's.
    """
    content = checkpoint.load_file(path)
    try:
        dialect, weights = _translate(checkpoint.tensors(content, os.path.getsize(path)))
        size, own = _size(weights), checkpoint.number(content, 'res_scale')
        if own is not None:
            dialect, size['rgb_range'] = 'ours', checkpoint.number(content, 'rgb_range') or size['rgb_range']
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    expected = shapes_of(size['scale'], size['n_resblocks'], size['n_feats'])
    problems = checkpoint.misfits(weights, expected)
    if problems:
        raise ValueError(f'{path}: {dialect} EDSR weights that do not fit EDSR({_say(size)}): {problems}')
    size['res_scale'] = _res_scale(path, own, res_scale, size['n_feats'])
    return {name: np.ascontiguousarray(weights[name]) for name in expected}, size, dialect


def _translate(tensors):
    """(dialect, arrays under our names and in our order); ValueError for what is not an EDSR."""
    other = _other(tensors)
    if other:
        raise ValueError(f'this is {other}, not an EDSR; it begins with ' + checkpoint.some(list(tensors), 4))
    empty = [name for name, value in tensors.items() if not value.shape or 0 in value.shape]
    if empty:
        raise ValueError('no numbers in ' + checkpoint.some(empty))
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
        raise ValueError('missing ' + checkpoint.some(missing))
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


def _res_scale(path, own, given, n_feats):
    if given is not None and not 0 < given < math.inf:
        raise ValueError(f'--res_scale={given:g}: expected a positive number')
    if own is not None:
        if given is not None and not checkpoint.agree(given, own):
            raise ValueError(f'{path}: a network of res_scale {own:g}, not {given:g}; leave --res_scale out, or choose '
                             'another checkpoint')
        return own
    if given is None:
        given = 0.1 if n_feats >= LARGE else 1.0
        print(f'note: {path} does not say its res_scale; {given:g} is taken, as the authors have it for {n_feats} '
              'features (else: --res_scale)', flush=True)
    return given


def _say(size):
    return ', '.join(f'{key}={value:g}' for key, value in size.items())


def import_file(source, output, res_scale=None):
    """Read `source`, write the checkpoint `output`, say what it was. Raises ValueError as read_weights does."""
    with open(source, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    weights, size, dialect = read_weights(source, res_scale)
    checkpoint.save_checkpoint(output, [{'name': name, 'data': Tensor(value)} for name, value in weights.items()],
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
