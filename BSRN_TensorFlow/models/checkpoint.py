"""Checkpoints of a BSRN, PREFIX.index, PREFIX.data-00000-of-00001 and notes in PREFIX.json, and its size from them.

Names and shapes inside are those of the authors' files: their code restores ours, and ours theirs. What the variables
do not tell (recursions, how far a training came) stands in the notes.
"""
import numpy as np

from common.tf import checkpoint as shared
from common.tf.checkpoint import DATA, ENDINGS, SLOTS, assign, some, write_npz  # noqa: F401 - for those who import this
from models.bsrn import SCOPE, size_of

STEM = 'model.ckpt'
AUTHORS = {'recursions': 16, 'recursion_frequency': 1, 'rgb_mean': (127.5, 127.5, 127.5)}


def load(path):
    """(prefix, {name: array}) of a checkpoint, folder, .npz or .pb, as common.tf.checkpoint.load has it."""
    return shared.load(path, STEM, SCOPE)


def read(path):
    """{name: array} of all variables of a checkpoint, as load() has it."""
    return load(path)[1]


def notes(prefix):
    """What was written beside a checkpoint, {} where nothing was. Raises ValueError when that cannot be read."""
    return shared.notes(prefix, check)


def check(found):
    """ValueError where notes cannot be a BSRN's."""
    size = found.get('size', {})
    if not isinstance(size, dict):
        raise ValueError('it does not hold the size of a network')
    for name, usual in AUTHORS.items():
        value, usual = np.array(size.get(name, usual)), np.array(usual)
        if value.shape != usual.shape or not np.can_cast(value.dtype, usual.dtype):
            raise ValueError(f'{name}: {size[name]!r}')


def size(prefix, arrays, overrides=None):
    """The keyword arguments of BSRN for a checkpoint that load() gave.

    overrides: {name: value or None}, as a user gives them: they win for recursions, recursion_frequency and rgb_mean,
    and must equal the rest. Without them and without notes the authors' values are taken, and said aloud.
    Raises ValueError for variables that are no BSRN's, or that differ from the overrides.
    """
    given = {name: tuple(sorted(value)) if name == 'scales' else value for name, value in (overrides or {}).items()
             if value is not None}
    try:
        found = size_of(weights_of(arrays))
    except ValueError as error:
        raise ValueError(f'{prefix}: {error}') from None
    for name, value in found.items():
        if given.get(name, value) != value:
            flag = 'bsrn_model_scales' if name == 'scales' else f'bsrn_{name}'
            raise ValueError(f'{prefix}: a network of {name} {show(value)}, not {show(given[name])}; leave --{flag} '
                             'out, or choose another checkpoint')
    known = dict(notes(prefix).get('size', {}), **given)
    assumed = {name: value for name, value in AUTHORS.items() if name not in known}
    if assumed:
        print(f'note: {prefix} does not say its ' + ', '.join(assumed) + '; taken as the authors have it: '
              + ', '.join(f'--bsrn_{name}={show(value)}' for name, value in assumed.items()), flush=True)
    rest = {name: known.get(name, value) for name, value in AUTHORS.items()}
    return dict(found, **dict(rest, rgb_mean=tuple(rest['rgb_mean'])))


def show(value):
    """A size as it is given on the command line: 2,3,4."""
    return ','.join(map('{:g}'.format, value)) if isinstance(value, (tuple, list)) else str(value)


def weights_of(arrays):
    """The network's own variables: without Adam's moments and powers, and what other programs add."""
    return shared.weights_of(arrays, SCOPE)


def write(prefix, arrays, more):
    """common.tf.checkpoint.write; more: the notes, of which more['size'] has keyword arguments of BSRN."""
    shared.write(prefix, arrays, more, STEM)
