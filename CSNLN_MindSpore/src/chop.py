"""The authors' way with pictures that are large: in quarters with a margin, these in quarters, and so on.

Attention looks at all that it is given, so the parts give another result than the whole picture: the published scores
are of parts.
"""
import itertools

import numpy as np

from common import tiles

MARGIN = 10  # LR pixels that a part has beyond its quarter, and up to `scale` more
LARGE = 3600  # LR pixels; parts of so many are cut again


def chopped(upscale, scale):
    """A function lr -> sr over one that takes whole pictures; tells whoever watches tiles of each part."""
    def by_parts(lr):
        height, width = lr.shape[:2]
        sr = np.empty((scale * height, scale * width, 3), np.float32)
        grid = list(itertools.product(*parts(height, width, scale)))
        for done, ((top, bottom, above, below), (left, right, before, behind)) in enumerate(grid, 1):
            part = tiles.call(upscale, lr[above:below, before:behind], scale)
            kept = sr[scale * top:scale * bottom, scale * left:scale * right]
            kept[:] = part[scale * (top - above):, scale * (left - before):][:kept.shape[0], :kept.shape[1]]
            tiles.report(done, len(grid))
        return sr
    return by_parts


def parts(height, width, scale):
    """([rows], [columns]) of the parts of an LR picture, each (first, end, first looked at, end of it), LR pixels.

    A part is one of the rows by one of the columns; all look at as many pixels.
    """
    times, sides = 1, (_side(height, scale), _side(width, scale))
    while sides[0] * sides[1] >= LARGE:
        times, sides = times + 1, tuple(_side(side, scale) for side in sides)
    return _cut(height, scale, times), _cut(width, scale, times)


def part_of(height, width, scale):
    """(height, width) of the parts of an LR picture of that size."""
    return tuple(axis[0][3] - axis[0][2] for axis in parts(height, width, scale))


def _side(length, scale):
    """Length of a half with its margin, a multiple of scale. Where the authors' would be longer than both: these."""
    side = length // 2 + MARGIN
    return min(side + scale - side % scale, length)


def _cut(length, scale, times):
    side, middle = _side(length, scale), length // 2
    if times == 0 or side == length:
        return [(0, length, 0, length)]
    inner, end = _cut(side, scale, times - 1), length - side
    return ([(first, min(stop, middle), *seen) for first, stop, *seen in inner if first < middle]
            + [(max(first + end, middle), stop + end, *(i + end for i in seen)) for first, stop, *seen in inner
               if stop + end > middle])
