"""python ci/bench.py EDSR_MindSpore [--runs=15]

Bare convolutions, training steps and the inference of a picture: with MindSpore's own kernels, with ours, and in plain
PyTorch (float32, NCHW), in turn in one process, so that a busy machine slows all alike. Ratios are of calls next to
each other in time.
"""
import os
import statistics

import mindspore as ms
import numpy as np
import torch
from mindspore import Tensor, nn, ops

from common import bench, cli
from common.ms.kernels import Operator, open_library
from src.context import open_device
from src.model import RGB_MEAN
from train import build, parse

SCALE, PATCH, PICTURE, CHANNELS = 2, 48, 256, 64  # PATCH, PICTURE: LR sides, pixels; CHANNELS of the bare convolutions
PARTS = ('convolution', 'gradient to its input', 'gradient to its kernel')


class PlainBlock(torch.nn.Module):
    def __init__(self, n_feats):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(n_feats, n_feats, 3, padding=1), torch.nn.ReLU(True),
                                        torch.nn.Conv2d(n_feats, n_feats, 3, padding=1))

    def forward(self, x):
        return x + self.body(x)


class Plain(torch.nn.Module):  # the same network as the authors' code runs it
    def __init__(self, n_resblocks, n_feats):
        super().__init__()
        self.head = torch.nn.Conv2d(3, n_feats, 3, padding=1)
        self.body = torch.nn.Sequential(*(PlainBlock(n_feats) for _ in range(n_resblocks)),
                                        torch.nn.Conv2d(n_feats, n_feats, 3, padding=1))
        self.tail = torch.nn.Sequential(torch.nn.Conv2d(n_feats, SCALE ** 2 * n_feats, 3, padding=1),
                                        torch.nn.PixelShuffle(SCALE), torch.nn.Conv2d(n_feats, 3, 3, padding=1))
        self.register_buffer('mean', 255 * torch.tensor(RGB_MEAN).reshape(1, 3, 1, 1))

    def forward(self, lr):
        features = self.head(lr - self.mean)
        return self.tail(features + self.body(features)) + self.mean


class Builtin(nn.Cell):  # the operator under nn.Conv2d
    def construct(self, x, weight, bias):
        return ops.conv2d(x, weight, bias, pad_mode='pad', padding=1)


class Part(nn.Cell):
    """One of PARTS of a convolution, a Cell of (x, weight, bias); the graph has nothing else in it."""

    def __init__(self, convolution, part):
        super().__init__()
        self.convolution, self.part = convolution, part
        self.gradients = ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, x, weight, bias, dy):
        if self.part == 0:
            return self.convolution(x, weight, bias)
        return self.gradients(self.convolution)(x, weight, bias, dy)[self.part - 1]


def in_turn(calls, runs):
    """{name: (median seconds, median of the ratio of PyTorch's seconds to these)} of {name: function}."""
    for call in calls.values():
        call(), call()
    rounds = [{name: bench.seconds(call, runs=1, warm_up=0) for name, call in calls.items()} for _ in range(runs)]
    return {name: (statistics.median(times[name] for times in rounds),
                   statistics.median(times['PyTorch'] / times[name] for times in rounds)) for name in calls}


def convolution_calls(part, batch):
    """{name: function} that each run one part of a convolution of CHANNELS channels on `batch` patches."""
    rng, shape = np.random.default_rng(0), (batch, CHANNELS, PATCH, PATCH)
    arrays = [rng.standard_normal(size).astype(np.float32)
              for size in (shape, (CHANNELS, CHANNELS, 3, 3), (CHANNELS,), shape)]
    tensors, (x, weight, bias, dy) = [Tensor(array) for array in arrays], [torch.from_numpy(a) for a in arrays]
    cells = {'MindSpore': Part(Builtin(), part), 'ours': Part(Operator(open_library()), part)}

    def plain():
        if part == 0:
            return torch.nn.functional.conv2d(x, weight, bias, padding=1)
        return torch.ops.aten.convolution_backward(dy, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                                   [part == 1, part == 2, False])
    return {**{name: lambda cell=cell: cell(*tensors).asnumpy() for name, cell in cells.items()}, 'PyTorch': plain}


def training_calls(models, network, batch):
    rng = np.random.default_rng(0)
    lr, hr = (rng.integers(0, 256, (batch, side, side, 3), np.uint8) for side in (PATCH, SCALE * PATCH))
    tensors, adam = (Tensor(lr), Tensor(hr), Tensor(0, ms.float32)), torch.optim.Adam(network.parameters(), 1e-4)
    lr, hr = (torch.from_numpy(patches).permute(0, 3, 1, 2).float().contiguous() for patches in (lr, hr))

    def plain():
        loss = (network(lr) - hr).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()
    calls = {name: lambda step=model.step: step(*tensors)[0].asnumpy() for name, model in models.items()}
    return {**calls, 'PyTorch': plain}


def inference_calls(models, network):
    picture = np.random.default_rng(0).uniform(0, 255, (PICTURE, PICTURE, 3)).astype(np.float32)

    @torch.no_grad()
    def plain():
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
        return np.ascontiguousarray(network(x)[0].permute(1, 2, 0).numpy())
    return {**{name: lambda upscale=model.upscale: upscale(picture) for name, model in models.items()},
            'PyTorch': plain}


def gflop(network, side):
    """Billions of multiplications and additions of the convolutions of one picture, side x side LR pixels."""
    weights = {name: p.numel() for name, p in network.named_parameters() if p.ndim == 4}
    weights['tail.2.weight'] *= SCALE ** 2  # runs over the pixels of SR
    return 2 * sum(weights.values()) * side ** 2 / 1e9


def report(what, unit, count, work, times, rate):
    """One line each; count: units of a call; work: its GFLOP; rate: GFLOP/s of a bare convolution, or None."""
    for name, (seconds, ratio) in times.items():
        share = f', {work / seconds / rate:.0%} of the bare convolution' if rate else ''
        print(f'{what} {name}: {count / seconds:.3f} {unit}, {work / seconds:.0f} GFLOP/s{share}; ratio to PyTorch '
              f'{ratio:.2f}', flush=True)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument('--n_resblocks', type=int, default=16, help='residual blocks')
    parser.add_argument('--n_feats', type=int, default=64, help='channels')
    parser.add_argument('--batch_size', type=int, default=16, help='patches per step')
    parser.add_argument('--runs', type=int, default=7, help='rounds; the median counts')
    asked = parser.parse_args(argv)
    size = [f'--n_resblocks={asked.n_resblocks}', f'--n_feats={asked.n_feats}', '--res_scale=1']
    device = open_device('cpu')
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # MindSpore has told OpenMP to use one
    models = {name: build(parse(['--dir_data=.', *size, f'--kernels={kernels}', '--tile=0'], ''), device)
              for name, kernels in (('MindSpore', 'builtin'), ('ours', 'native'))}
    network = Plain(asked.n_resblocks, asked.n_feats)

    work = 2 * CHANNELS ** 2 * 9 * PATCH ** 2 * asked.batch_size / 1e9
    rates = []
    for part, what in enumerate(PARTS):
        times = in_turn(convolution_calls(part, asked.batch_size), 3 * asked.runs)
        report(what, 'calls/s', 1, work, times, None)
        rates.append(work / times['ours'][0])
    times = in_turn(training_calls(models, network, asked.batch_size), asked.runs)
    report('training', 'patches/s', asked.batch_size, 3 * asked.batch_size * gflop(network, PATCH), times,
           3 / sum(1 / rate for rate in rates))
    times = in_turn(inference_calls(models, network), asked.runs)
    report('inference', 'pictures/s', 1, gflop(network, PICTURE), times, rates[0])


if __name__ == '__main__':
    cli.run(main)
