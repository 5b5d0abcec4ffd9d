"""python ci/bench.py EDVR_TensorFlow [--runs=5]

Training steps (EDVR-M, batch 2, 5 x 64x64 LR), inference of the same windows, the upscaling of a clip, and the bare
deformable convolutions: with a plain deformable convolution by gather_nd, as the released port's branch for TensorFlow
is, and as the programs here run, in turn in one process, so that a busy machine slows all alike. Ratios are of calls
next to each other in time. Peak memory is that of a process of its own for each.
"""
import os
import re
import subprocess
import sys

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ascendcv.layers.convolution import Builtin  # noqa: E402
from ascendcv.runner.sess_config import Device, tf  # noqa: E402
from ascendvsr.models.edvr import EDVR  # noqa: E402
from ascendvsr.models.layers import SIZES, initial_weights, layers  # noqa: E402
from common import bench, cli  # noqa: E402
from common.tf.checkpoint import assign  # noqa: E402
from common.tf.devices import chosen_precision  # noqa: E402

BATCH, FRAMES, PATCH = 2, 5, 64  # PATCH: LR side, pixels
FIELDS = ('mid_channels', 'num_deform_groups', 'num_blocks_extraction', 'num_blocks_reconstruction')
SIZE = dict(zip(FIELDS, SIZES['EDVR-M']), num_frames=FRAMES, with_tsa=True, compat='paper', upsampling='bilinear')


def gathered(x, sampling, kernel, bias, groups):
    """The deformable convolution of ascendcv/layers/dcn.py in the plain way: all taps at once, four gather_nd."""
    shape, (c, outputs) = tf.shape(x), kernel.shape.as_list()[2:]
    n, height, width = shape[0], shape[1], shape[2]
    padded = tf.reshape(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), [n, height + 2, width + 2, groups, c // groups])
    parts = tf.reshape(sampling, [n, height, width, 3, groups, 9])
    taps = tf.range(9)
    y = tf.cast(tf.range(height)[:, None, None, None] + taps // 3, tf.float32) + parts[:, :, :, 1]
    x = tf.cast(tf.range(width)[:, None, None] + taps % 3, tf.float32) + parts[:, :, :, 0]
    y = tf.clip_by_value(y, 0.0, tf.cast(height + 1, tf.float32))
    x = tf.clip_by_value(x, 0.0, tf.cast(width + 1, tf.float32))
    pictures = tf.broadcast_to(tf.range(n)[:, None, None, None, None], tf.shape(y))
    group = tf.broadcast_to(tf.range(groups)[:, None], tf.shape(y))
    total = 0
    for down in (0, 1):
        for right in (0, 1):
            row = tf.minimum(tf.floor(y) + down, tf.cast(height + 1, tf.float32))
            column = tf.minimum(tf.floor(x) + right, tf.cast(width + 1, tf.float32))
            weight = (1 - tf.abs(y - row)) * (1 - tf.abs(x - column))
            places = tf.stack([pictures, tf.cast(row, tf.int32), tf.cast(column, tf.int32), group], -1)
            total += weight[..., None] * tf.gather_nd(padded, places)
    columns = tf.transpose(total * parts[:, :, :, 2][..., None], [0, 1, 2, 4, 3, 5])  # [N,H,W,9,G,C/G]
    product = tf.matmul(tf.reshape(columns, [-1, 9 * c]), tf.reshape(kernel, [9 * c, outputs]))
    return tf.reshape(product, [n, height, width, outputs]) + bias


class Plain(Builtin):
    def deform(self, x, sampling, kernel, bias, groups):
        return gathered(x, sampling, kernel, bias, groups)


def layers_of(name):
    """How the layers of what is compared are computed."""
    device = {'native': Device('cpu', kernels='native'), 'bf16': Device('cpu', 'bf16')}.get(name, Device('cpu'))
    return Plain() if name == 'plain' else device.layers()


class Graph:
    """EDVR-M with random weights in a session of its own: train(), sr(), feature(), restore() of random windows."""

    def __init__(self, name):
        rng = np.random.default_rng(0)
        weights = initial_weights(SIZE, rng)
        for key, value in weights.items():  # offsets of some pixels, as a trained network's
            if '/conv_offset/kernel' in key:
                value[...] = 0.02 * rng.standard_normal(value.shape)
        with tf.Graph().as_default() as graph:
            network = EDVR(conv=layers_of(name), **SIZE)
            frames, hr = (tf.placeholder(tf.float32, [None] * rank + [3]) for rank in (4, 3))
            sr = network.sr(frames)
            loss = tf.reduce_sum(tf.sqrt((sr - hr) ** 2 + 1e-12))
            train = tf.train.AdamOptimizer(1e-4, 0.9, 0.99).minimize(loss)
            lr = tf.placeholder(tf.float32, [None, None, None, 3])
            features = network.features(lr)
            fed = [tf.placeholder(tf.float32, feature.shape) for feature in features]
            restored = network.restore(fed, lr)
            self._session = tf.Session(config=Device('cpu').config())
            self._session.run(tf.global_variables_initializer())
            assign(self._session, network.variables, weights)
            graph.finalize()
        x, y = (rng.random(shape, np.float32) for shape in (
            (BATCH, FRAMES, PATCH, PATCH, 3), (BATCH, 4 * PATCH, 4 * PATCH, 3)))
        run = self._session.run
        middle, levels = {lr: x[:1, 0]}, run(features, {lr: x[0]})
        clip = dict(middle)
        clip.update(zip(fed, levels))
        self.train = lambda: run([loss, train], {frames: x, hr: y})
        self.sr = lambda: run(sr.op, {frames: x})
        self.window = lambda: run(sr.op, {frames: x[:1]})
        self.frame = lambda: (run(features, middle), run(restored.op, clip))


class Deformable:
    """The four deformable convolutions of a training step, forward and with their gradients."""

    def __init__(self, name):
        rng, c, groups = np.random.default_rng(0), SIZE['mid_channels'], SIZE['num_deform_groups']
        with tf.Graph().as_default():
            layer, self.parts = layers_of(name), [[], []]
            for side in (PATCH, PATCH, PATCH // 2, PATCH // 4):
                shapes = ((BATCH * FRAMES, side, side, c), (BATCH * FRAMES, side, side, 27 * groups))
                x, sampling = (tf.Variable(layer.enter(tf.constant(rng.standard_normal(shape).astype(np.float32))))
                               for shape in shapes)
                kernel, bias = (tf.Variable(rng.standard_normal(shape).astype(np.float32))
                                for shape in ((3, 3, c, c), (c,)))
                y = layer.deform(x, sampling, kernel, bias, groups)
                self.parts[0].append(y.op)
                self.parts[1] += [gradient.op for gradient in tf.gradients(y, [x, sampling, kernel, bias], 0.1 * y)]
            self._session = tf.Session(config=Device('cpu').config())
            self._session.run(tf.global_variables_initializer())

    def run(self, part):
        self._session.run(self.parts[part])


def gflop():
    """Billions of multiplications and additions of all convolutions for one window, and of the deformable ones."""
    both = [0, 0]
    for name, parts in layers(**SIZE).items():
        kernel = next(iter(parts.values()))
        pixels = FRAMES if name.startswith(('extraction', 'pcd')) or 'temporal_attn2' in name else 1
        for word, factor in (('l2_', 1 / 4), ('level2', 1 / 4), ('l3_', 1 / 16), ('level3', 1 / 16),
                             ('spatial_attn2', 1 / 4), ('upsample2', 4), ('conv_hr', 16), ('conv_last', 16)):
            pixels *= factor if word in name else 1
        work = 2 * np.prod(kernel) * pixels * PATCH ** 2 / 1e9
        both += np.array([work, work if 'W' in parts else 0])
    return both


def report(what, work, times):
    for name, (seconds, ratio) in times.items():
        print(f'{what} {name}: {seconds:.3f} s, {work / seconds:.0f} GFLOP/s; ratio to plain {ratio:.2f}', flush=True)


def compared(wanted):
    """Names of what is compared; the first is the plain one."""
    found = ['plain', 'builtin', 'native', 'bf16']
    try:
        chosen_precision('cpu', 'bf16')
    except ValueError as error:
        print(error)
        found.remove('bf16')
    return [name for name in found if not wanted or name in wanted or name == 'plain']


def peak(name, what):
    """Peak memory of a process that calls a Graph's function twice, bytes."""
    command = [sys.executable, os.path.abspath(__file__), f'--memory={name}.{what}']
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(done.stdout.split()[-1])


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--runs', type=int, default=5, help='rounds; the median counts')
    add('--only', default='', help="of builtin, native, bf16, joined by ','")
    add('--memory', default='', help='NAME.train or NAME.window: print the peak memory of two such calls, and no more')
    asked = parser.parse_args(argv)
    if asked.memory:
        name, what = asked.memory.split('.')
        call = getattr(Graph(name), what)
        call(), call()
        with open('/proc/self/status') as file:  # not getrusage(): it begins with what the parent process has
            return print(1024 * int(re.search(r'VmHWM:\s*(\d+)', file.read()).group(1)))
    names, (work, deforming) = compared(asked.only.split(',') if asked.only else []), gflop()
    print(f'TensorFlow {tf.__version__}; a window is {work:.1f} GFLOP, deformable convolutions {deforming / work:.0%}')
    bare = {name: Deformable(name) for name in names if name != 'bf16'}
    shares = [bench.in_turn({name: lambda one=one, part=part: one.run(part) for name, one in bare.items()}, asked.runs)
              for part in (0, 1)]
    report('deformable convolutions of a step, forward,', BATCH * deforming, shares[0])
    report('deformable convolutions of a step, forward and gradients,', 3 * BATCH * deforming, shares[1])
    graphs = {name: Graph(name) for name in names}
    for what, times, call in (('training step', 3 * BATCH, 'train'), (f'inference of {BATCH} windows', BATCH, 'sr'),
                              ('a frame of a clip, window by window,', 1, 'window'),
                              ('a frame of a clip, features kept,', 1, 'frame')):
        found = bench.in_turn({name: getattr(one, call) for name, one in graphs.items()}, asked.runs)
        report(what, times * work, found)
        if call == 'train':
            for name in bare:
                print(f'  of it deformable convolutions {name}: {shares[1][name][0] / found[name][0]:.0%}')
    for name in names:
        print(f'peak memory of training steps {name}: {peak(name, "train") / 1e9:.2f} GB', flush=True)


if __name__ == '__main__':
    cli.run(main)
