"""Checkpoints in TensorFlow's own format: PREFIX.index, PREFIX.data-00000-of-00001, and notes in PREFIX.json.

What the variables do not tell (sizes that leave no trace in them, how far a training came) stands in the notes. A
directory's checkpoints are named STEM-STEP, and all variables of its network lie in one scope.
"""
import glob
import json
import os
import re
import shutil
import sys
import zipfile

import numpy as np
import tensorflow.compat.v1 as tf
from google.protobuf.message import DecodeError

from common import checkpoints, files
from common.tf.devices import base_config

DATA, INDEX, NOTES = '.data-00000-of-00001', '.index', '.json'
ENDINGS = re.compile(r'\.(index|meta|json|data-\d{5}-of-\d{5})$')
SLOTS = ('/Adam', '/Adam_1')
WEIGHTS = ('/kernel', '/bias', '/W', '/b')  # how the names of a network's variables end
HARMLESS = 1 << 30  # bytes of weights that a smaller .pb may claim: over ten times those of the largest network
OTHERS = {b'\x89HDF': 'an HDF5 file', b'PK\x03\x04': 'a zip archive, such as PyTorch writes', b'\x08\x01\x12': 'ONNX'}


def load(path, stem, scope):
    """(prefix, {name: array}): a checkpoint by its prefix or one of its files, the newest valid one of a folder, an
    .npz of write_npz(), or a frozen graph, .pb: the constants in the scope that are named as WEIGHTS.

    Every number is read, so that a damaged file is found. Raises ValueError naming the file and what is wrong.
    """
    path = str(path)
    if os.path.isdir(path):
        return newest(path, stem)
    if path.endswith('.npz'):
        return path, {name: value for name, value in _npz(path).items() if name != 'notes'}
    if path.endswith('.pb'):
        return path, _constants(path, scope)
    return load_variables(path)


def load_variables(path):
    """load() of a checkpoint by its prefix or one of its files alone."""
    prefix = ENDINGS.sub('', path)
    if not prefix:
        raise ValueError('no checkpoint is named; expected its prefix, one of its files, or a folder')
    if not os.path.exists(prefix + INDEX) and not os.path.isfile(prefix):
        folder = os.path.dirname(prefix) or '.'
        names = sorted(name[:-len(INDEX)] for name in (os.listdir(folder) if os.path.isdir(folder) else [])
                       if name.endswith(INDEX))
        raise ValueError(f'{path}: no such checkpoint; expected {prefix}.index and {prefix}.data-00000-of-00001; in '
                         f'{folder} there are: {some(names)}')
    return prefix, _tensors(prefix)


def newest(folder, stem):
    """load() of the checkpoint STEM-N of a folder with the highest N; one that does not load is skipped, with a
    warning. Raises ValueError when there is none that does.
    """
    for _, prefix in numbered(folder, stem):
        try:
            return load_variables(prefix)
        except ValueError as error:
            print(f'warning: checkpoint skipped: {error}', file=sys.stderr, flush=True)
    raise ValueError(f'{folder}: no {stem}-N that can be read; expected {stem}-N.index and {stem}-N{DATA}, as a '
                     'training writes them')


def numbered(folder, stem):
    """[(N, prefix)] of the checkpoints STEM-N of a folder, the highest N first; N is the step."""
    found = [(_number(name, stem), name) for name in os.listdir(str(folder)) if name.endswith(INDEX)]
    return sorted(((number, os.path.join(str(folder), name[:-len(INDEX)])) for number, name in found
                   if number is not None), reverse=True)


def _tensors(prefix):
    whole = os.path.exists(prefix + INDEX)  # else a file of the older format, which has everything in it
    stored = sum(map(os.path.getsize, glob.glob(glob.escape(prefix) + '.data-*') if whole else [prefix]))
    if not whole:
        with open(prefix, 'rb') as file:
            begin = file.read(8)
        other = next((kind for mark, kind in OTHERS.items() if begin.startswith(mark)), None)
        if other or not begin:
            raise ValueError(f'{prefix}: {other or "an empty file"}; expected a checkpoint of TensorFlow')
    try:
        reader = tf.train.NewCheckpointReader(prefix)
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        claimed = sum(np.prod(shape, dtype=np.float64) * types[name].size for name, shape in shapes.items())
        if claimed > stored:  # TensorFlow would ask for the memory before it reads
            raise ValueError(f'{claimed:,.0f} bytes of numbers are expected, {stored:,} are there')
        return {name: np.asarray(reader.get_tensor(name)) for name in sorted(shapes)}
    except Exception as error:  # noqa: BLE001 - by version and damage: OpError, IndexError, RuntimeError ...
        reason = getattr(error, 'message', None) or str(error)
        raise ValueError(f'{prefix}: damaged, or not a checkpoint of TensorFlow ({reason})') from None


def _npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path}: damaged, or not an .npz file of numbers ({error})') from None


def _constants(path, scope):
    try:
        with open(path, 'rb') as file:
            graph = tf.GraphDef.FromString(file.read())
        tensors = {node.name: node.attr['value'].tensor for node in graph.node if node.op == 'Const'
                   and node.name.startswith(scope + '/') and node.attr['dtype'].type == tf.float32.as_datatype_enum}
        claimed = sum(tf.TensorShape(tensor.tensor_shape).num_elements() * 4 for tensor in tensors.values())
        if claimed > HARMLESS:  # one number and a shape make a constant of any size
            raise ValueError(f'it claims {claimed:,} bytes of weights')
        constants = {name: tf.make_ndarray(tensor) for name, tensor in tensors.items()}
    except (DecodeError, ValueError, TypeError) as error:
        raise ValueError(f'{path}: damaged, or not a frozen graph of TensorFlow ({error})') from None
    return {name: value for name, value in constants.items() if name.endswith(WEIGHTS)}


def notes(prefix, check=None):
    """What was written beside a checkpoint, {} where nothing was; check(dict) raises ValueError where it cannot be.

    The user may have a file of that name: raises ValueError for one that cannot be read, too.
    """
    try:
        if prefix.endswith('.npz'):
            found = json.loads(str(_npz(prefix).get('notes', '{}')))
        else:
            with open(prefix + NOTES, encoding='utf-8') as file:
                found = json.load(file)
        if not isinstance(found, dict):
            raise ValueError('it does not hold named values')
        if check:
            check(found)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f'{prefix}{NOTES}: damaged ({error}); without that file what it should say is taken as the '
                         'authors have it') from None
    return found


def weights_of(arrays, scope):
    """The network's own variables: without Adam's moments and powers, and what other programs add."""
    return {name: value for name, value in arrays.items() if name.startswith(scope + '/') and not name.endswith(SLOTS)}


def assign(session, variables, arrays):
    """Give variables their values {name: array}. Raises ValueError naming what is missing or of another shape."""
    wrong = [variable.op.name for variable in variables if variable.op.name not in arrays
             or arrays[variable.op.name].shape != tuple(variable.shape.as_list())]
    if wrong:
        raise ValueError(f'the checkpoint lacks, or has of another shape: {some(wrong)}')
    session.run([variable.initializer for variable in variables],
                {variable.initializer.inputs[1]: arrays[variable.op.name] for variable in variables})


def write(prefix, arrays, more, stem):
    """Write a checkpoint whole or not at all: its .index, which makes it one, comes last.

    arrays: {name: array}; more: the notes, a dict that JSON can hold. One whose name is STEM-N is named in the text
    file `checkpoint`, too. Raises OSError naming the file that cannot be written.
    """
    prefix = os.path.abspath(str(prefix))
    folder, name = os.path.split(prefix)
    os.makedirs(folder, exist_ok=True)
    place = os.path.join(folder, '.saving')  # where a killed writer may have left something
    shutil.rmtree(place, ignore_errors=True)
    try:
        there = os.path.join(place, 'model')
        _save(there, arrays)
        if os.path.exists(prefix + INDEX):  # its numbers are not those of an earlier file of that name
            os.remove(files.destination(prefix + INDEX))
        checkpoints.save(prefix + DATA, lambda path: os.replace(there + DATA, path))
        write_notes(prefix, more)
        checkpoints.save(prefix + INDEX, lambda path: os.replace(there + INDEX, path))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if _number(name + INDEX, stem) is not None:
        checkpoints.save(os.path.join(folder, 'checkpoint'), lambda path: _write_text(
            path, f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'))


def write_notes(prefix, more):
    """Write the notes of a checkpoint alone, whole or not at all."""
    checkpoints.save(prefix + NOTES, lambda path: _write_text(path, json.dumps(more, indent=1) + '\n'))


def write_npz(path, arrays, more):
    """The same in one file of numpy's."""
    with open(path, 'wb') as file:
        np.savez(file, notes=json.dumps(more), **arrays)


def _save(prefix, arrays):
    with tf.Graph().as_default() as graph, tf.device('/cpu:0'):
        values = {name: np.asarray(value) for name, value in arrays.items()}
        inputs = [tf.placeholder(value.dtype, value.shape) for value in values.values()]
        save = tf.raw_ops.SaveV2(prefix=prefix, tensor_names=list(values), shape_and_slices=[''] * len(values),
                                 tensors=inputs)
        with tf.Session(graph=graph, config=base_config('cpu')) as session:
            try:
                session.run(save, dict(zip(inputs, values.values())))
            except tf.errors.OpError as error:
                raise OSError(f'{prefix}: could not be written ({error.message})') from None


def _write_text(path, text):
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def _number(name, stem):
    """N where `name` is STEM-N.index, else None."""
    match = re.fullmatch(re.escape(stem) + r'-(\d+)' + re.escape(INDEX), name)
    return match and int(match.group(1))


def some(names):
    """The first few of many names, for a message."""
    names = list(names)
    return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '') or 'none'
