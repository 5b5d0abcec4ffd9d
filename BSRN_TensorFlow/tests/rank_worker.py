"""python tests/rank_worker.py OUTPUT.npz STEPS: one of the ranks of a training on random numbers, or its only one.

The weights after STEPS of Adam and the losses go to OUTPUT.npz. Scales take turns. Rank r begins with weights that are
r too large, and gets its part of each batch of four.
"""
import sys

import numpy as np

from common import cli
from common.tf.ranks import open_ranks, tf
from models.bsrn import BSRN, initial_weights
from models.session_config import open_device

SIZE = {'scales': (2, 3), 'conv_features': 8, 'state_features': 8}


def build(ranks, conv):
    """(variables, lr, {scale: (hr, step, loss)}) in the current graph."""
    network = BSRN(**SIZE, recursions=2, conv=conv)
    adam = tf.train.AdamOptimizer(1e-3)
    lr = tf.placeholder(tf.float32, [4 // ranks.world_size, 6, 6, 3])
    steps = {}
    for scale in SIZE['scales']:
        hr = tf.placeholder(tf.float32, [4 // ranks.world_size, 6 * scale, 6 * scale, 3])
        loss, _ = network.losses(network.outputs(lr, scale), hr)
        gradients, (loss,) = ranks.gradients(adam, loss, network.variables, [loss])
        gradients = [tf.clip_by_norm(gradient, 5.0) for gradient in gradients]
        steps[scale] = hr, adam.apply_gradients(zip(gradients, network.variables)), loss
    return network.variables, lr, steps


def main(argv=None):
    output, count = argv or sys.argv[1:]
    device = open_device('cpu')
    ranks = open_ranks(device)
    weights, rng, losses = initial_weights(SIZE, np.random.default_rng(1)), np.random.default_rng(2), []
    ours = slice(ranks.rank * 4 // ranks.world_size, (ranks.rank + 1) * 4 // ranks.world_size)
    with tf.Graph().as_default() as graph, ranks.placed():
        variables, lr, steps = build(ranks, device.convolutions())
        spoilt = [tf.assign(variable, weights[variable.op.name] + ranks.rank) for variable in variables]
        initialise, share = tf.global_variables_initializer(), ranks.share(tf.global_variables())
    with ranks.session(graph) as session:
        for operation in (initialise, spoilt, share):
            session.run(operation)
        for step in range(int(count)):
            scale = SIZE['scales'][step % 2]
            hr, train, loss = steps[scale]
            batch = {lr: rng.uniform(0, 255, (4, 6, 6, 3))[ours],
                     hr: rng.uniform(0, 255, (4, 6 * scale, 6 * scale, 3))[ours]}
            losses.append(session.run([train, loss], batch)[1])
            print('step', step + 1, flush=True)
        np.savez(output, losses=losses,
                 **{variable.op.name: value for variable, value in zip(variables, session.run(variables))})
        ranks.close(session)


if __name__ == '__main__':
    cli.run(main)
