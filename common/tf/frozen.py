"""Networks as files that TensorFlow runs without this code: frozen graphs and SavedModels.

    with tf.variable_scope(tf.get_variable_scope(), custom_getter=constants(weights)): ...  # builds the network
    write_frozen(graph.as_graph_def(), 'network.pb')
"""
import os
import shutil

import tensorflow.compat.v1 as tf

from common.tf.devices import base_config


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
