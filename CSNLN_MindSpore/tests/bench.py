"""python ci/bench.py CSNLN_MindSpore [--runs=3] [--sides=48,96,128]

The attentions, training steps (batch 2, 24x24 LR, x2) and the upscaling of pictures: as programs here run (native), by
MindSpore's operators (builtin), and in plain PyTorch, with the strided layers and the unfold, product and fold that
the authors' code has; in turn in one process, so that a busy machine slows all alike. Ratios are of calls next to each
other in time. Upscaling is compared at a depth of one, since the plain ones take minutes for twelve; then comes the
full depth, native alone, with the peak memory of a process of its own.
"""
import functools
import os
import re
import subprocess
import sys

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor

from common import bench, cli, native
from common.ms.devices import open_device
from common.ms.runs import Loss, TrainStep
from src.attention import Builtin
from src.context import layers
from src.CSNLN import CSNLN
from tests.dialects import Network, weights
from upscaler import Upscaler

SCALE, CHANNELS, DEPTH = 2, 128, 12
BATCH, PATCH = 2, 24  # of training; PATCH: LR side, pixels
LARGEST = {'builtin': 64, 'plain': 128}  # LR side of pictures whose matrices of scores still fit


def gflop(side):
    """Billions of multiplications and additions for an LR picture of side x side: of attention within it, of that
    across scales, and of all of one recurrence; in the form that takes fewest.
    """
    pixels, half, s2 = side ** 2, CHANNELS // 2, SCALE ** 2
    within = 2 * pixels ** 2 * (half + CHANNELS) / 1e9
    across = 2 * pixels ** 2 / s2 * (half + CHANNELS * s2) / 1e9
    strided = 4 * 9 * s2 * CHANNELS ** 2
    convolutions = 2 * pixels * (strided + s2 * (2 * 9 * CHANNELS ** 2 + 27 * CHANNELS) + 9 * CHANNELS ** 2) / 1e9
    return within, across, within + across + convolutions


def network(name, depth):
    how = Builtin() if name == 'builtin' else layers(open_device('cpu'), name)
    made = CSNLN(SCALE, depth, CHANNELS, layers=how)
    made.initialise(np.random.default_rng(0))
    return made


class Plain:
    """The plain network in float32: step() of Adam, upscale()."""

    def __init__(self, depth):
        arrays = weights('authors', SCALE, depth, CHANNELS)
        self.network = Network('authors', arrays, SCALE, depth, torch.float32)
        self.parameters = [value for name, value in self.network.arrays.items() if 'mean' not in name]
        self.adam = torch.optim.Adam(self.parameters, 1e-4)

    def step(self, lr, hr):
        for parameter in self.parameters:
            parameter.requires_grad_()
        loss = (self.network.forward(lr) - hr).abs().mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.item()

    def upscale(self, picture):
        with torch.no_grad():
            return self.network.forward(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)


def attention_calls(side):
    """{what: {name: function}} of both attentions on a map of side x side."""
    rng, half = np.random.default_rng(0), CHANNELS // 2
    query, key, v = (0.3 * rng.standard_normal((1, channels, side, side), np.float32)
                     for channels in (half, half, CHANNELS))
    small = np.ascontiguousarray(key[:, :, ::SCALE, ::SCALE])
    query_t, key_t, small_t, v_t = map(torch.from_numpy, (query, key, small, v))

    def within():
        weights = (query_t.flatten(2).transpose(1, 2) @ key_t.flatten(2)).softmax(2)
        return v_t.flatten(2) @ weights.transpose(1, 2)

    def across():
        unfold, fold = torch.nn.functional.unfold, torch.nn.functional.fold
        keys = unfold(small_t, 3, padding=1)
        scores = (keys / keys.norm(dim=1, keepdim=True).clamp(min=1e-4)).transpose(1, 2) @ unfold(query_t, 3, padding=1)
        pasted = unfold(v_t, 3 * SCALE, padding=SCALE, stride=SCALE) @ (10 * scores).softmax(1)
        return fold(pasted, SCALE * side, 3 * SCALE, padding=SCALE, stride=SCALE)
    return {'attention within': {'plain': within, 'native': lambda: native.attention(query, key, v)},
            'attention across': {'plain': across, 'native': lambda: native.cross_scale_attention(query, small, v)}}


def training_calls():
    rng = np.random.default_rng(0)
    lr, hr = (rng.integers(0, 256, (BATCH, side, side, 3), np.uint8) for side in (PATCH, SCALE * PATCH))
    plain, calls = Plain(DEPTH), {}
    pair = [torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255 for patches in (lr, hr)]
    calls['plain'] = lambda: plain.step(*pair)
    batch = Tensor(lr), Tensor(hr), Tensor(0, ms.float32)
    for name in ('builtin', 'native'):
        made = network(name, DEPTH)
        adam = ms.nn.Adam(made.trainable_params(), 1e-4)
        step = TrainStep(Loss(made), adam, None, 1.0)
        calls[name] = lambda step=step: step(*batch)[0].asnumpy()
    return calls


def upscaling_calls(side, depth, names):
    picture = np.random.default_rng(0).uniform(0, 255, (side, side, 3)).astype(np.float32)
    functions = {name: Plain(depth).upscale if name == 'plain' else Upscaler(network(name, depth)) for name in names}
    return {name: functools.partial(function, picture) for name, function in functions.items()}


def report(what, work, times):
    for name, (seconds, ratio) in times.items():
        print(f'{what} {name}: {seconds:.3f} s, {work / seconds:.0f} GFLOP/s; ratio to plain {ratio:.2f}', flush=True)


def measure_alone(side, runs):
    """(seconds, peak memory in bytes) of the full depth in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), f'--alone={side}', f'--runs={runs}']
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return map(float, done.stdout.split()[-2:])


def alone(side, runs):
    """Print the seconds of the native network at full depth, and the peak memory of this process."""
    call = upscaling_calls(side, DEPTH, ['native'])['native']
    seconds = bench.seconds(call, runs, warm_up=1)
    with open('/proc/self/status') as file:  # not getrusage(): it begins with what the parent process has
        print(seconds, 1024 * int(re.search(r'VmHWM:\s*(\d+)', file.read()).group(1)))


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--runs', type=int, default=3, help='rounds; the median counts')
    add('--sides', default='48,96,128', help='LR sides of the pictures, pixels')
    add('--alone', type=int, default=0, help='print seconds and bytes of one picture of that side, and no more')
    asked = parser.parse_args(argv)
    open_device('cpu')
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # MindSpore has told OpenMP to use one
    if asked.alone:
        return alone(asked.alone, asked.runs)
    sides = [int(side) for side in asked.sides.split(',')]
    for side in (PATCH, *sides):
        for (what, calls), work in zip(attention_calls(side).items(), gflop(side)):
            report(f'{what} {side}x{side}', work, bench.in_turn(calls, asked.runs))
    report('training step', 3 * BATCH * DEPTH * gflop(PATCH)[2], bench.in_turn(training_calls(), asked.runs))
    for side in sides:
        names = [name for name in ('plain', 'builtin', 'native') if side <= LARGEST.get(name, side)]
        report(f'upscaling {side}x{side}, depth 1,', gflop(side)[2],
               bench.in_turn(upscaling_calls(side, 1, names), asked.runs))
    for side in sides:
        seconds, memory = measure_alone(side, asked.runs)
        print(f'upscaling {side}x{side}, depth {DEPTH}, native: {seconds:.2f} s, '
              f'{DEPTH * gflop(side)[2] / seconds:.0f} GFLOP/s, peak memory {memory / 1e9:.2f} GB', flush=True)


if __name__ == '__main__':
    cli.run(main)
