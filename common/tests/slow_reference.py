"""The bicubic in exact fractions and the metrics window by window: slow, plain, and sharing no code with common.

    python tests/slow_reference.py    # writes tests/golden/bicubic_metrics.npz anew (about a minute)
"""
import math
from fractions import Fraction
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / 'golden' / 'bicubic_metrics.npz'
SCALES = {'X2': Fraction(1, 2), 'X3': Fraction(1, 3), 'X4': Fraction(1, 4), 'X8': Fraction(1, 8), 'up2': Fraction(2),
          'up3half': Fraction(3, 2)}


def cubic(x):
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x ** 3 - Fraction(5, 2) * x ** 2 + 1
    return -Fraction(1, 2) * x ** 3 + Fraction(5, 2) * x ** 2 - 4 * x + 2 if x < 2 else Fraction(0)


def resize_line(line, scale, top):
    """One row or column of integers; `top` is the largest value, None keeps fractions (float pictures)."""
    shrink = min(scale, Fraction(1))
    result = []
    for position in range(math.ceil(len(line) * scale)):
        centre = (position + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = 2 / shrink
        taps = range(math.floor(centre - reach), math.ceil(centre + reach) + 1)
        weights = [cubic(shrink * (centre - tap)) for tap in taps]
        values = [line[min(max(tap, 0), len(line) - 1)] for tap in taps]
        value = sum(w * v for w, v in zip(weights, values)) / sum(weights)
        result.append(value if top is None else min(max(math.floor(value + Fraction(1, 2)), 0), top))
    return result


def imresize(image, scale):
    top = None if image.dtype.kind == 'f' else int(np.iinfo(image.dtype).max)
    if image.ndim == 3:
        return np.stack([imresize(image[:, :, c], scale) for c in range(image.shape[2])], axis=2)
    exact = [[Fraction(float(v)) if top is None else int(v) for v in row] for row in image]
    high = [resize_line(column, scale, top) for column in zip(*exact)]  # rows first: [W][rows]
    both = [resize_line(row, scale, top) for row in zip(*high)]         # [rows][columns]
    return np.array([[float(v) for v in row] for row in both]).astype(image.dtype)


def luma(rgb):
    return np.array([[16 + (65.481 * float(r) + 128.553 * float(g) + 24.966 * float(b)) / 255 for r, g, b in row]
                     for row in rgb])


def planes(picture, channel):
    if picture.ndim == 2:
        return [picture.astype(float)]
    return [luma(picture)] if channel == 'y' else [picture[:, :, c].astype(float) for c in range(3)]


def psnr(sr, hr, border, channel):
    errors = [(float(x) - float(y)) ** 2 for a, b in zip(planes(sr, channel), planes(hr, channel))
              for x, y in zip(crop(a, border).flat, crop(b, border).flat)]
    return 10 * math.log10(255 ** 2 / (math.fsum(errors) / len(errors)))


def ssim(sr, hr, border, channel, sample_covariance=False):
    scores = [ssim_plane(crop(a, border), crop(b, border), sample_covariance)
              for a, b in zip(planes(sr, channel), planes(hr, channel))]
    return math.fsum(scores) / len(scores)


def ssim_plane(a, b, sample_covariance):
    window = np.array([[math.exp(-(i * i + j * j) / (2 * 1.5 ** 2)) for j in range(-5, 6)] for i in range(-5, 6)])
    window /= window.sum()
    unbias = 121 / 120 if sample_covariance else 1
    scores = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            x, y = a[i:i + 11, j:j + 11], b[i:i + 11, j:j + 11]
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy = (window * (x - mx) ** 2).sum() * unbias, (window * (y - my) ** 2).sum() * unbias
            cov = (window * (x - mx) * (y - my)).sum() * unbias
            scores.append((2 * mx * my + 2.55 ** 2) * (2 * cov + 7.65 ** 2)
                          / ((mx ** 2 + my ** 2 + 2.55 ** 2) * (vx + vy + 7.65 ** 2)))
    return math.fsum(scores) / len(scores)


def crop(plane, border):
    return plane[border:plane.shape[0] - border, border:plane.shape[1] - border]


def main():
    from PIL import Image
    sample = np.array(Image.open(Path(__file__).parents[1] / 'sample' / 'chelsea.png'))
    hr = sample[96:168, 120:168]  # an eye of the cat, 72 x 48
    arrays = {'hr': hr, 'hr16': hr[:24, :24, 0].astype(np.uint16) * 257 - hr[:24, :24, 1]}
    for name, scale in SCALES.items():
        source = hr[:24, :16] if scale > 1 else hr
        arrays[name] = imresize(source, scale)
        arrays[f'{name}_16'] = imresize(arrays['hr16'], scale)
    arrays['sr'] = imresize(arrays['X3'], Fraction(3))
    for channel in ('y', 'rgb'):
        arrays[f'psnr_{channel}'] = psnr(arrays['sr'], hr, 3, channel)
        arrays[f'ssim_{channel}'] = ssim(arrays['sr'], hr, 3, channel)
        arrays[f'ssim_{channel}_sample'] = ssim(arrays['sr'], hr, 3, channel, sample_covariance=True)
    np.savez_compressed(str(GOLDEN), **arrays)


if __name__ == '__main__':
    main()
