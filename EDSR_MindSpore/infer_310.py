"""bash script/run_infer_310.sh edsr_x2.mindir /data Set5 2

Measures a MINDIR on a test set, as eval.py measures a checkpoint: preprocess, infer, postprocess, PSNR. MindSpore runs
the file on whatever device there is. One of free height and width is given whole pictures; one of fixed size windows.
"""

import itertools
import os
from collections import namedtuple

import numpy as np

from common import cli
from common.datasets import find_benchmark
from common.evaluation import evaluate
from common.ms import mindir
from common.ms.devices import KINDS
from common.ms.mindir import read_graph, show
from common.tiles import tiled
from src.context import open_device
from src.metrics import protocols
from src.model import SCALES

Window = namedtuple('Window', 'pixels core inner')  # of one axis: LR indices; part of the SR; where that lies inside


class Mindir(mindir.Mindir):
    """common.ms.mindir.Mindir, given pictures of any size.

    .halo: LR pixels that an SR pixel sees beyond its own, at most: the reach of all its kernels.
    """

    def __init__(self, path):
        graph = read_graph(path)
        self.halo = sum(parameter.dims[2] // 2 for parameter in graph.parameter if len(parameter.dims) == 4)
        super().__init__(path, graph)

    def __call__(self, lr):
        sr = np.empty((self.scale * lr.shape[0], self.scale * lr.shape[1], 3), np.float32)
        rows, columns = (windows(side, fixed or side, self.halo, self.scale)
                         for side, fixed in zip(lr.shape, self.shape[2:]))
        pieces, at_once = list(itertools.product(rows, columns)), self.shape[0] or 1
        for start in range(0, len(pieces), at_once):
            batch = pieces[start:start + at_once]
            for (row, column), piece in zip(batch, self.infer(preprocess(lr, batch, at_once))):  # [3,sH,sW]
                sr[row.core, column.core] = piece[:, row.inner, column.inner].transpose(1, 2, 0)
        return sr


def preprocess(lr, pieces, size):
    """The (row, column) windows of lr [H,W,3] as a batch [size,3,h,w]; where they are fewer, the last one repeated."""
    pieces = pieces + pieces[-1:] * (size - len(pieces))
    return np.stack([lr[np.ix_(row.pixels, column.pixels)].transpose(2, 0, 1) for row, column in pieces])


def windows(length, size, halo, scale):
    """[Window] that cover `length` pixels of an axis by `size` at a time; they overlap by twice the halo.

    The first begins where the picture begins and the last ends where it ends: a network pads with zeros there, which
    no other padding equals. A picture smaller than `size` gives two windows, of which half is used each; reflected
    pixels fill them up. They only count where the halo reaches them, or exceeds 3/8 of a window.
    """
    overlap = min(2 * halo, 3 * size // 4)
    gaps = max(-(-(length - size) // (size - overlap)), int(length != size))
    starts = [(length - size) * i // max(gaps, 1) for i in range(gaps + 1)]
    edges = [0, *((one + other + size) // 2 for one, other in zip(starts, starts[1:])), length]
    period, found = max(2 * (length - 1), 1), []
    for start, first, last in zip(starts, edges, edges[1:]):
        pixels = np.arange(start, start + size) % period
        found.append(Window(np.minimum(pixels, period - pixels), slice(scale * first, scale * last),
                            slice(scale * (first - start), scale * (last - start))))
    return found


def main(argv=None):
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add('--mindir_path', required=True, help='file of export.py, or of a released port')
    add('--data_path', required=True, help='folder that holds the sets')
    add('--dataset', required=True, help='Set5, Set14, B100, Urban100, DIV2K ... below that folder')
    add('--scale', type=int, required=True, choices=SCALES, help="must be the file's")
    add('--output_path', required=True, help='pictures and metrics.json go to OUTPUT_PATH/X{scale}/{dataset}')
    add('--tile', type=int, default=0, help='side of the tiles, LR pixels; 0: whole pictures')
    add('--device', default='auto', choices=('auto', *KINDS), help='auto: the best there is')
    add('--device_id', type=int, default=0, help='index of the device')
    options = parser.parse_args(argv)
    if options.tile < 0:
        raise ValueError(f'--tile={options.tile}: expected 0 or more LR pixels')
    open_device(options.device, options.device_id)
    pairs = find_benchmark(options.data_path, options.dataset, options.scale)
    upscale = Mindir(options.mindir_path)
    if upscale.scale != options.scale:
        raise ValueError(f'{options.mindir_path}: enlarges by {upscale.scale}, not {options.scale}; give that scale, '
                         'or the file of the other one')
    print(f'input {show(upscale.shape)}, halo {upscale.halo}', flush=True)
    evaluate(tiled(upscale, upscale.scale, options.tile, upscale.halo), pairs, options.scale, dataset=options.dataset,
             protocols=protocols(options.dataset, options.scale), model='EDSR',
             output_dir=os.path.join(options.output_path, f'X{options.scale}', options.dataset))


if __name__ == '__main__':
    cli.run(main)
