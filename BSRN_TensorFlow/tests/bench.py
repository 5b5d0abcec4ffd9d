"""python ci/bench.py BSRN_TensorFlow [--runs=5]

Bare convolutions, training steps (batch 8, LR 48x48, x4, 64 + 64 channels, 16 recursions) and the inference of a
picture: as a plain graph, written as the authors' code is, and as the programs here run, in turn in one process, so
that a busy machine slows all alike. Ratios are of calls next to each other in time.
"""
import numpy as np

from common import bench, cli
from common.tf.devices import chosen_precision
from models.bsrn import BSRN, initial_weights, layers, stages
from models.checkpoint import assign
from models.session_config import Device, tf

SCALE, PATCH, PICTURE = 4, 48, 128  # PATCH, PICTURE: LR sides, pixels


class Plain(BSRN):  # as the authors' code builds it: picture and state joined and parted again for every convolution
    def features(self, lr):
        c, s = self.conv_features, self.state_features
        x = self._convolve(lr - self._channels(self.rgb_mean), 'first_conv/conv2d')
        state, kept = tf.zeros(tf.concat([tf.shape(x)[:3], [s]], 0)), []
        for _ in range(self.recursions):
            inner = tf.nn.relu(self._convolve(tf.concat([x, state], 3), 'residual_modules/conv2d'))
            change, state = tf.split(self._convolve(inner, 'residual_modules/conv2d_1'), [c, s], 3)
            x = x + change
            change, state = tf.split(
                self._convolve(tf.concat([x, state], 3), 'residual_modules/conv2d_2'), [c, s], 3)
            x = x + change
            kept.append(x)
        return kept


class Graph:
    """A network of random weights in a session of its own: train(lr, hr), sr(lr, recursion) and all outputs of lr."""

    def __init__(self, network, size, device):
        with tf.Graph().as_default() as graph:
            net = network(scales=(SCALE,), conv=device.convolutions(), **size)
            self._lr, self._hr = (tf.placeholder(tf.float32, [None, None, None, 3]) for _ in range(2))
            outputs = net.outputs(self._lr, SCALE)
            self._loss = net.losses(outputs, self._hr)[0]
            self._train = tf.train.AdamOptimizer(1e-4).minimize(self._loss)
            self._fetches = {'all': outputs, **{name: net.sr(self._lr, SCALE, name) for name in ('ensemble', 'last')}}
            self._session = tf.Session(config=device.config())
            self._session.run(tf.global_variables_initializer())
            assign(self._session, net.variables, initial_weights(dict(size, scales=(SCALE,)), np.random.default_rng(0)))
            graph.finalize()

    def train(self, lr, hr):
        return self._session.run([self._loss, self._train], {self._lr: lr, self._hr: hr})

    def sr(self, lr, what):
        return self._session.run(self._fetches[what], {self._lr: lr})


class Convolution:
    """One convolution of n_in to n_out channels on [batch,side,side,n_in]; parts: itself, its gradients."""

    def __init__(self, device, batch, side, n_in, n_out):
        rng = np.random.default_rng(0)
        with tf.Graph().as_default():
            conv = device.convolutions()
            values = [rng.standard_normal(shape).astype(np.float32) for shape in (
                (batch, side, side, n_in), (3, 3, n_in, n_out), (n_out,), (batch, side, side, n_out))]
            x, dy = (tf.Variable(conv.enter(tf.constant(values[index]))) for index in (0, 3))
            kernel, bias = map(tf.Variable, values[1:3])
            y = conv.convolve(x, kernel, bias)
            gradients = tf.gradients(y, [x, kernel], tf.cast(dy, y.dtype))
            self.parts = [part.op for part in (y, *gradients)]
            self._session = tf.Session(config=device.config())
            self._session.run(tf.global_variables_initializer())
        self.work = 2 * 9 * batch * side ** 2 * n_in * n_out / 1e9

    def run(self, part):
        self._session.run(self.parts[part])


def devices(wanted):
    """{name: Device} of what is compared; the first is the plain graph's."""
    found = {'plain': Device('cpu'), 'fp32 builtin': Device('cpu'), 'fp32 native': Device('cpu', kernels='native'),
             'bf16': Device('cpu', 'bf16')}
    try:
        chosen_precision('cpu', 'bf16')
    except ValueError as error:
        print(error)
        del found['bf16']
    return {name: device for name, device in found.items() if not wanted or name in wanted or name == 'plain'}


def gflop(size, side, outputs):
    """Billions of multiplications and additions of the convolutions that turn side x side LR pixels into `outputs`."""
    total, factor = 0, 1
    found = layers((SCALE,), size['conv_features'], size['state_features'])
    for name, (n_in, n_out) in found.items():
        times = outputs
        if name.startswith('residual'):
            times = size['recursions']
        elif name.startswith('first'):
            times = 1
        pixels = factor if name.startswith(('upscale', 'last')) else 1
        total += times * pixels * n_in * n_out
        if name.startswith('upscale'):
            factor *= stages(SCALE)[0] ** 2
    return 2 * 9 * side ** 2 * total / 1e9


def report(what, work, times, bare=None):
    """One line each; work: GFLOP of a call; bare: {name: GFLOP/s of its bare convolutions}."""
    for name, (seconds, ratio) in times.items():
        share = f', {work / seconds / bare[name]:.0%} of its bare convolutions' if bare else ''
        print(f'{what} {name}: {seconds:.3f} s, {work / seconds:.0f} GFLOP/s{share}; ratio to plain {ratio:.2f}',
              flush=True)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--runs', type=int, default=5, help='rounds; the median counts')
    add('--batch_size', type=int, default=8, help='patches per step')
    add('--recursions', type=int, default=16, help='passes through the block')
    add('--only', default='', help="of 'fp32 builtin', 'fp32 native', bf16, joined by ','")
    asked = parser.parse_args(argv)
    size = {'conv_features': 64, 'state_features': 64, 'recursions': asked.recursions}
    compared = devices(asked.only.split(',') if asked.only else [])
    print(f'TensorFlow {tf.__version__}')

    rng, batch, rates = np.random.default_rng(0), asked.batch_size, {}
    for side, n_in, n_out in ((PATCH, 128, 128), (2 * PATCH, 64, 256), (4 * PATCH, 64, 3)):
        bare = {name: Convolution(device, batch, side, n_in, n_out) for name, device in compared.items()}
        for part, what in enumerate(('forward', 'to its input', 'to its kernel')):
            calls = {name: lambda one=one, part=part: one.run(part) for name, one in bare.items()}
            times, work = bench.in_turn(calls, 5), bare['plain'].work
            report(f'convolution {n_in}-{n_out} at {side}x{side}, {what}:', work, times)
            for name, (seconds, _) in times.items():
                rates.setdefault(name, []).append(work / seconds)
    training = {name: 3 / sum(1 / rate for rate in found[:3]) for name, found in rates.items()}  # of the block's
    forward = {name: found[0] for name, found in rates.items()}
    graphs = {name: Graph(Plain if name == 'plain' else BSRN, size, device) for name, device in compared.items()}
    lr, hr = (rng.integers(0, 256, (batch, side, side, 3)).astype(np.float32) for side in (PATCH, SCALE * PATCH))
    report('training step', 3 * batch * gflop(size, PATCH, asked.recursions),
           bench.in_turn({name: lambda one=one: one.train(lr, hr) for name, one in graphs.items()}, asked.runs),
           training)
    picture = rng.uniform(0, 255, (1, PICTURE, PICTURE, 3)).astype(np.float32)
    for what, outputs in (('ensemble', asked.recursions), ('last', 1)):
        calls = {name: lambda one=one, what=what: one.sr(picture, what) for name, one in graphs.items()}
        calls['plain'] = lambda: graphs['plain'].sr(picture, 'all')  # as the authors' test program has it
        report(f'inference, {what},', gflop(size, PICTURE, outputs), bench.in_turn(calls, asked.runs), forward)


if __name__ == '__main__':
    cli.run(main)
