"""python ci/bench.py RCAN_PyTorch [--device=gpu]

Training and inference at full size with the fast settings (16-bit convolutions, NHWC, compiled groups) beside the plain
network (fp32, eager, NCHW) in the same process: ratios, and shares of the rate of a bare 64-channel convolution.
"""

import torch

from common import bench, cli
from device import open_device
from main import SIZE, Model, build, train_step
from model import RCAN
from options import training_parser
from upscaler import Upscaler

PATCH, PICTURE = 48, 128  # LR sides, pixels
ASCEND_910 = {'one': 280.168, 'eight': 1303.86}  # images/sec of the released port, README of its results


def gflop(network, side):
    """Billions of multiplications and additions of one picture's forward pass, side x side LR pixels."""
    total = [0]

    def count(layer, _inputs, output):
        total[0] += 2 * layer.weight.numel() * output.shape[2] * output.shape[3]
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8, device=next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return total[0] * (side / 8) ** 2 / 1e9


def convolution_rate(device, dtype):
    """GFLOP/s of a 3x3 convolution of 64 channels, forward, in the device's layout."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(device.torch, dtype, memory_format=device.memory_format)
    batch = 1 if device.kind == 'cpu' else 64
    x = torch.randn(batch, 64, PICTURE, PICTURE, device=device.torch, dtype=dtype)
    x = x.to(memory_format=device.memory_format)

    def run():
        with torch.inference_mode():
            layer(x)
        device.synchronize()
    return 2 * 64 * 64 * 9 * PICTURE * PICTURE * batch / bench.seconds(run) / 1e9


def plain_model(options, device):
    """The network as the papers' code runs it."""
    network = RCAN(**{name: getattr(options, name) for name in SIZE}).to(device.torch)
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], options.lr)
    return Model(device, None, network, network, optimiser, device.scaler(None, 1.0))


def report(what, unit, count, times, work, rates):
    """One line per variant, then the ratio; work: GFLOP of the call; rates: GFLOP/s of a bare convolution."""
    for name, seconds, rate in zip(('plain fp32', 'fast'), times, rates):
        print(f'{what} {name}: {count / seconds:.3f} {unit}, {work / seconds:.0f} GFLOP/s, '
              f'{work / seconds / rate:.0%} of the bare convolution')
    print(f'{what} ratio: {times[2]:.2f}', flush=True)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument('--device', default='cpu', help='cpu, gpu or npu')
    parser.add_argument('--batch_size', type=int, default=0, help='patches per step; 0: 2 on cpu, else 160')
    parser.add_argument('--runs', type=int, default=5, help='pairs of runs; the median counts')
    asked = parser.parse_args(argv)
    device = open_device(asked.device)
    batch = asked.batch_size or (2 if device.kind == 'cpu' else 160)
    options = training_parser('').parse_args(['--train_dataset_dir=.', '--outputs_dir=.', '--amp', '--compile'])

    half = device.half()  # None where no 16-bit type is fast: --amp is fp32 there
    rates = [convolution_rate(device, dtype or torch.float32) for dtype in (None, half)]
    print(f'bare convolution: fp32 {rates[0]:.0f}, {half or "fp32"} {rates[1]:.0f} GFLOP/s', flush=True)
    plain, fast = plain_model(options, device), build(options, device)
    lr, hr = (torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device.torch).permute(0, 3, 1, 2)
              for side in (PATCH, 2 * PATCH))
    nchw = lr.contiguous(), hr.contiguous()

    def step(model, *patches):
        train_step(model, *patches)
        device.synchronize()
    for _ in range(2):  # kernels are chosen and compiled
        step(fast, lr, hr)
    times = bench.paired(lambda: step(plain, *nchw), lambda: step(fast, lr, hr), asked.runs)
    report('training', 'patches/s', batch, times, 3 * batch * gflop(plain.network, PATCH), rates)
    if device.kind != 'cpu':
        rate = batch / times[1]
        print(f'training: {rate:.0f} images/s on one device; the released port: {ASCEND_910["one"]} on one Ascend 910 '
              f'({rate / ASCEND_910["one"]:.2f}x), {ASCEND_910["eight"]} on eight ({rate / ASCEND_910["eight"]:.2f}x)')

    picture = torch.rand(PICTURE, PICTURE, 3).mul(255).numpy()
    upscale_plain, upscale_fast = Upscaler(plain.network, device), Upscaler(fast.network, device, half)
    times = bench.paired(lambda: upscale_plain(picture), lambda: upscale_fast(picture), asked.runs)
    report('inference', 'pictures/s', 1, times, gflop(plain.network, PICTURE), rates)


if __name__ == '__main__':
    cli.run(main)
