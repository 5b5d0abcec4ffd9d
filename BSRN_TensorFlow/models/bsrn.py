"""BSRN: the block state-based recursive network (Choi et al., arXiv:1811.12546), as in its authors' TensorFlow code.

    network = BSRN(scales=(2, 3, 4))
    sr = network.sr(lr, scale=2)    # [N,H,W,3] to [N,2H,2W,3], RGB in 0..255
"""
import argparse
import re

import numpy as np
import tensorflow.compat.v1 as tf

from common.tf.checkpoint import some
from models.convolution import Builtin

SCALES = (2, 3, 4, 8)
SCOPE = 'generator'


class BSRN:
    """The variables of a network in the current graph, and functions of them.

    scales: of 2, 3, 4, 8. conv_features, state_features: channels of the picture and of the state; recursions: passes
    through the shared block, of which every recursion_frequency-th gives an output; rgb_mean: what is subtracted and
    added back. conv: how convolutions are computed. Names and shapes of the variables are those of the released
    checkpoints. ValueError: sizes that cannot be.
    """

    def __init__(self, scales=(4,), conv_features=64, state_features=64, recursions=16, recursion_frequency=1,
                 rgb_mean=(127.5, 127.5, 127.5), conv=None):
        check_size(scales, conv_features, state_features, recursions, recursion_frequency)
        self.scales, self.rgb_mean = tuple(scales), tuple(rgb_mean)
        self.conv_features, self.state_features = conv_features, state_features
        self.passes = list(range(recursion_frequency, recursions + 1, recursion_frequency))  # that give an output
        self.recursions = recursions
        self._conv = conv or Builtin()
        weights = 2.0 ** (np.array(self.passes) - self.passes[-1])
        self.output_weights = weights / weights.sum()  # of the outputs in the loss and in the ensemble
        self._variables = {}
        with tf.variable_scope(SCOPE):
            for name, (n_in, n_out) in layers(scales, conv_features, state_features).items():
                self._variables[name] = [
                    tf.get_variable(f'{name}/{part}', shape, tf.float32, tf.zeros_initializer())
                    for part, shape in (('kernel', (3, 3, n_in, n_out)), ('bias', (n_out,)))]

    @property
    def variables(self):
        """All of them, in the order in which they are used."""
        return [variable for pair in self._variables.values() for variable in pair]

    def _convolve(self, x, name):
        return self._conv.convolve(x, *self._variables[name])

    def _channels(self, values):
        """A constant [channels] that multiplies or is added along the channels."""
        shape = [1, 1, 1, 1]
        shape[self._conv.axis] = len(values)
        return tf.constant(np.reshape(np.float32(values), shape))

    def features(self, lr):
        """What the upsampler turns into outputs, one of conv_features channels for each of self.passes.

        lr: float32 [N,H,W,3], RGB in 0..255.
        """
        c, s, axis = self.conv_features, self.state_features, self._conv.axis
        x = self._convolve(self._conv.enter(lr) - self._channels(self.rgb_mean), 'first_conv/conv2d')
        # The picture's channels and the state's stay one tensor u: in each half of the block the picture is added to
        # what the convolutions give, the state replaced by it.
        u = tf.pad(x, [[0, s if dimension == axis else 0] for dimension in range(4)])
        keep = self._channels([1.0] * c + [0.0] * s)
        kept = []
        for index in range(1, self.recursions + 1):
            inner = tf.nn.relu(self._convolve(u, 'residual_modules/conv2d'))
            u = u * keep + tf.cast(self._convolve(inner, 'residual_modules/conv2d_1'), tf.float32)
            u = u * keep + tf.cast(self._convolve(u, 'residual_modules/conv2d_2'), tf.float32)
            if index in self.passes:
                kept.append(tf.split(u, [c, s], axis)[0] if s else u)
        return kept

    def upscale(self, x, scale):
        """One of features() as a picture, float32 [N,scale*H,scale*W,3], not rounded and not clipped."""
        for stage, block in enumerate(stages(scale)):
            x = tf.nn.relu(self._convolve(x, layer_name(f'upscale/x{scale}', stage)))
            x = self._conv.depth_to_space(x, block)
        last = f'last_conv/x{scale}/conv2d' if len(self.scales) > 1 else 'last_conv/conv2d'
        return self._conv.leave(self._convolve(x, last) + self._channels(self.rgb_mean))

    def outputs(self, lr, scale):
        """The pictures after each of self.passes."""
        return [self.upscale(x, scale) for x in self.features(lr)]

    def sr(self, lr, scale, recursion='ensemble'):
        """The picture, [N,H,W,3] to [N,scale*H,scale*W,3]: 'last', that of one pass (a number), or 'ensemble', the mean
        of all weighted by output_weights, which the authors' test programs save.
        """
        if recursion == 'ensemble':
            return weighted_sum(self.output_weights, self.outputs(lr, scale))
        number = self.passes[-1] if recursion == 'last' else recursion
        if number not in self.passes:
            raise ValueError(f'recursion {recursion!r}: expected one of {self.passes}, ensemble or last')
        return self.upscale(self.features(lr)[self.passes.index(number)], scale)

    def losses(self, outputs, hr):
        """(loss, mean absolute error of each output) against hr [N,scale*H,scale*W,3]; later outputs weigh more."""
        errors = [tf.reduce_mean(tf.abs(hr - output)) for output in outputs]
        return weighted_sum(self.output_weights, errors), errors


def weighted_sum(weights, values):
    return tf.add_n([np.float32(weight) * value for weight, value in zip(weights, values)])


def stages(scale):
    """The enlargements that make a scale: 8 is 2, 2, 2."""
    return [3] if scale == 3 else [2] * (scale.bit_length() - 1)


def layer_name(scope, index):
    """The name that tf.layers.conv2d gave the index-th layer of a scope."""
    return f'{scope}/conv2d_{index}' if index else f'{scope}/conv2d'


def layers(scales, conv_features, state_features):
    """{name: (channels in, channels out)} of all convolutions, without SCOPE."""
    c, both = conv_features, conv_features + state_features
    found = {'first_conv/conv2d': (3, c)}
    found.update({layer_name('residual_modules', index): (both, both) for index in range(3)})
    for scale in scales:
        found.update({layer_name(f'upscale/x{scale}', index): (c, block * block * c)
                      for index, block in enumerate(stages(scale))})
    found.update({f'last_conv/x{scale}/conv2d' if len(scales) > 1 else 'last_conv/conv2d': (c, 3) for scale in scales})
    return found


def initial_weights(size, rng):
    """{name: array} of all variables, drawn from a numpy Generator as the authors initialise them.

    conv2d and conv2d_1 of the block: normal, cut at two deviations, of variance 1.3e-4 / fan_in (the 1.3 is
    tf.contrib.layers' variance_scaling_initializer's); the other kernels: Glorot's uniform; biases: 0.
    """
    weights = {}
    for name, (n_in, n_out) in layers(size['scales'], size['conv_features'], size['state_features']).items():
        shape = (3, 3, n_in, n_out)
        if name in ('residual_modules/conv2d', 'residual_modules/conv2d_1'):
            kernel = rng.standard_normal(shape)
            while (np.abs(kernel) > 2).any():
                kernel = np.where(np.abs(kernel) > 2, rng.standard_normal(shape), kernel)
            kernel *= (1.3e-4 / (9 * n_in)) ** 0.5
        else:
            kernel = rng.uniform(-1, 1, shape) * (6 / (9 * (n_in + n_out))) ** 0.5
        weights[f'{SCOPE}/{name}/kernel'] = kernel.astype(np.float32)
        weights[f'{SCOPE}/{name}/bias'] = np.zeros(n_out, np.float32)
    return weights


def size_of(weights):
    """{'scales', 'conv_features', 'state_features'} of the network whose variables {name: array} are given.

    Recursions leave no trace in them. Raises ValueError that names what is missing, extra, or of another shape.
    """
    kernels = {name: weights.get(f'{SCOPE}/{name}/kernel') for name in ('first_conv/conv2d', 'residual_modules/conv2d')}
    if any(kernel is None or kernel.ndim != 4 for kernel in kernels.values()):
        raise ValueError(f'not a BSRN: expected {SCOPE}/first_conv/conv2d/kernel and '
                         f'{SCOPE}/residual_modules/conv2d/kernel, found {some(weights)}')
    c, both = (kernel.shape[3] for kernel in kernels.values())
    scales = sorted({int(match.group(1)) for match in map(re.compile(rf'{SCOPE}/upscale/x(\d+)/').match, weights)
                     if match})
    if not scales or not set(scales) <= set(SCALES) or both < c:
        raise ValueError(f'not a BSRN: scales {scales}, {c} features of {both} channels in the block')
    expected = {f'{SCOPE}/{name}/{part}': shape for name, (n_in, n_out) in layers(scales, c, both - c).items()
                for part, shape in (('kernel', (3, 3, n_in, n_out)), ('bias', (n_out,)))}
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    differing = [f'{name} {weights[name].shape} (expected {shape})' for name, shape in expected.items()
                 if name in weights and weights[name].shape != shape]
    if missing or extra or differing:
        raise ValueError(f'not a BSRN of scales {scales}: missing {some(missing)}; extra {some(extra)}; '
                         f'of another shape {some(differing)}')
    return {'scales': tuple(scales), 'conv_features': c, 'state_features': both - c}


def check_size(scales, conv_features, state_features, recursions, recursion_frequency):
    """ValueError unless a network can have that size."""
    if not scales or not set(scales) <= set(SCALES) or len(set(scales)) < len(scales):
        raise ValueError(f'scales {list(scales)}: expected some of {list(SCALES)}, each once')
    if conv_features < 1 or state_features < 0:
        raise ValueError(f'conv_features {conv_features}, state_features {state_features}: expected 1, 0 or more')
    if not 1 <= recursion_frequency <= recursions:
        raise ValueError(f'recursion_frequency {recursion_frequency} of {recursions} recursions: expected 1 to that')


def scale_list(text):
    """'2,3,4' as (2, 3, 4)."""
    if not set(text.split(',')) <= set(map(str, SCALES)) or len(set(text.split(','))) < len(text.split(',')):
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(map(str, SCALES))}, or several of them joined "
                                         "by ','")
    return tuple(int(part) for part in text.split(','))


def model_scale_list(text):
    """The same, None for -1."""
    return None if text == '-1' else scale_list(text)


def mean_list(text):
    """'127.5,127.5,127.5' as three floats."""
    try:
        means = tuple(float(part) for part in text.split(','))
    except ValueError:
        means = ()
    if len(means) != 3 or not np.isfinite(means).all():
        raise argparse.ArgumentTypeError(f"{text!r}: expected three numbers joined by ','")
    return means


def add_size_options(add):
    """The options that make the network; add: parser.add_argument."""
    add('--bsrn_model_scales', type=model_scale_list, default='-1', help='scales that the network has, such as 2,3,4; '
        '-1: those of --scales')
    add('--bsrn_conv_features', type=int, default=64, help='channels of the picture')
    add('--bsrn_state_features', type=int, default=64, help='channels of the block state; 0: none')
    add('--bsrn_recursions', type=int, default=16, help='passes through the block')
    add('--bsrn_recursion_frequency', type=int, default=1, help='every so many passes give an output')
    add('--bsrn_rgb_mean', type=mean_list, default='127.5,127.5,127.5', help='subtracted from the picture, added back')


def size_from(options):
    """The keyword arguments of BSRN that add_size_options() and --scales give. ValueError: a scale it would lack."""
    scales = options.bsrn_model_scales or options.scales
    lacking = sorted(set(options.scales) - set(scales))
    if lacking:
        raise ValueError(f'--scales: x{lacking[0]} is not of --bsrn_model_scales {",".join(map(str, scales))}')
    names = ('conv_features', 'state_features', 'recursions', 'recursion_frequency', 'rgb_mean')
    size = dict({name: getattr(options, f'bsrn_{name}') for name in names}, scales=scales)
    check_size(*(size[name] for name in ('scales', *names[:4])))
    return size
