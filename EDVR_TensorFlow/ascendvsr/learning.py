"""Training in the graph: losses, optimizers, the running mean of the weights, the scale of 16-bit gradients."""
import contextlib

import numpy as np
import tensorflow.compat.v1 as tf

from ascendvsr.models.checkpoint import MEAN
from ascendvsr.models.edvr import EDVR
from common.tf import checkpoint
from common.tf.events import SHOWN
from upscaler import Upscaler

FUSION = ('G/tsa_fusion/', 'G/fusion/')  # what solver.tsa_steps trains alone
SCALE = 'loss_scale'  # the variable with the state of the scale
NAN = np.float32(np.nan)
LARGEST = 32  # exponent of a scale, with which a dynamic one begins
GROW_AFTER, SHRINK_AFTER = 1000, 2  # steps in a row that are finite, or are not


def losses(sr, hr, kind, margin):
    """The loss of each picture, its sum over all numbers, float32 [N]; sr, hr: float32 [N,H,W,3] in 0..1.

    kind: 'l1', 'l2', 'charbonnier' (margin is added to the square) or 'marginal l1' (margin is the least error).
    """
    error = tf.cast(sr, tf.float32) - hr
    each = {'l1': lambda: tf.abs(error), 'l2': lambda: tf.square(error),
            'charbonnier': lambda: tf.sqrt(tf.square(error) + margin),
            'marginal l1': lambda: tf.maximum(tf.abs(error), margin)}[kind]()
    return tf.reduce_sum(each, [1, 2, 3])


def optimizer_of(options, rate):
    """The optimizer that the keys solver.optimizer.* name, with a tensor as its learning rate."""
    if options.type == 'Momentum':
        return tf.train.MomentumOptimizer(rate, options.momentum)
    return tf.train.AdamOptimizer(rate, options.beta1, options.beta2, options.epsilon)


def scale_of(word):
    """What solver.loss_scale begins with: off is 0, d (dynamic) 2^32, f?N the fixed 2^N. ValueError: another word."""
    if word == 'off':
        return 0.0
    fixed = word[2:].isdecimal() and word.startswith('f')
    if not fixed and not word.startswith('d') or fixed and int(word[2:]) > LARGEST:
        raise ValueError(f'solver.loss_scale {word}: expected off, d (dynamic), or f?N (2^N, N up to {LARGEST}) such '
                         'as fx7')
    return 2.0 ** (int(word[2:]) if fixed else LARGEST)


def first_scale(word, half_gradients, quiet=False):
    """(scale, finite steps in a row, others in a row), float32 [3], of scale_of(word); None: no scale.

    Where gradients are not of float16 it is left out, which is said unless quiet.
    """
    scale = scale_of(word)
    if not scale:
        return None
    if not half_gradients:
        if not quiet:
            print(f'note: solver.loss_scale {word} is left out: gradients are of 32 bits here', flush=True)
        return None
    return np.array([scale, 0, 0], np.float32)


def next_scale(state, finite):
    """The state of a dynamic scale after a step whose gradients were, or were not, finite: twice the scale, or half."""
    scale, good, bad = tf.unstack(state)
    good, bad = tf.where(finite, good + 1, 0.0 * good), tf.where(finite, 0.0 * bad, bad + 1)
    grow, shrink = good >= GROW_AFTER, bad >= SHRINK_AFTER
    scale = tf.where(grow, scale * 2, tf.where(shrink, tf.maximum(scale / 2, 1.0), scale))
    return tf.stack([scale, tf.where(grow, 0.0 * good, good), tf.where(shrink, 0.0 * bad, bad)])


class Model:  # with Model(...) as model: ...
    """The network with a step of training in one graph, and its session.

    size: keyword arguments of EDVR; config: the keys edvr.loss_* and solver.*.
    """

    def __init__(self, config, size, device, ranks):
        self.device, self.ranks, self.size, self._solver = device, ranks, size, config.solver
        first = first_scale(config.solver.loss_scale, device.half_gradients, ranks.rank > 0)
        with tf.Graph().as_default() as self.graph, ranks.placed():
            self.network = EDVR(**size, conv=device.layers(config.edvr.impl))
            self._lr = tf.placeholder(tf.uint8, [None, size['num_frames'], None, None, 3])
            self._hr = tf.placeholder(tf.uint8, [None, None, None, 3])
            self._rate, self._asked = (tf.placeholder(tf.float32, []) for _ in range(2))
            self._loss, self._offset, self._sr = self._forward(config.edvr)
            self._scale = None if first is None else tf.get_variable(
                SCALE, initializer=tf.constant(first), trainable=False)
            self._means = tf.train.ExponentialMovingAverage(config.solver.ema) if config.solver.ema > 0 else None
            self._look, self._steps = self._build_look(), self._build_steps()
            self.variables = tf.global_variables()
            self._begin = tf.get_variable('begin', [], tf.float32, tf.zeros_initializer(), trainable=False,
                                          collections=[tf.GraphKeys.LOCAL_VARIABLES])  # in no checkpoint
            self._share = ranks.share([*self.variables, self._begin])
            initialise = tf.global_variables_initializer()
        self.session, self._upscaler = ranks.session(self.graph), None
        self.session.run(initialise)
        self.weights = sum(variable.shape.num_elements() for variable in self.network.variables)

    def _forward(self, edvr):
        """(loss, offset, first pictures of sr) on this rank."""
        sr = self.network.sr(tf.cast(self._lr, tf.float32) / 255)
        found = losses(sr, tf.cast(self._hr, tf.float32) / 255, edvr.loss_type, edvr.loss_margin)
        offsets = tf.stack(self.network.offsets)
        offset = tf.where(tf.is_finite(tf.reduce_sum(offsets)), tf.reduce_max(offsets), NAN)
        return {'mean': tf.reduce_mean, 'sum': tf.reduce_sum}[edvr.loss_reduction](found), offset, 255 * sr[:SHOWN]

    def _build_look(self):
        """What look() gives. Weights that are not finite make the loss NaN: ReLUs make 0 of many a NaN."""
        loss, offset = self.ranks.mean([self._loss, self._offset])
        total = tf.add_n([tf.reduce_sum(tf.abs(variable)) for variable in self.network.variables])
        return {'loss': tf.where(tf.is_finite(total), loss, NAN), 'offset': offset, 'sr': self._sr}

    def _build_steps(self):
        """{whether TSA is trained alone: [loss, offset, asked, operation]}; the rest has an optimizer of its own then,
        which begins when it is trained.
        """
        variables, options = self.network.variables, self._solver.optimizer
        if not self._solver.tsa_steps:
            return {False: self._step([(optimizer_of(options, self._rate), variables)])}
        parts = [[v for v in variables if v.op.name.startswith(FUSION) == fuses] for fuses in (True, False)]
        both = [(optimizer_of(options, self._rate), part) for part in parts]
        return {True: self._step(both[:1]), False: self._step(both)}

    def _step(self, parts):
        """The tensors (loss, offset, asked), means over the ranks, and the operation; parts: [(optimizer, variables)].

        A gradient that is not finite makes the loss NaN; where a dynamic scale can still become smaller, such a step is
        left out instead.
        """
        scale = 1.0 if self._scale is None else self._scale[0]
        variables = [variable for _, part in parts for variable in part]
        gradients, (loss, offset, asked) = self.ranks.gradients(
            parts[0][0], scale * self._loss, variables, [self._loss, self._offset, self._asked])
        finite = tf.is_finite(tf.add_n([tf.reduce_sum(tf.abs(gradient)) for gradient in gradients]))
        gradients = dict(zip((variable.op.name for variable in variables), gradients))

        def apply():
            with tf.name_scope(None):  # the same names of variables inside tf.cond
                moved = [optimizer.apply_gradients([(gradients[v.op.name] / scale, v) for v in part])
                         for optimizer, part in parts]
            with tf.control_dependencies(moved):
                return tf.group(*moved, *([self._means.apply(self.network.variables)] if self._means else []))
        if self._scale is None:
            return [tf.where(finite, loss, NAN), offset, asked, apply()]
        dynamic = self._solver.loss_scale.startswith('d')
        hope = finite if not dynamic else tf.logical_or(finite, scale > 1)
        loss, operations = tf.where(hope, loss, NAN), [tf.cond(finite, apply, tf.no_op)]
        if dynamic:
            with tf.control_dependencies([loss, *operations]):
                operations.append(tf.assign(self._scale, next_scale(self._scale, finite)))
        return [loss, offset, asked, tf.group(*operations)]

    def train(self, lr, hr, rate, tsa_alone=False, asked=0):
        """One step on uint8 [b,T,h,w,3] and [b,4h,4w,3]; (loss and mean offset in pixels before it, asked), means over
        the ranks.
        """
        feeds = {self._lr: lr, self._hr: hr, self._rate: rate, self._asked: asked}
        return self._run(self._steps[tsa_alone and self._solver.tsa_steps > 0], feeds)[:3]

    def look(self, lr, hr):
        """{'loss', 'offset', 'sr'} of a batch: means over the ranks, and the first pictures of this one, 0..255.

        All ranks must ask. The loss is NaN where a weight is not finite.
        """
        return self._run(self._look, {self._lr: lr, self._hr: hr})

    def _run(self, fetches, feeds):
        try:
            return self.session.run(fetches, feeds)
        except tf.errors.ResourceExhaustedError:
            raise ValueError(f'{self.device.kind}: too little memory for a step; choose a smaller '
                             'data.train_batch_size or data.train_in_size') from None

    def load(self, arrays, step, whole=False):
        """Give the variables that {name: array} has their values; all ranks get those of rank 0.

        whole: the optimizers' are expected, too; ValueError names what is missing. Running means that are not there
        begin with the weights. ValueError, too, where the ranks begin after different steps.
        """
        arrays = dict(arrays)
        for variable in self.network.variables:
            arrays.setdefault(variable.op.name + MEAN, arrays[variable.op.name])
        given = [v for v in self.variables if (whole and v.op.name != SCALE) or v.op.name in arrays]
        checkpoint.assign(self.session, given, arrays)
        checkpoint.assign(self.session, [self._begin], {'begin': np.float32(step)})
        self.session.run(self._share)
        of_rank_0 = int(self.session.run(self._begin))
        if of_rank_0 != step:
            raise ValueError(f'rank {self.ranks.rank} has a checkpoint of step {step}, rank 0 one of step {of_rank_0}')

    @contextlib.contextmanager
    def averaged(self):
        """In this block the network has the running mean of its weights, where there is one."""
        names = {variable.op.name: variable for variable in self.network.variables}
        if not self._means:
            yield
            return
        weights = self.session.run(names)
        checkpoint.assign(self.session, self.network.variables, self.session.run(
            {name: self._means.average(variable) for name, variable in names.items()}))
        yield
        checkpoint.assign(self.session, self.network.variables, weights)

    @property
    def upscaler(self):
        """The Upscaler of these weights."""
        if self._upscaler is None:
            with self.graph.as_default(), self.ranks.placed():
                self._upscaler = Upscaler(self.network, self.session)
        return self._upscaler

    def arrays(self):
        """{name: array} of all variables: what a checkpoint holds."""
        return self.session.run({variable.op.name: variable for variable in self.variables})

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.ranks.close(self.session)
        self.session.close()
