"""PSNR and SSIM as the super-resolution papers give them, equal to MATLAB's.

    psnr(sr, hr, crop_border=scale, channel='y')   # dB
    ssim(sr, hr, crop_border=scale, channel='y')   # -1..1

A score means nothing without its protocol, so `crop_border` and `channel` have no default.
"""
import cv2
import numpy as np

_WINDOW = 11  # pixels, SSIM's Gaussian of sigma 1.5
_BAND = 64    # rows of the SSIM map made at a time, so that its planes stay in a core's cache


def luma(rgb):
    """BT.601 studio-swing Y, float64 [H,W] in 16..235, of RGB [H,W,3] in 0..255: MATLAB's rgb2ycbcr, not rounded."""
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f'luma: shape {rgb.shape}; expected RGB [H,W,3]')
    return rgb @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def psnr(sr, hr, *, crop_border, channel):
    """Peak signal-to-noise ratio in dB (peak 255) of `sr` against `hr`; inf when they are equal.

    sr, hr: [H,W,3] RGB or [H,W] gray, uint8 or float, 0..255. `crop_border` pixels are left out on every side.
    channel: 'y' compares `luma`, 'rgb' all three channels at once; a gray picture is its own only channel in both.
    Raises ValueError when shapes differ, nothing is left inside the border, or an argument is none of these.
    """
    sr, hr = _planes(sr, hr, crop_border, channel, smallest=1)
    squares = np.mean([np.mean(np.square(a - b)) for a, b in zip(sr, hr)])
    return float(10 * np.log10(255.0 ** 2 / squares)) if squares else float('inf')


def ssim(sr, hr, *, crop_border, channel, sample_covariance=False):
    """Structural similarity (Wang et al. 2004) of `sr` and `hr`, arguments and errors as in `psnr`.

    11x11 Gaussian window of sigma 1.5, positions where it lies wholly inside, C1 = (0.01*255)^2, C2 = (0.03*255)^2;
    channel 'rgb' is the mean over the three. sample_covariance=True multiplies (co)variances by 121/120, as
    scikit-image does (the released RCAN port's SSIM).
    """
    pairs = zip(*_planes(sr, hr, crop_border, channel, smallest=_WINDOW))
    unbias = 121 / 120 if sample_covariance else 1.0
    return float(np.mean([_ssim_plane(a, b, unbias) for a, b in pairs]))


def _planes(sr, hr, crop_border, channel, smallest):
    """The planes to compare, two lists of float64 [H,W] without the border."""
    sr, hr = np.asarray(sr), np.asarray(hr)
    if sr.shape != hr.shape:
        raise ValueError(f'sr of shape {sr.shape} against hr of shape {hr.shape}; expected equal shapes')
    if sr.ndim != 2 and not (sr.ndim == 3 and sr.shape[2] == 3):
        raise ValueError(f'pictures of shape {sr.shape}; expected RGB [H,W,3] or gray [H,W]')
    for picture in (sr, hr):
        if picture.dtype != np.uint8 and picture.dtype.kind != 'f':
            raise ValueError(f'pictures of dtype {picture.dtype}; expected uint8 or float in 0..255')
    if channel not in ('y', 'rgb'):
        raise ValueError(f"channel {channel!r}; known: 'y', 'rgb'")
    if crop_border != int(crop_border) or crop_border < 0:
        raise ValueError(f'crop_border {crop_border!r}; expected a whole number of pixels, 0 or more')
    border, (height, width) = int(crop_border), sr.shape[:2]
    if min(height, width) - 2 * border < smallest:
        raise ValueError(f'a picture of {height}x{width} pixels without a border of {border} is '
                         f'{height - 2 * border}x{width - 2 * border}; expected at least {smallest}x{smallest}')
    inside = (slice(border, height - border), slice(border, width - border))
    return _split(sr[inside], channel), _split(hr[inside], channel)


def _split(picture, channel):
    if picture.ndim == 2:
        return [picture.astype(np.float64)]
    if channel == 'y':
        return [luma(picture)]
    return list(np.ascontiguousarray(np.moveaxis(picture, 2, 0), dtype=np.float64))


def _ssim_plane(a, b, unbias):
    """Mean of the SSIM map, [H-10,W-10], of two float64 planes [H,W]."""
    margin = _WINDOW // 2
    taps = np.exp(-0.5 * (np.arange(-margin, margin + 1) / 1.5) ** 2)
    taps /= taps.sum()
    total = 0.0
    rows = a.shape[0] - 2 * margin
    for top in range(0, rows, _BAND):
        band = slice(top, min(top + _BAND, rows) + 2 * margin)
        total += _ssim_map(a[band], b[band], taps, unbias).sum()
    return total / (rows * (a.shape[1] - 2 * margin))


def _ssim_map(a, b, taps, unbias):
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    margin = len(taps) // 2

    def mean(x):
        return cv2.sepFilter2D(x, cv2.CV_64F, taps, taps)[margin:-margin, margin:-margin]

    mean_a, mean_b = mean(a), mean(b)
    squares = mean_a * mean_a + mean_b * mean_b
    products = mean_a * mean_b
    variances = (mean(a * a + b * b) - squares) * unbias  # the sum of both variances
    covariance = (mean(a * b) - products) * unbias
    return (2 * products + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
