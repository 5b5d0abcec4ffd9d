"""The bicubic of MATLAB's `imresize`, by which every benchmark and DIV2K picture was made smaller.

    lr = imresize(mod_crop(hr, 4), 1 / 4)
"""
import math

import numpy as np

_BLOCK_ROWS, _BLOCK_COLUMNS = 8, 8192  # output values made at a time: what they need stays in a core's cache
# Added before truncating. Sums that come out as exactly k + 1/2 on paper must round up whatever the order in which the
# processor added them; for common scales all others are much further than 1e-9 from a half.
_HALF = 0.5 + 1e-9


def imresize(image, scale):
    """`image` [H,W] or [H,W,C] made `scale` times as large: [ceil(H*scale), ceil(W*scale)] or [..., C], same dtype.

    uint8 and uint16 give MATLAB's values exactly: rows first, then columns, each pass rounded (half up) and clamped
    to the type's range. float32 and float64, of any range, are neither rounded nor clamped.
    Cubic kernel with a = -0.5 (Keys 1981), widened by 1/scale when shrinking; indices beyond an edge repeat the edge.
    Raises ValueError for another dtype or shape, a scale that is not a positive number, and a picture of no pixels.
    """
    image = np.asarray(image)
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise ValueError(f'imresize: dtype {image.dtype}; expected uint8, uint16, float32 or float64 (convert first)')
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f'imresize: shape {image.shape}; expected [H,W] or [H,W,C] with at least one pixel')
    scale = float(scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f'imresize: scale {scale}; expected a positive number, such as 1/4 or 2')
    height, width = image.shape[:2]
    channels = image.shape[2:]
    rows, columns = output_length(height, scale), output_length(width, scale)
    high = _resize_rows(image.reshape(height, -1), rows, scale)  # [rows, W*C]
    turned = np.swapaxes(high.reshape((rows, width) + channels), 0, 1)  # [W, rows, C]
    both = _resize_rows(np.ascontiguousarray(turned).reshape(width, -1), columns, scale)  # [columns, rows*C]
    result = np.swapaxes(both.reshape((columns, rows) + channels), 0, 1)
    return np.ascontiguousarray(result, dtype=image.dtype)


def mod_crop(image, scale):
    """The top-left part of `image` [H,W,...] whose sides are multiples of the integer `scale` (a view).

    Raises ValueError when the scale is not a positive integer or the picture is smaller than it.
    """
    if scale != int(scale) or scale < 1:
        raise ValueError(f'mod_crop: scale {scale}; expected a positive integer')
    scale = int(scale)
    height, width = (side // scale * scale for side in image.shape[:2])
    if not height or not width:
        raise ValueError(f'mod_crop: a picture of shape {image.shape} is smaller than the scale of {scale} pixels')
    return image[:height, :width]


def output_length(length, scale):
    """ceil(length * scale) without the rounding noise of a scale such as 1/3; ValueError when next to nothing."""
    exact = length * scale
    if exact < 1e-3:
        raise ValueError(f'imresize: scale {scale} leaves nothing of {length} pixels; expected a larger scale')
    nearest = round(exact)
    return nearest if nearest and abs(exact - nearest) < 1e-9 * exact else math.ceil(exact)


def _cubic(x):
    x = np.abs(x)
    near = 1.5 * x ** 3 - 2.5 * x ** 2 + 1
    far = -0.5 * x ** 3 + 2.5 * x ** 2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _taps(length, out_length, scale):
    """Source indices and weights of every output position: int [out, taps], float64 [out, taps] of sum 1.

    MATLAB's `contributions`, its 1-based positions moved to 0. Taps whose weights are all zero are left out.
    """
    shrink = min(scale, 1.0)
    support = 4 / shrink
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    left = np.floor(centre - support / 2).astype(np.int64)
    indices = left[:, None] + np.arange(math.ceil(support) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.any(weights != 0, axis=0)
    return np.clip(indices[:, used], 0, length - 1), weights[:, used]


def _resize_rows(image, out_length, scale):
    """[H, N] -> [out_length, N]: integers rounded half up and clamped to their type, floats as float64.

    A few output rows at a time are one small matrix product, half of whose weights are zero: on a CPU that is three
    times as fast as a loop over rows or taps.
    """
    height, width = image.shape
    indices, weights = _taps(height, out_length, scale)
    integer = image.dtype.kind == 'u'
    result = np.empty((out_length, width), image.dtype if integer else np.float64)
    for top in range(0, out_length, _BLOCK_ROWS):
        index, weight = indices[top:top + _BLOCK_ROWS], weights[top:top + _BLOCK_ROWS]
        first, last = index.min(), index.max() + 1
        matrix = np.zeros((len(index), last - first))
        np.add.at(matrix, (np.arange(len(index))[:, None], index - first), weight)
        for left in range(0, width, _BLOCK_COLUMNS):
            columns = slice(left, left + _BLOCK_COLUMNS)
            block = matrix @ image[first:last, columns].astype(np.float64)
            if integer:
                block += _HALF
                np.clip(block, 0, np.iinfo(image.dtype).max, out=block)
            result[top:top + _BLOCK_ROWS, columns] = block  # to integers this truncates, and none is negative
    return result
