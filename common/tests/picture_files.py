"""Picture files of every kind, made byte by byte where no library writes them; for test_images.py."""
import io
import struct
import zlib

import numpy as np
from PIL import Image

FULL = {8: 255, 16: 65535}


def picture(bits, channels, height=19, width=23, seed=0):
    values = np.random.default_rng(seed).integers(0, FULL[bits] + 1, (height, width, channels))
    return np.squeeze(values, 2).astype(f'u{bits // 8}') if channels == 1 else values.astype(f'u{bits // 8}')


def smooth(height=48, width=64):
    """RGB without detail: JPEG keeps it to within two levels."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([3 * x, 4 * y, 60 + x + y]).astype(np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def chunk(kind, body):
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))


def png(array, color, bits, extra=b'', after=b''):
    """A PNG file of the plainest sort; `extra` chunks stand before the pixels, `after` behind them."""
    height, width = array.shape[:2]
    if bits < 8:
        shifts = np.arange(8 - bits, -1, -bits)
        padded = np.pad(array, ((0, 0), (0, -width % len(shifts))))
        rows = (padded.reshape(height, -1, len(shifts)) << shifts).sum(2).astype(np.uint8)
    else:
        rows = array.astype(f'>u{bits // 8}').reshape(height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (1, 0)))
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, color, 0, 0, 0))
    pixels = chunk(b'IDAT', zlib.compress(rows.tobytes()))
    return b'\x89PNG\r\n\x1a\n' + header + extra + pixels + after + chunk(b'IEND', b'')


def tiff(array, orientation=1, sample_format=1, photometric=None, planar=1):
    """An uncompressed little-endian TIFF of any dtype, [H,W] or [H,W,3]."""
    height, width = array.shape[:2]
    channels = array.shape[2] if array.ndim == 3 else 1
    data, bits = array.tobytes(), array.dtype.itemsize * 8
    photometric = {1: 1, 3: 2}[channels] if photometric is None else photometric
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 0),
            (274, 3, orientation), (277, 3, channels), (278, 4, height), (279, 4, len(data)),
            (284, 3, planar), (339, 3, sample_format)]
    tail = 8 + 2 + 12 * len(tags) + 4
    arrays = {258: (tail, bits), 339: (tail + 8, sample_format)}
    entries = b''
    for tag, kind, value in tags:
        many = channels > 1 and tag in arrays
        value = tail + 16 if tag == 273 else arrays[tag][0] if many else value
        entries += struct.pack('<HHII', tag, kind, channels if many else 1, value)
    values = b''.join(struct.pack('<4H', *[arrays[tag][1]] * 4) for tag in (258, 339))
    return b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + struct.pack('<I', 0) + values + data


def pillow(array, form, mode=None, **options):
    stream = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array, mode)).save(stream, form, **options)
    return stream.getvalue()


def interlaced(array):
    """The seven passes of Adam7, each row with filter 0."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b''
    for top, left, down, right in passes:
        part = array[top::down, left::right]
        rows += b''.join(b'\0' + row.astype(array.dtype.newbyteorder('>')).tobytes() for row in part if row.size)
    height, width = array.shape[:2]
    header = struct.pack('>IIBBBBB', width, height, array.dtype.itemsize * 8, 2, 0, 0, 1)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(rows))
            + chunk(b'IEND', b''))
