"""bash script/run_infer_310.sh edsr_x2.mindir /data Set5 2

Measures a MINDIR on a test set, as eval.py measures a checkpoint: preprocess, infer, postprocess, PSNR. MindSpore runs
the file on whatever device there is. One of free height and width is given whole pictures; one of fixed size windows.
"""

import itertools
import os
from collections import namedtuple

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

from common import cli
from common.datasets import find_benchmark
from common.evaluation import evaluate
from common.ms.devices import KINDS
from common.tiles import is_out_of_memory, tiled
from src.context import open_device
from src.metrics import protocols
from src.model import SCALES

PROBE = 8  # LR pixels a side: what a free height and width are tried with
Window = namedtuple('Window', 'pixels core inner')  # of one axis: LR indices; part of the SR; where that lies inside


class Mindir:
    """A function lr -> sr over a MINDIR file: float32 RGB [H,W,3] in 0..255 to [sH,sW,3], neither clipped nor rounded.

    .shape: the (N, 3, H, W) that the file takes, 0 where any will do. .scale: the s that its output shows. .halo: LR
    pixels that an SR pixel sees beyond its own, at most: the reach of all its kernels.
    Raises ValueError for what is no MINDIR, and for one that does not turn pictures into larger ones.
    """

    def __init__(self, path):
        graph = read_graph(path)
        self.shape, made = ([max(side, 0) for side in value.tensor[0].dims] for value in (*graph.input, *graph.output))
        self.halo = sum(parameter.dims[2] // 2 for parameter in graph.parameter if len(parameter.dims) == 4)
        try:
            self._graph, self._cell = ms.load(str(path)), None
        except RuntimeError:  # the reason is on stderr
            raise ValueError(f'{path}: MindSpore {ms.__version__} cannot load it; export it anew') from None
        probe = [side or PROBE for side in self.shape]
        made = made if all(made) else self.infer(np.zeros(probe, np.float32)).shape
        self.scale = made[-1] // probe[3]
        if list(made[1:]) != [3, self.scale * probe[2], self.scale * probe[3]]:
            raise ValueError(f'{path}: makes {made[1:]} of {probe[1:]}; expected a network that enlarges pictures')

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

    def infer(self, batch):
        """float32 [N,3,H,W] to [N,3,sH,sW]. Raises ValueError where the device lacks an operator of the file."""
        if self._cell is None:
            self._cell = nn.GraphCell(self._graph)
            if 0 in self.shape:  # else it would be compiled for every size anew, and all of these kept in memory
                self._cell.set_inputs(Tensor(shape=[side or None for side in self.shape], dtype=ms.float32))
        try:
            return self._cell(Tensor(batch)).asnumpy()
        except (RuntimeError, TypeError) as error:
            self._cell = None  # MindSpore refuses a graph that has failed once, even if memory ran out and came back
            if is_out_of_memory(error):
                raise
            raise ValueError(f'MindSpore cannot run the MINDIR here: {" ".join(str(error).split())[:300]}') from None


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


def read_graph(path):
    """The graph of a MINDIR file that takes and gives one float32 tensor of four axes."""
    model = ModelProto()
    with open(path, 'rb') as file:
        try:
            model.ParseFromString(file.read())
        except (DecodeError, ValueError):  # ValueError: text in it that is none
            model.Clear()
    if not str(path).endswith('.mindir') or not model.graph.node:
        raise ValueError(f'{path}: no MINDIR, or an encrypted one; expected a .mindir file as export.py writes it')
    graph = model.graph
    for values, what in ((graph.input, 'takes'), (graph.output, 'gives')):
        found = [(list(tensor.dims), tensor.data_type) for value in values for tensor in value.tensor]
        if [(len(dims), kind) for dims, kind in found] != [(4, TensorProto.FLOAT)]:
            raise ValueError(f'{path}: {what} {[dims for dims, _ in found]}; expected one float32 [N,3,H,W]')
    return graph


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


def show(shape):
    """[N,3,H,W] with numbers for what is fixed."""
    return '[' + ','.join(str(side or name) for side, name in zip(shape, 'NCHW')) + ']'


if __name__ == '__main__':
    cli.run(main)
