"""Encoders of the picture formats that common.images writes. BMP and TIFF of 16 bit leave the ICC profile out."""
import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'


def _png(image, profile):
    """The PNG file of [H,W] or [H,W,1..4], uint8 or uint16: Pillow and OpenCV lack gray and alpha of 16 bit.

    Every row has filter 3 (average of left and above): files as small as those of the libraries, sooner.
    """
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    pixel = channels * image.dtype.itemsize  # bytes
    raw = image.astype(image.dtype.newbyteorder('>')).reshape(height, -1).view(np.uint8)  # [H, W*pixel]
    around = np.zeros(raw.shape, np.uint16)
    around[:, pixel:] += raw[:, :-pixel]
    around[1:] += raw[:-1]
    rows = np.full((height, width * pixel + 1), 3, np.uint8)
    np.subtract(raw, (around >> 1).astype(np.uint8), out=rows[:, 1:])
    header = struct.pack('>IIBBBBB', width, height, image.dtype.itemsize * 8, (0, 4, 2, 6)[channels - 1], 0, 0, 0)
    colours = [(b'iCCP', b'ICC profile\0\0' + zlib.compress(profile))] if profile else []
    parts = [PNG_SIGNATURE]
    for kind, body in ((b'IHDR', header), *colours, (b'IDAT', zlib.compress(rows.tobytes(), 3)), (b'IEND', b'')):
        parts += [struct.pack('>I', len(body)), kind, body, struct.pack('>I', zlib.crc32(kind + body))]
    return b''.join(parts)


def _by_pillow(form, **options):
    def encode(image, profile):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, form, icc_profile=profile, **options)
        return stream.getvalue()
    return encode


def _tiff(image, profile):
    if image.dtype == np.uint8:
        return _by_pillow('TIFF', compression='tiff_lzw')(image, profile)
    swapped = image if image.ndim == 2 else image[:, :, [2, 1, 0, 3][:image.shape[2]]]
    return cv2.imencode('.tiff', np.ascontiguousarray(swapped))[1].tobytes()


# extension: (encoder of an image and its ICC profile or None, the pairs of bits and channels that it holds)
_JPEG = (_by_pillow('JPEG', quality=95, subsampling=0), {(8, 1), (8, 3)})
_TIFF = (_tiff, {(8, 1), (8, 2), (8, 3), (8, 4), (16, 1), (16, 3), (16, 4)})
WRITERS = {
    '.png': (_png, {(bits, channels) for bits in (8, 16) for channels in (1, 2, 3, 4)}),
    '.jpg': _JPEG,
    '.jpeg': _JPEG,
    '.bmp': (_by_pillow('BMP'), {(8, 1), (8, 3)}),
    '.tif': _TIFF,
    '.tiff': _TIFF,
    '.webp': (_by_pillow('WEBP', lossless=True, exact=True, method=1, quality=20), {(8, 3), (8, 4)}),
}
