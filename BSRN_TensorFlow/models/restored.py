"""A network with its weights in a session, and functions of it on pictures."""
import tensorflow.compat.v1 as tf

from models import checkpoint
from models.bsrn import BSRN, weighted_sum


def restored(size, weights, device):
    """(network, session) on a Device of models.session_config.

    size: keyword arguments of BSRN; weights: {name: array}.
    """
    with tf.Graph().as_default() as graph:
        network = BSRN(**size, conv=device.convolutions())
        session = device.session(graph)
        checkpoint.assign(session, network.variables, weights)
    return network, session


def upscaling(network, session, scale, recursion='ensemble'):
    """A function lr -> sr of batches, float32 [N,H,W,3] to [N,scale*H,scale*W,3], and one graph for all sizes.

    recursion: 'ensemble', 'last', the number of a pass, or 'all': the pictures of all passes, then the ensemble, behind
    each other in the channels. Nothing is computed that is not asked for. Raises ValueError for another recursion.
    """
    with session.graph.as_default():
        lr = tf.placeholder(tf.float32, [None, None, None, 3])
        if recursion == 'all':
            outputs = network.outputs(lr, scale)
            sr = tf.concat([*outputs, weighted_sum(network.output_weights, outputs)], 3)
        else:
            sr = network.sr(lr, scale, recursion)
    return lambda batch: session.run(sr, {lr: batch})
