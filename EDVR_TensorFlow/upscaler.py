"""The one interface to a trained EDVR:

    upscale = upscaler.load('output/edvr', device='cpu')
    sr = upscale(frames)              # float32 RGB [T,H,W,3] in 0..255 to [4H,4W,3] of the middle one
    for sr in upscale.clip(frames):   # an iterable of any length: one [4H,4W,3] for each of its frames

Results are neither clipped nor rounded.
"""
import functools
import itertools

import numpy as np

from ascendcv.runner.sess_config import device_of, open_device, tf
from ascendvsr.clip import PADDINGS, windows
from ascendvsr.models.conventions import CONVENTIONS
from ascendvsr.models.edvr import EDVR, MULTIPLE, SCALE, padded
from common.tf.checkpoint import assign
from common.tiles import is_out_of_memory, tiled
from import_weights import read_weights

MEMORY = 8.0  # GB that upscaling may take, about
PROGRAM = 0.6e9  # bytes that TensorFlow itself takes
HALO = 32  # LR pixels of picture around a tile
SMALLEST_TILE = 64  # LR pixels
CELL = MULTIPLE  # tiles are made of cells of so many LR pixels, which are pixels of the third level of features
SIDES = CELL, 4, 2, 1  # of a cell: in the padded frame, and in the levels


class Upscaler:
    """A function [T,H,W,3] -> [4H,4W,3] over a network in a session, and clip(), by which the features of a frame are
    computed once. RGB in 0..255; one graph serves frames of all sizes.

    memory: GB that clip() may take, about.
    """

    def __init__(self, network, session, memory=MEMORY):
        self.scale, self.frames, self.size, self.memory = SCALE, network.frames, network.size, memory
        self._session = session
        with session.graph.as_default():
            self._pictures = tf.placeholder(tf.float32, [None, None, None, 3])
            lr = padded(self._pictures) / 255
            levels = network.features(lr)
            self._sr = 255 * network.restore(levels, lr[self.frames // 2::self.frames])
        self._tensors = [lr, *levels]  # where all of them are fed, features are not computed
        self._rows = [1] + [1 if level.shape.as_list()[3] else 2 for level in levels]  # which axis they are

    def __call__(self, frames):
        frames = np.asarray(frames)
        if frames.ndim != 4 or len(frames) != self.frames or frames.shape[3] != 3 or 0 in frames.shape:
            raise ValueError(f'frames of shape {frames.shape}; expected RGB [{self.frames},H,W,3]')
        height, width = frames.shape[1:3]
        return self._session.run(self._sr, {self._pictures: frames})[0, :SCALE * height, :SCALE * width]

    def clip(self, frames, padding='replicate', tile=None, halo=HALO, size=()):
        """Yields for each frame of an iterable, [H,W,3] in 0..255, all of one size, its sr, float32 [4H,4W,3].

        padding: of the windows at the ends, as ascendvsr/clip.py has it. tile: largest side, LR pixels, of the parts of
        a frame that are upscaled at once, 0: whole frames, None: as `memory` allows; halo: LR pixels around a tile.
        What is beyond the halo is not seen: the result differs a little from that of whole frames. Features of whole
        frames are kept, those of one window, where memory allows it; else tiles compute them anew for every window.
        size: (height, width) that frames must have, () for any.
        Raises ValueError for frames of another size than the first one, and where the network gives NaN.
        """
        if padding not in PADDINGS:
            raise ValueError(f'padding {padding!r}: expected {" or ".join(PADDINGS)}')
        frames = _alike(frames, size)
        first = next(frames, None)
        if first is None:
            return
        height, width = first.shape[:2]
        cells = np.indices([-(-side // CELL) for side in (height, width)]).transpose(1, 2, 0)
        with_features, planned = self.plan(CELL ** 2 * cells[..., 0].size, halo)
        tile = planned if tile is None else tile
        upscale = tiled(lambda part: self._restore(window, part), CELL * SCALE, -(-tile // CELL), -(-halo // CELL))
        kept = (self._keep(frame, with_features) for frame in itertools.chain([first], frames))
        for window in windows(kept, self.frames, padding):  # noqa: B007 - upscale reads it
            yield upscale(cells)[:SCALE * height, :SCALE * width]

    def plan(self, pixels, halo=HALO):
        """(whether features of whole frames are kept, side of the tiles in LR pixels, 0: whole frames) by which clip()
        takes `memory` for frames of so many LR pixels.
        """
        channels, limit = self.size['mid_channels'], 1e9 * self.memory - PROGRAM
        tail = CONVENTIONS[self.size['compat']].tail(channels)
        # bytes for each LR pixel: of the features of a window and one frame more; at work on a window, as measured
        features = 4 * 21 / 16 * channels * (self.frames + 1)
        work = 4 * (66 * tail + self.frames * (10 * channels + 40 * self.size['num_deform_groups']))
        if pixels * (features + work) <= limit:
            return True, 0
        kept = pixels * features <= limit / 2
        most = (limit - pixels * features * kept) / work  # LR pixels of a tile with its halo
        return kept, max(int(max(most, 0) ** 0.5) - 2 * halo, SMALLEST_TILE)

    def _keep(self, frame, with_features):
        """What clip() keeps of a frame: its padded LR in 0..1, and the levels of features."""
        tensors = self._tensors if with_features else self._tensors[:1]
        try:
            return self._session.run(tensors, {self._pictures: frame[None]})
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise ValueError(f'no memory for the features of a frame of {frame.shape[1]}x{frame.shape[0]} pixels: let '
                             f'upscaling take less (data.eval_memory, now {self.memory:g} GB)') from None

    def _restore(self, window, cells):
        """The sr of a part of the middle frame of frames that _keep() gave; cells: [h,w,2], row and column of each."""
        first, last = cells[0, 0], cells[-1, -1] + 1
        feeds = {}
        for tensor, rows, side, *arrays in zip(self._tensors, self._rows, SIDES, *window):
            part = (slice(None),) * rows + tuple(slice(side * a, side * b) for a, b in zip(first, last))
            feeds[tensor] = np.concatenate([array[part] for array in arrays])
        return self._session.run(self._sr, feeds)[0]


def _alike(frames, size):
    """The frames of an iterable. ValueError for one that is no RGB, or not of `size`, by default that of the first."""
    for number, frame in enumerate(frames, 1):
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f'frame {number} of shape {frame.shape}; expected RGB [H,W,3]')
        size = tuple(size) or frame.shape[:2]
        if frame.shape[:2] != size:
            raise ValueError(f'frame {number} is {frame.shape[1]}x{frame.shape[0]} (width x height), expected '
                             f'{size[1]}x{size[0]}: all frames of a clip have one size')
        yield frame


def load(checkpoint, *, scale=None, device='cpu', precision='', kernels='auto', cuda_device='', size=None,
         memory=MEMORY):
    """The Upscaler of a checkpoint, of any kind that import_weights.py reads; its size is read from it.

    scale: 4 or None. device: 'cpu', 'gpu', 'npu' or 'auto'; precision, kernels, cuda_device: as common/tf/devices.py
    has them. size: {argument of EDVR: value or None} where the checkpoint does not say it. memory: GB that a clip may
    take. Raises ValueError for a file that is no EDVR.
    """
    if scale not in (None, SCALE):
        raise ValueError(f'{checkpoint}: EDVR is a network of scale {SCALE}, not {scale}')
    return _restored(checkpoint, open_device(device, precision, kernels, cuda_device), size, memory)


def configured(config):
    """The Upscaler that a configuration asks for: of its checkpoint, by default the newest in output_dir."""
    return _restored(config.checkpoint or config.output_dir, device_of(config),
                     {'compat': config.edvr.compat, 'upsampling': config.edvr.upsampling}, config.data.eval_memory,
                     config.edvr.impl)


def _restored(checkpoint, device, size, memory, impl='auto'):
    weights, found, _ = read_weights(checkpoint, size)
    return with_weights(weights, found, device, memory, impl)


def with_weights(weights, size, device, memory=MEMORY, impl='auto'):
    """The Upscaler of {name: array}; size: keyword arguments of EDVR; impl: as Device.layers() has it."""
    with tf.Graph().as_default() as graph:
        network = EDVR(**size, conv=device.layers(impl))
        session = device.session(graph)
        assign(session, network.variables, weights)
    return Upscaler(network, session, memory)


def clip_function(upscaler, data):
    """Upscaler.clip with the keys data.* of a configuration: frames -> their sr. ValueError: keys that cannot be."""
    for key, needed in (('eval_in_size', data.eval_in_patch), ('eval_raw_size', False)):
        size = getattr(data, key)
        if (size or needed) and (len(size) != 2 or min(size) < 1):
            raise ValueError(f'data.{key} {size}: expected height and width, pixels, such as [180, 320]')
    if data.eval_pad_size < 0:
        raise ValueError(f'data.eval_pad_size {data.eval_pad_size}: expected 0 or more LR pixels')
    tile = min(data.eval_in_size) if data.eval_in_patch else None
    return functools.partial(upscaler.clip, padding=data.padding, tile=tile, halo=data.eval_pad_size,
                             size=data.eval_raw_size)
