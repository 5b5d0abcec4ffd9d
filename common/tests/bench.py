"""python ci/bench.py common

The bicubic, the metrics and the patches on one core: milliseconds on a picture of DIV2K's size, patches per second.
"""

import os
import tempfile

import numpy as np

from common import bench, cli, images
from common.datasets import Pair
from common.metrics import psnr, ssim
from common.patches import PatchSampler, open_pairs
from common.resize import imresize

HEIGHT, WIDTH = 1356, 2040


def report(what, seconds):
    print(f'{what}: {1000 * seconds:.1f} ms', flush=True)


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    parser.add_argument('--pictures', type=int, default=20, help='pictures that the patches are cut from')
    options = parser.parse_args(argv)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for all threads

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    print(f'a picture of {WIDTH}x{HEIGHT}, one core')
    for scale in (1 / 2, 1 / 3, 1 / 4, 2):
        report(f'imresize by {scale:.3g}', bench.seconds(lambda s=scale: imresize(picture, s), 5, 1))
    for channel in ('y', 'rgb'):
        for measure in (psnr, ssim):
            report(f'{measure.__name__}, {channel}', bench.seconds(
                lambda m=measure, c=channel: m(picture, picture[::-1], crop_border=2, channel=c), 5, 1))

    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for number in range(options.pictures):
            path = os.path.join(folder, f'{number:04d}.bmp')
            images.write(path, rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
            pairs.append(Pair(str(number), path, None))
        sampler = PatchSampler(*open_pairs(pairs, 2, folder), scale=2, patch_size=48, batch_size=160, seed=0)
        steps = iter(range(10 ** 9))
        per_batch = bench.seconds(lambda: sampler.batch(next(steps)), 200, 50)
        print(f'pairs of 96x96 HR and 48x48 LR, turned, {options.pictures} pictures: {160 / per_batch:,.0f} per second')


if __name__ == '__main__':
    cli.run(main)
