"""Checkpoints of an EDVR: PREFIX.index, PREFIX.data-00000-of-00001, and notes in PREFIX.json.

Names inside are those of the released port. What the variables do not tell (the conventions that they were trained
with, how far a training came) stands in the notes.
"""
import tensorflow.compat.v1 as tf

from ascendvsr.models.conventions import CONVENTIONS, METHODS
from ascendvsr.models.layers import SCOPE
from common.tf import checkpoint as shared
from common.tf.checkpoint import SLOTS

STEM = 'EDVR'
MEAN = '/ExponentialMovingAverage'  # behind the name of a variable: the running mean of its values in a training
NOT_WEIGHTS = (*SLOTS, '/Momentum', MEAN)


def load(path):
    """(prefix, {name: array}) of a checkpoint, folder, .npz or .pb, as common.tf.checkpoint.load has it."""
    return shared.load(path, STEM, SCOPE)


def weights_of(arrays):
    """The network's own variables: without those of an optimizer; running means in their place, where they are."""
    names = [name for name in arrays if name.startswith(SCOPE + '/') and not name.endswith(NOT_WEIGHTS)]
    return {name: arrays.get(name + MEAN, arrays[name]) for name in names}


def resizing(path):
    """{'compat', 'upsampling'} of the network in a frozen graph, as it resizes pictures; {} where it does not tell."""
    with open(path, 'rb') as file:
        graph = tf.GraphDef.FromString(file.read())
    for node in graph.node:
        for method in METHODS:
            if node.op == f'Resize{method.capitalize()}':
                half_pixel_centers = node.attr['half_pixel_centers'].b
                return {'upsampling': method, 'compat': next(name for name, convention in CONVENTIONS.items()
                                                             if convention.half_pixel_centers == half_pixel_centers)}
    return {}


def notes(prefix):
    """What was written beside a checkpoint, {} where nothing was. Raises ValueError when that cannot be read."""
    return shared.notes(prefix, check)


def check(found):
    """ValueError where notes cannot be an EDVR's."""
    size = found.get('size', {})
    if not isinstance(size, dict):
        raise ValueError('it does not hold the size of a network')
    for name, known in (('compat', CONVENTIONS), ('upsampling', METHODS)):
        if name in size and size[name] not in list(known):
            raise ValueError(f'{name}: {size[name]!r}')


def write(prefix, arrays, more):
    """common.tf.checkpoint.write; more: the notes, of which more['size'] has all keyword arguments of EDVR."""
    shared.write(prefix, arrays, more, STEM)
