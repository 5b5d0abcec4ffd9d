"""python3 import_weights.py --source bsrn_c64_s64_x234.ckpt --output bsrn_x234.ckpt

Turns released BSRN weights into a checkpoint of this directory, or into an .npz. Recognised by what they hold:

    authors   checkpoints of the authors' code (TensorFlow's formats V2 and V1): the network, Adam's moments and powers
    port      those of the released port: the same, and what its NPU sessions add (global_step, loss scale)
    frozen    .pb files of export.py, and others whose constants kept the variables' names
    ours      checkpoints of train.py, .npz of this program; upscaler.py and validate_bsrn.py read all four directly
"""
import hashlib
import os

import numpy as np

from common import checkpoints, cli
from models import checkpoint
from models.bsrn import add_size_options

POWERS = ('beta1_power', 'beta2_power')  # Adam's


def read_weights(path, overrides=None):
    """({name: float32 array}, keyword arguments of BSRN, dialect) of a weight file of any kind known here.

    overrides: as models.checkpoint.size has them. Raises ValueError naming the file and what it holds instead, or what
    is missing, extra, or of another shape.
    """
    place, arrays = checkpoint.load(path)
    weights = {name: value.astype(np.float32) for name, value in checkpoint.weights_of(arrays).items()}
    return weights, checkpoint.size(place, arrays, overrides), _dialect(place, arrays)


def _dialect(place, arrays):
    if checkpoint.notes(place):
        return 'ours'
    if place.endswith('.pb'):
        return 'frozen'
    return 'port' if ignored(arrays) else 'authors'


def ignored(arrays):
    """Names of variables that are neither the network's nor the authors' Adam's."""
    return [name for name in arrays if name not in POWERS and not name.endswith(checkpoint.SLOTS)
            and name not in checkpoint.weights_of(arrays)]


def add_overrides(add, names):
    """Those options of the network's size that say what a checkpoint does not, or must agree with it.

    add: parser.add_argument; names: of recursions, recursion_frequency ... as BSRN has them, or model_scales.
    """
    def add_one(flag, help, **more):
        if flag[len('--bsrn_'):] in names:
            add(flag, help=f'{help}; by default as the checkpoint says', **dict(more, default=None))
    add_size_options(add_one)


def overrides(options):
    """What add_overrides() gave, {name: value or None}, for read_weights."""
    given = {name[len('bsrn_'):]: value for name, value in vars(options).items() if name.startswith('bsrn_')}
    scales = given.pop('model_scales', None)
    return dict(given, scales=scales)


def digest(place):
    """SHA-256 of the file that holds the numbers."""
    with open(next(filter(os.path.isfile, (place, place + checkpoint.DATA))), 'rb') as file:
        return hashlib.sha256(file.read()).hexdigest()


def import_file(source, output, given=None):
    """Read `source`, write `output`, say what it was. Raises ValueError as read_weights does, or where they are one."""
    place, arrays = checkpoint.load(source)
    if os.path.realpath(place) == os.path.realpath(output):
        raise ValueError(f'--output {output} is the source itself; choose another name')
    weights, size, dialect = read_weights(place, given)
    if output.endswith('.npz'):
        checkpoints.save(output, lambda path: checkpoint.write_npz(path, weights, {'size': size}))
    else:
        checkpoint.write(output, weights, {'size': size})
    if ignored(arrays):
        print(f'note: ignored: {checkpoint.some(ignored(arrays))}')
    described = ', '.join(f'{name}={checkpoint.show(value)}' for name, value in size.items())
    print(f'{place}: {dialect} weights, BSRN({described}), sha256 {digest(place)}')
    print(f'written to {output}')


def main(argv=None):
    parser = cli.Parser(description=__doc__.splitlines()[2])
    add = parser.add_argument
    add('--source', required=True, help="checkpoint (its prefix, a file of it, or a folder), frozen .pb, or .npz")
    add('--output', required=True, help='checkpoint to write, such as bsrn_x4.ckpt, or an .npz')
    add_overrides(add, checkpoint.AUTHORS)
    options = parser.parse_args(argv)
    output = checkpoint.ENDINGS.sub('', options.output)
    import_file(options.source, output, overrides(options))


if __name__ == '__main__':
    cli.run(main)
