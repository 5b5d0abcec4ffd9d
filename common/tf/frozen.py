"""Networks as files that run without this code: frozen graphs and SavedModels of TensorFlow, and ONNX.

    with tf.variable_scope(tf.get_variable_scope(), custom_getter=constants(weights)): ...  # builds the network
    write_frozen(graph.as_graph_def(), 'network.pb')
"""
import os
import shutil

import tensorflow.compat.v1 as tf

from common.tf.checkpoint import ENDINGS
from common.tf.devices import base_config

OPSET = 17  # of ONNX


def constants(weights):
    """A getter of tf.get_variable that makes a constant of that name."""
    def constant(getter, name, *shape, **more):
        with tf.name_scope(None):  # the name is whole already
            return tf.constant(weights[name], tf.float32, name=name)
    return constant


def write_frozen(graph_def, path):
    with open(path, 'wb') as file:
        file.write(graph_def.SerializeToString())


def write_saved_model(graph_def, folder, inputs, outputs):
    """A SavedModel with the signature serving_default; inputs, outputs: names of nodes, which it has there, too.

    `folder` must not exist. Raises OSError where it cannot be written.
    """
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=base_config('cpu')) as session:
        tf.import_graph_def(graph_def, name='')
        inputs, outputs = ({name: graph.get_tensor_by_name(f'{name}:0') for name in names}
                           for names in (inputs, outputs))
        try:
            tf.saved_model.simple_save(session, folder, inputs, outputs)
        except tf.errors.OpError as error:
            raise OSError(f'{folder}: could not be written ({error.message})') from None


def run_file(path, inputs, output):
    """A function over a frozen graph, or the folder of a SavedModel, of an array for each of the inputs, by name."""
    with tf.Graph().as_default() as graph:
        session = tf.Session(graph=graph, config=base_config('cpu'))
        if path.endswith('.pb'):
            with open(path, 'rb') as file:
                tf.import_graph_def(tf.GraphDef.FromString(file.read()), name='')
        else:
            tf.saved_model.load(session, ['serve'], path)
    return lambda *arrays: session.run(f'{output}:0', {f'{name}:0': array for name, array in zip(inputs, arrays)})


def destination(option, output, checkpoint):
    """(extension: '.pb', '.onnx', or '' for a SavedModel, path to write); output '': a .pb beside the checkpoint.

    option: how a message begins that names the output. ValueError: an extension that means nothing, a folder that is
    taken.
    """
    path = output or ENDINGS.sub('', checkpoint.rstrip('/')) + '.pb'
    extension = '' if path.endswith('/') else os.path.splitext(path)[1].lower()
    if extension not in ('.pb', '.onnx', ''):
        raise ValueError(f'{option}{path}: expected a name in .pb (frozen graph) or .onnx, or that of a new folder, '
                         'without an extension or with a / at its end, for a SavedModel')
    if not extension and os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise ValueError(f'{option}{path}: is there already; a SavedModel needs a folder of its own')
    return extension, path


def need_onnx():
    """ValueError where ONNX cannot be written and run here."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ImportError as error:
        raise ValueError(f'{error}: install onnx, onnxruntime and tf2onnx (requirements.txt; Python 3.10 or later) to '
                         'export ONNX') from None


def write_onnx(graph_def, path, inputs, outputs):
    """ONNX by tf2onnx. inputs, outputs: {name of a node: names of its dimensions, of which free ones get theirs}."""
    import onnx
    import tf2onnx
    ends = {**inputs, **outputs}
    model, _ = tf2onnx.convert.from_graph_def(
        graph_def, os.path.splitext(os.path.basename(path))[0], input_names=[f'{name}:0' for name in inputs],
        output_names=[f'{name}:0' for name in outputs], opset=OPSET,
        tensors_to_rename={f'{name}:0': name for name in ends})
    for end in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(end.type.tensor_type.shape.dim, ends[end.name]):
            if not dimension.dim_value:
                dimension.dim_param = name
    onnx.checker.check_model(model)
    onnx.save(model, path)


def run_onnx(path, inputs, output):
    """run_file() of an ONNX file."""
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda *arrays: session.run([output], dict(zip(inputs, arrays)))[0]


def save_folder(path, write):
    """write(temporary folder), which then takes the name `path`; nothing is left where that fails."""
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f'.{name}.{os.getpid()}.tmp')
    try:
        write(temporary)
        os.rename(temporary, os.path.join(folder, name))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
