"""Networks as files that TensorFlow runs without this code: frozen graphs and SavedModels.

Both have the inputs sr_input, float32 [N,H,W,3] in 0..255, and sr_input_scale, a float32 scalar, as the released port
calls them, and the output sr_output, float32 [N,sH,sW,3]. N, H and W are free.
"""
import tensorflow.compat.v1 as tf

from models.bsrn import BSRN
from models.session_config import session_config

INPUT, SCALE, OUTPUT = 'sr_input', 'sr_input_scale', 'sr_output'


def frozen(size, weights, scales, recursion='ensemble', with_scale=True):
    """The GraphDef of a network whose variables are constants, each under the variable's name.

    size: keyword arguments of BSRN; weights: {name: array}; scales: those of its scales that can be fed; recursion: as
    BSRN.sr has it. with_scale=False: of one scale, and without the input that chooses it.
    """
    with tf.Graph().as_default() as graph:
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=constants(weights)):
            network = BSRN(**size)
        lr = tf.placeholder(tf.float32, [None, None, None, 3], INPUT)
        if with_scale:
            sr = chosen(network, lr, tf.placeholder(tf.float32, [], SCALE), scales, recursion)
        else:
            sr = network.sr(lr, scales[0], recursion)
        tf.identity(sr, OUTPUT)
    return graph.as_graph_def()


def constants(weights):
    """A getter of tf.get_variable that makes a constant of that name."""
    def constant(getter, name, *shape, **more):
        with tf.name_scope(None):  # the name is whole already
            return tf.constant(weights[name], tf.float32, name=name)
    return constant


def chosen(network, lr, scale, scales, recursion):
    """The picture of the scale that is fed; another than `scales` ends the run with tf.errors.InvalidArgumentError."""
    known = tf.reduce_any(tf.equal(scale, tf.constant(scales, tf.float32)))
    message = f'{SCALE}: this network has {", ".join(map(str, scales))}, not'
    with tf.control_dependencies([tf.raw_ops.Assert(condition=known, data=[message, scale])]):
        lr = tf.identity(lr)

    def picture(factor):
        return lambda: network.sr(lr, factor, recursion)
    *others, last = scales
    if not others:
        return picture(last)()
    return tf.case([(tf.equal(scale, float(factor)), picture(factor)) for factor in others], picture(last))


def write_frozen(graph_def, path):
    with open(path, 'wb') as file:
        file.write(graph_def.SerializeToString())


def write_saved_model(graph_def, folder):
    """A SavedModel with the signature serving_default; `folder` must not exist. Raises OSError where it cannot be."""
    with tf.Graph().as_default() as graph, tf.Session(graph=graph, config=session_config('cpu')) as session:
        tf.import_graph_def(graph_def, name='')
        inputs, outputs = ({name: graph.get_tensor_by_name(f'{name}:0') for name in names}
                           for names in ((INPUT, SCALE), (OUTPUT,)))
        try:
            tf.saved_model.simple_save(session, folder, inputs, outputs)
        except tf.errors.OpError as error:
            raise OSError(f'{folder}: could not be written ({error.message})') from None


def run_file(path):
    """A function (lr [N,H,W,3], scale) -> sr over a frozen graph, or the folder of a SavedModel."""
    with tf.Graph().as_default() as graph:
        session = tf.Session(graph=graph, config=session_config('cpu'))
        if path.endswith('.pb'):
            with open(path, 'rb') as file:
                tf.import_graph_def(tf.GraphDef.FromString(file.read()), name='')
        else:
            tf.saved_model.load(session, ['serve'], path)
    return lambda lr, scale: session.run(f'{OUTPUT}:0', {f'{INPUT}:0': lr, f'{SCALE}:0': scale})
