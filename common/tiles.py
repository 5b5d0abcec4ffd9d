"""Upscaling with bounded memory (tiles) and with self-ensemble, over any function lr [H,W,3] -> sr [sH,sW,3]."""
from __future__ import annotations

import contextlib
import contextvars
import re
import sys

import numpy as np

SMALLEST_TILE = 16  # LR pixels; where not even this fits, the memory error is raised
OUT_OF_MEMORY = re.compile(r'out ?of ?memory|resource_?exhausted|alloc', re.IGNORECASE)
_WATCHER = contextvars.ContextVar('watcher', default=None)


def upscale_tiled(upscale, lr, scale, tile, halo, *, progress=None):
    """Upscale a picture tile by tile; only one tile at a time goes through `upscale`.

    lr: float32 [H,W,3]; returns float32 [scale*H, scale*W, 3], the range being that of `upscale`.
    tile: largest side of a tile, LR pixels; 0, or a picture that is not larger: the whole picture in one call.
    halo: LR pixels of real picture around a tile (none beyond the picture's border: nothing is padded). With a halo of
    at least the network's receptive radius the result equals that of the whole picture. All calls have one shape.
    When the device runs out of memory the tile is halved and what is done stays; under 16 pixels the error is raised.
    progress(done, total): called after every tile.
    """
    return _upscale(upscale, lr, scale, tile, halo, progress)[0]


def tiled(upscale, scale, tile, halo, channels=3):
    """An upscale function lr -> sr that works by tiles and keeps to the smaller tile once memory has run out.

    channels: of what `upscale` answers, more than 3 where it gives several pictures at once. Its tiles are reported to
    whoever calls it within `watched`.
    """
    largest = [tile]

    def upscale_by_tiles(lr):
        sr, largest[0] = _upscale(upscale, lr, scale, largest[0], halo, report, channels)
        return sr
    return upscale_by_tiles


@contextlib.contextmanager
def watched(progress):
    """Within it progress(done, total) is called after every tile of a `tiled` function, however deep it is wrapped."""
    token = _WATCHER.set(progress)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def report(done, total):
    """Tell whoever watches how many tiles are done."""
    progress = _WATCHER.get()
    if progress:
        progress(done, total)


def _upscale(upscale, lr, scale, tile, halo, progress, channels=3):
    """(sr, the tile that fitted); a tile of 0 stays 0 while the whole picture fits."""
    if tile < 0 or halo < 0:
        raise ValueError(f'tile {tile} and halo {halo} must be 0 or more LR pixels')
    size = height, width = lr.shape[:2]
    sr = np.empty((scale * height, scale * width, channels), np.float32)
    pending = _with_windows(_split((0, height, 0, width), tile or max(size)), size, halo)
    done = 0
    while pending:
        core, window = pending[0]
        try:
            piece = call(upscale, lr[window[0]:window[1], window[2]:window[3]], scale, channels)
        except Exception as error:
            smaller = min(tile or max(size), max(size)) // 2
            if not is_out_of_memory(error) or smaller < SMALLEST_TILE:
                raise
            piece = None  # the handler must end before the next try: the error holds on to the failed call's memory
        if piece is None:
            print(f'warning: out of memory; going on with tiles of {smaller} pixels', file=sys.stderr, flush=True)
            tile = smaller
            pending = _with_windows([part for rest, _ in pending for part in _split(rest, tile)], size, halo)
            continue
        top, left = (core[0] - window[0]) * scale, (core[2] - window[2]) * scale
        target = sr[core[0] * scale:core[1] * scale, core[2] * scale:core[3] * scale]
        target[:] = piece[top:top + target.shape[0], left:left + target.shape[1]]
        pending, done = pending[1:], done + 1
        if progress:
            progress(done, done + len(pending))
    return sr, tile


def call(upscale, lr, scale, channels=3):
    """upscale(lr), [scale*H, scale*W, channels]. ValueError for one of another size, or with NaN or infinite values."""
    sr = np.asarray(upscale(_plain(lr)))
    expected = (scale * lr.shape[0], scale * lr.shape[1], channels)
    if sr.shape != expected:
        raise ValueError(f'the network made {sr.shape} of {lr.shape}; expected {expected}: is it for scale {scale}?')
    if not np.isfinite(sr).all():
        raise ValueError('the network gave NaN or infinite values; is the checkpoint one of a run that diverged?')
    return sr


def _plain(array):
    """`array` in C order with positive strides: ascontiguousarray keeps negative ones of sides of length 1."""
    return array if array.flags.c_contiguous and min(array.strides) > 0 else np.array(array, order='C')


def _split(core, tile):
    """Cut (top, bottom, left, right) into a grid of nearly equal parts, no side longer than `tile`."""
    rows, columns = _cuts(core[0], core[1], tile), _cuts(core[2], core[3], tile)
    return [(top, bottom, left, right) for top, bottom in zip(rows, rows[1:])
            for left, right in zip(columns, columns[1:])]


def _cuts(start, stop, tile):
    parts = -(-(stop - start) // tile)
    return [start + (stop - start) * part // parts for part in range(parts + 1)]


def _with_windows(cores, size, halo):
    """(core, window) pairs: the core with its halo, moved inward at the border so that all windows have one shape."""
    lengths = [max(min(core[axis + 1] + halo, size[axis // 2]) - max(core[axis] - halo, 0) for core in cores)
               for axis in (0, 2)]
    pairs = []
    for core in cores:
        top, left = (min(max(core[2 * i] - halo, 0), size[i] - lengths[i]) for i in (0, 1))
        pairs.append((core, (top, top + lengths[0], left, left + lengths[1])))
    return pairs


def is_out_of_memory(error):
    """Whether an exception of any framework says that memory ran out (by class or by its text)."""
    if isinstance(error, (ValueError, TypeError, KeyError)):
        return False
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(f'{type(error).__name__} {error}'))


def self_ensemble(upscale, lr):
    """Mean of the network's answers to the 8 flips and transpositions of lr, each turned back; float32 [sH,sW,3].

    The order of the variants is that of EDSR's and RCAN's code (x8 self-ensemble, EDSR paper section 3.4): width flip
    changes fastest, then height flip, then transposition.
    """
    total = 0
    for transpose in (False, True):
        for height_step in (1, -1):
            for width_step in (1, -1):
                variant = lr[::height_step, ::width_step]
                variant = variant.transpose(1, 0, 2) if transpose else variant
                sr = np.asarray(upscale(_plain(variant)), np.float32)
                sr = sr.transpose(1, 0, 2) if transpose else sr
                total = total + sr[::height_step, ::width_step]
    return total / np.float32(8)
