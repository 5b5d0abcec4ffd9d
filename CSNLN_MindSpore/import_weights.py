"""python3 import_weights.py --source model_best.pt --output csnln_x2.ckpt

Turns released CSNLN weights into a checkpoint of this directory. Three dialects are recognised by names and shapes:

    authors   Cross-Scale-Non-Local-Attention *.pt: one slope for each PReLU, called 1.weight
    port      the released port's *.ckpt: a slope for each channel, no biases in strided layers and tail
    ours      checkpoints of train.py; upscaler.py and eval.py read all three directly
"""
import hashlib
import os
import re

import numpy as np
from mindspore import Tensor

from common import cli
from common.ms import checkpoint
from src.sizes import shapes_of, size_of


def read_weights(path, compat=None):
    """({name: float32 array} in the names of src.CSNLN.CSNLN, arguments of CSNLN(...), dialect) of a weight file.

    compat: when given, must be the file's. Raises ValueError naming the file and what it holds instead, or what is
    missing, extra, or of another shape.
    """
    content = checkpoint.load_file(path)
    try:
        weights = _translate(checkpoint.tensors(content, os.path.getsize(path)))
        size, own_range = size_of(weights), checkpoint.number(content, 'rgb_range')
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    dialect = 'ours' if own_range else 'port' if size['compat'] == 'port' else 'authors'
    size['rgb_range'] = own_range or size['rgb_range']
    expected = shapes_of(**{name: value for name, value in size.items() if name != 'rgb_range'})
    problems = checkpoint.misfits(weights, expected)
    if problems:
        raise ValueError(f'{path}: {dialect} CSNLN weights that do not fit CSNLN({_say(size)}): {problems}')
    if compat not in (None, size['compat']):
        raise ValueError(f'{path}: a network of compat {size["compat"]}, not {compat}; leave --compat out, or choose '
                         'another checkpoint')
    return {name: np.ascontiguousarray(weights[name]) for name in expected}, size, dialect


def _translate(tensors):
    """The arrays under our names; ValueError for what is not a CSNLN."""
    if not any(name.startswith('SEM.') for name in tensors):
        raise ValueError('this is another network, not a CSNLN; it begins with ' + checkpoint.some(list(tensors), 4))
    empty = [name for name, value in tensors.items() if not value.shape or 0 in value.shape]
    if empty:
        raise ValueError('no numbers in ' + checkpoint.some(empty))
    return {re.sub(r'\.1\.weight$', '.1.w', name): value for name, value in tensors.items()
            if not name.endswith('.escape_NaN')}  # the authors' smallest norm, a constant


def _say(size):
    return ', '.join(f'{name}={value}' for name, value in size.items())


def import_file(source, output):
    """Read `source`, write the checkpoint `output`, say what it was. Raises ValueError as read_weights does."""
    with open(source, 'rb') as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    weights, size, dialect = read_weights(source)
    checkpoint.save_checkpoint(output, [{'name': name, 'data': Tensor(value)} for name, value in weights.items()],
                               {'rgb_range': size['rgb_range']})
    print(f'{source}: {dialect} weights, CSNLN({_say(size)}), sha256 {digest}')
    print(f'written to {output}')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add('--source', required=True, help='released file: .pt, .pth, .safetensors or .ckpt')
    add('--output', required=True, help='checkpoint to write, .ckpt')
    options = parser.parse_args(argv)
    if os.path.realpath(options.source) == os.path.realpath(options.output):
        raise ValueError(f'--output {options.output} is the source itself; choose another name')
    if not options.output.endswith('.ckpt'):
        raise ValueError(f'--output {options.output}: expected a name in .ckpt, which MindSpore asks for')
    import_file(options.source, options.output)


if __name__ == '__main__':
    cli.run(main)
