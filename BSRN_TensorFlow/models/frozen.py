"""Networks as files that TensorFlow runs without this code: frozen graphs and SavedModels.

Both have the inputs sr_input, float32 [N,H,W,3] in 0..255, and sr_input_scale, a float32 scalar, as the released port
calls them, and the output sr_output, float32 [N,sH,sW,3]. N, H and W are free.
"""
import tensorflow.compat.v1 as tf

from common.tf import frozen as shared
from models.bsrn import BSRN

INPUT, SCALE, OUTPUT = 'sr_input', 'sr_input_scale', 'sr_output'


def frozen(size, weights, scales, recursion='ensemble', with_scale=True):
    """The GraphDef of a network whose variables are constants, each under the variable's name.

    size: keyword arguments of BSRN; weights: {name: array}; scales: those of its scales that can be fed; recursion: as
    BSRN.sr has it. with_scale=False: of one scale, and without the input that chooses it.
    """
    with tf.Graph().as_default() as graph:
        with tf.variable_scope(tf.get_variable_scope(), custom_getter=shared.constants(weights)):
            network = BSRN(**size)
        lr = tf.placeholder(tf.float32, [None, None, None, 3], INPUT)
        if with_scale:
            sr = chosen(network, lr, tf.placeholder(tf.float32, [], SCALE), scales, recursion)
        else:
            sr = network.sr(lr, scales[0], recursion)
        tf.identity(sr, OUTPUT)
    return graph.as_graph_def()


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


def write_saved_model(graph_def, folder):
    """A SavedModel with the signature serving_default; `folder` must not exist. Raises OSError where it cannot be."""
    shared.write_saved_model(graph_def, folder, (INPUT, SCALE), (OUTPUT,))


def run_file(path):
    """A function (lr [N,H,W,3], scale) -> sr over a frozen graph, or the folder of a SavedModel."""
    return shared.run_file(path, (INPUT, SCALE), OUTPUT)
