"""Training in the graph: losses of all recursions, one Adam for all scales, what TensorBoard shows of it."""
import contextlib
import os

import numpy as np
import tensorflow.compat.v1 as tf

from common.tf.events import SHOWN, Events
from models import checkpoint
from models.bsrn import BSRN
from upscaler import Upscaler

BETAS = 0.9, 0.999  # of Adam


def add_options(add):
    """The options of the recipe; add: parser.add_argument."""
    add('--bsrn_learning_rate', type=float, default=1e-4, help='of Adam')
    add('--bsrn_learning_rate_decay', type=float, default=0.5, help='factor on it ...')
    add('--bsrn_learning_rate_decay_steps', type=int, default=200000, help='... after every so many steps')
    add('--bsrn_adam_epsilon', type=float, default=1e-8, help='of Adam')
    add('--bsrn_clip_norm', type=float, default=-1.0, help='shorten the gradient of each variable to this norm; the '
        'released weights were trained with 5; 0 or less: do not')


def rate_of(options, step):
    """The learning rate of a step, counted from 0."""
    return (options.bsrn_learning_rate
            * options.bsrn_learning_rate_decay ** (step // options.bsrn_learning_rate_decay_steps))


class Model:  # with Model(...) as model: ...
    """The network with a step of training for each of `scales` in one graph, and its session.

    All scales share the variables and one Adam, which also moves, by their momentum, the variables of scales that a
    step does not take, as in the authors' code. size: keyword arguments of BSRN; options: those of add_options, and
    `tile`. upscale: {scale: function lr -> sr}, by tiles.
    """

    def __init__(self, size, scales, options, device, ranks):
        self.device, self.ranks, self.size, self._looks, self._steps = device, ranks, size, {}, {}
        with tf.Graph().as_default() as self.graph, ranks.placed():
            self.network = BSRN(conv=device.convolutions(), **size)
            # lr is fed as float32: where a graph turns uint8 into planes, oneDNN complains of it on the screen
            self._lr, self._hr = (tf.placeholder(dtype, [None, None, None, 3]) for dtype in (tf.float32, tf.uint8))
            self._rate, self._asked = (tf.placeholder(tf.float32, []) for _ in range(2))
            adam = tf.train.AdamOptimizer(self._rate, *BETAS, epsilon=options.bsrn_adam_epsilon)
            for scale in scales:
                self._looks[scale] = self._look(scale)
                self._steps[scale] = self._step(self._looks[scale]['loss'], adam, options.bsrn_clip_norm)
            self.variables = tf.global_variables()
            self._begin = tf.get_variable('begin', [], tf.float32, tf.zeros_initializer(), trainable=False,
                                          collections=[tf.GraphKeys.LOCAL_VARIABLES])  # in no checkpoint
            self._share = ranks.share([*self.network.variables, self._begin])
            initialise = tf.global_variables_initializer()
        self.session = ranks.session(self.graph)
        self.session.run(initialise)
        self.upscale = {scale: Upscaler(self.network, self.session, scale).by_tiles(options.tile) for scale in scales}
        self.weights = sum(variable.shape.num_elements() for variable in self.network.variables)

    def _look(self, scale):
        outputs = self.network.outputs(self._lr, scale)
        loss, errors = self.network.losses(outputs, tf.cast(self._hr, tf.float32))
        return {'loss': loss, 'errors': errors, 'outputs': [output[:SHOWN] for output in outputs]}

    def _step(self, loss, adam, clip_norm):
        """The tensors (loss, asked), means over the ranks, and the operation.

        A gradient that is not finite makes the loss NaN: by itself it stays finite where ReLUs make 0 of every NaN.
        """
        variables = self.network.variables
        gradients, (loss, asked) = self.ranks.gradients(adam, loss, variables, [loss, self._asked])
        total = tf.add_n([tf.reduce_sum(tf.abs(gradient)) for gradient in gradients])
        loss = tf.where(tf.is_finite(total), loss, tf.constant(np.nan, tf.float32))
        if clip_norm > 0:
            gradients = [tf.clip_by_norm(gradient, clip_norm) for gradient in gradients]
        return [loss, asked, adam.apply_gradients(zip(gradients, variables))]

    def train(self, scale, lr, hr, rate, asked=0):
        """One step of Adam on uint8 [b,p,p,3] and [b,scale*p,scale*p,3]; (loss before it, asked), means over ranks."""
        return self._run(self._steps[scale], {self._lr: lr, self._hr: hr, self._rate: rate, self._asked: asked})[:2]

    def loss(self, scale, lr, hr):
        """The loss of a batch, the mean over the ranks, NaN where a gradient is not finite."""
        return self._run(self._steps[scale][0], {self._lr: lr, self._hr: hr, self._asked: 0})

    def look(self, scale, lr, hr):
        """{'loss', 'errors' of each output, 'outputs'} of a batch on this rank, the outputs of its first pictures."""
        return self._run(self._looks[scale], {self._lr: lr, self._hr: hr})

    def _run(self, fetches, feeds):
        try:
            return self.session.run(fetches, feeds)
        except tf.errors.ResourceExhaustedError:
            raise ValueError(f'{self.device.kind}: too little memory for a step; choose a smaller --batch_size or '
                             '--input_patch_size') from None

    def load(self, arrays, step):
        """Give the variables that {name: array} has their values; all ranks get the weights of rank 0.

        Raises ValueError where the ranks begin after different steps: a disk may have failed one of them.
        """
        checkpoint.assign(self.session, [v for v in self.variables if v.op.name in arrays], arrays)
        checkpoint.assign(self.session, [self._begin], {'begin': np.float32(step)})
        self.session.run(self._share)
        of_rank_0 = int(self.session.run(self._begin))
        if of_rank_0 != step:
            raise ValueError(f'rank {self.ranks.rank} has a checkpoint of step {step}, rank 0 one of step {of_rank_0}')

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.ranks.close(self.session)
        self.session.close()

    def arrays(self):
        """{name: array} of all variables: what a checkpoint holds."""
        return self.session.run({variable.op.name: variable for variable in self.variables})


class Board:  # with Board(folder, graph, quiet) as board: ...
    """Events for TensorBoard in FOLDER/x2, FOLDER/x3 ..., with the names of the authors' code; quiet: none."""

    def __init__(self, folder, graph, quiet=False):
        self._folder, self._graph, self._quiet = folder, graph, quiet
        self._events, self._open = {}, contextlib.ExitStack()

    def write(self, step, scale, learning_rate, model, lr, hr):
        """Pictures and losses of a batch, uint8 [b,p,p,3] and [b,scale*p,scale*p,3], before this step."""
        if self._quiet:
            return
        look = model.look(scale, lr, hr)
        passes = model.network.passes
        values = dict({f'loss/recon_l1_m{m}': error for m, error in zip(passes, look['errors'])},
                      **{'learning_rate': learning_rate, 'loss/final': look['loss']})
        pictures = dict({f'output_m{m}': output for m, output in zip(passes, look['outputs'])}, input=lr, truth=hr)
        if scale not in self._events:
            events = Events(os.path.join(self._folder, f'x{scale}'), self._graph)
            self._events[scale] = self._open.enter_context(events)
        self._events[scale].write(step, values, pictures)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._open.close()
