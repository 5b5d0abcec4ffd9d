"""Pictures in and out: every 8- and 16-bit PNG, JPEG, BMP, TIFF and WebP, whole or not at all.

    picture = read('photo.png')             # uint8 or uint16; [H,W], [H,W,2], [H,W,3] or [H,W,4]
    write('photo_x2.png', to_uint8(sr))     # the old file stays until the new one is complete

The file's first bytes, not its name, say how to read it; of several pages or frames the first is taken.
GIF is read, not written.
"""
import contextlib
import io
import os
import struct
import uuid
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from common import files
from common.encoders import PNG_SIGNATURE, WRITERS

PIXEL_LIMIT = 200_000_000  # pixels; a forged header must not make us allocate all memory
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')

# Pillow's readers are called by name: Image.open would apply Pillow's own pixel limit and accept fifty other formats.
_READERS = {
    PNG_SIGNATURE: PngImagePlugin.PngImageFile,
    b'\xff\xd8\xff': JpegImagePlugin.JpegImageFile,
    b'BM': BmpImagePlugin.BmpImageFile,
    b'II*\0': TiffImagePlugin.TiffImageFile,
    b'MM\0*': TiffImagePlugin.TiffImageFile,
    b'RIFF': WebPImagePlugin.WebPImageFile,
    b'GIF8': GifImagePlugin.GifImageFile,
}
_ORIENTATION = 0x0112
_MODES = {'1': 'L', 'L': 'L', 'LA': 'LA', 'La': 'LA', 'RGBA': 'RGBA', 'RGBa': 'RGBA', 'PA': 'RGBA'}  # others: RGB


def read(path, *, channels=None, pixel_limit=PIXEL_LIMIT):
    """The picture in file `path`, upright: uint8 or uint16, 0..255 or 0..65535, as stored.

    [H,W] gray, [H,W,2] gray and alpha, [H,W,3] RGB, [H,W,4] RGB and alpha. A palette becomes RGB(A), CMYK RGB, and
    1-bit gray 0 or 255; EXIF orientation is applied. channels=3 gives RGB uint8 [H,W,3] whatever is stored: alpha
    dropped, gray repeated, 16 bit divided by 257 and rounded.
    Raises FileNotFoundError for a missing file, ValueError naming the file when it is no picture, damaged, cut short,
    neither 8- nor 16-bit, or has more than `pixel_limit` pixels.
    """
    if channels not in (None, 3):
        raise ValueError(f'channels={channels!r}; known: None (as stored) and 3 (RGB uint8)')
    with _naming(path):
        data = Path(path).read_bytes()
        picture, (height, width), orientation = _open(io.BytesIO(data))
        if height * width > pixel_limit:
            raise ValueError(f'{width} x {height} pixels are more than the limit of {pixel_limit}; '
                             f'make it smaller or raise pixel_limit')
        array = _upright(_decode(picture, data), orientation)
    return _rgb8(array) if channels == 3 else array


def size(path):
    """(height, width) in pixels of the upright picture in file `path`, from its header alone. Errors as in `read`."""
    with _naming(path), open(path, 'rb') as stream:
        return _open(stream)[1]


def is_still_gif(path):
    """Whether file `path` is a GIF of one frame: `read` takes it, while one of several frames is a video."""
    with open(path, 'rb') as stream:
        if stream.read(4) != b'GIF8':
            return False
        stream.seek(0)
        with _naming(path):
            return not GifImagePlugin.GifImageFile(stream).is_animated


def profile(path):
    """The ICC colour profile of picture `path`, bytes, or None: also where it is of other colours than `read` gives.

    Errors as in `read`.
    """
    with _naming(path), open(path, 'rb') as stream:
        picture = _open(stream)[0]
        stored = picture.info.get('icc_profile')
        stream.seek(25)  # Pillow's mode of a PNG of gray and alpha, 16 bit, is RGBA
        gray = stream.read(1) in b'\0\4' if picture.format == 'PNG' else picture.mode[0] in '1LI'
        colours = b'GRAY' if gray else b'RGB '  # ICC.1:2010, 7.2.6
        return stored if stored and picture.mode != 'CMYK' and stored[16:20] == colours else None


def write(path, image, profile=None):
    """Write `image`, uint8 or uint16, [H,W] or [H,W,C] in the channel order of `read`, in the format of the extension.

    .png holds 1 to 4 channels of 8 or 16 bit; .tif and .tiff too, save gray and alpha of 16 bit; .jpg and .jpeg
    (quality 95, no chroma subsampling) and .bmp gray or RGB of 8 bit; .webp (lossless) RGB or RGBA of 8 bit.
    profile: ICC colour profile to be kept with it; .bmp and 16-bit TIFF hold none.
    Folders are made as needed. A reader never sees a half-written file: it is written beside `path`, then renamed.
    Of a link, the file that it leads to is replaced. Raises ValueError for what the format cannot hold and for a path
    where no file but a folder, pipe or device is; OSError naming the path when the disk refuses.
    """
    image = np.asarray(image)
    encode = encoder(path, image)
    with _naming(path, 'written'):
        data = encode(np.ascontiguousarray(image[:, :, 0] if image.shape[2:] == (1,) else image), profile)
    _replace(path, data)


def encoder(path, image):
    """The function that encodes `image`, and others of its dtype and channels, for `path`; ValueError as in `write`.

    Called before hours of upscaling, it tells at once that their result could not be kept.
    """
    extension = Path(path).suffix.lower()
    if extension not in WRITERS:
        raise ValueError(f'{path}: extension {Path(path).suffix!r} is none of {", ".join(EXTENSIONS)}')
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or not image.size or channels > 4:
        raise ValueError(f'{path}: cannot write {image.dtype} of shape {image.shape}; expected uint8 or uint16, [H,W] '
                         f'or [H,W,1..4] (common.images.to_uint8 rounds floats)')
    files.destination(path)
    encode, held = WRITERS[extension]
    kind = (image.dtype.itemsize * 8, channels)
    if kind not in held:
        raise ValueError(f'{path}: {extension} does not hold {kind[1]} channel(s) of {kind[0]} bit; .png does')
    return encode


def list_pictures(folder):
    """Sorted paths of the pictures in `folder`, by extension in any case; hidden files and subfolders are left out.

    A link that leads nowhere is a picture that is missing: it stays, so that reading it names it.
    """
    return sorted(path for path in Path(folder).iterdir()
                  if path.suffix.lower() in EXTENSIONS and not path.name.startswith('.')
                  and (path.is_file() or not path.exists()))


def to_uint8(x):
    """float array of any shape to uint8: rounded (half to even), then clamped to 0..255."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


@contextlib.contextmanager
def _naming(path, what='read'):
    """Turns whatever a decoder raises into a ValueError that names the file; what is no fault of the file passes."""
    try:
        yield
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # Pillow alone raises OSError, SyntaxError, struct.error, zlib.error, KeyError and more
        reason = 'it is a folder' if isinstance(error, IsADirectoryError) else str(error) or type(error).__name__
        raise ValueError(f'{path}: cannot be {what} as a picture: {reason}') from None


def _open(stream):
    """(Pillow picture not yet decoded, upright (height, width), orientation 1..8 still to be applied)."""
    start = stream.read(8)
    reader = next((reader for magic, reader in _READERS.items() if start.startswith(magic)), None)
    if reader is None:
        raise ValueError('the file is empty' if not start else 'not a PNG, JPEG, BMP, TIFF, WebP or GIF file')
    exif = _png_exif(stream) if start.startswith(PNG_SIGNATURE) else None
    stream.seek(0)
    picture = reader(stream)
    if picture.format == 'TIFF':  # both decoders turn TIFF upright; Pillow's `size` says so in some versions only
        width, height = (picture.tag_v2[tag] for tag in (256, 257))
        stored, orientation = picture.tag_v2.get(_ORIENTATION, 1), 1
    else:
        width, height = picture.size
        stored = orientation = _exif_orientation(exif or picture.info.get('exif'))
    return picture, ((width, height) if stored in (5, 6, 7, 8) else (height, width)), orientation


def _png_chunks(stream):
    """(kind, start of the body, length) of the chunks of a PNG file, as far as it goes."""
    position = len(PNG_SIGNATURE)
    while True:
        stream.seek(position)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack('>I4s', head)
        yield kind, position + 8, length
        position += length + 12


def _png_exif(stream):
    """The eXIf chunk wherever it stands (Pillow sees one after the pixels only once they are decoded), or None."""
    for kind, start, length in _png_chunks(stream):
        if kind == b'eXIf':
            stream.seek(start)
            return stream.read(length)
    return None


def _check_png(data):
    """Raises unless all chunks that matter are whole: neither Pillow nor OpenCV looks at the checksum of the pixels."""
    view = memoryview(data)
    for kind, start, length in _png_chunks(io.BytesIO(data)):
        stored = view[start + length:start + length + 4]
        if kind[:1].isupper() and struct.pack('>I', zlib.crc32(view[start - 4:start + length])) != stored:
            raise ValueError(f'its {kind.decode("latin-1")} chunk is damaged or cut short')
        if kind == b'IEND':
            return
    raise ValueError('it is cut short')


def _exif_orientation(exif):
    """1..8; 1 for none, and for EXIF that cannot be read: the pixels are still good."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = tags.get(_ORIENTATION)
    except Exception:  # as in _naming
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(array, orientation):
    if orientation in (2, 3, 7, 8):
        array = array[:, ::-1]
    if orientation in (3, 4, 6, 7):
        array = array[::-1]
    if orientation in (5, 6, 7, 8):
        array = np.swapaxes(array, 0, 1)
    return np.array(array, order='C')  # ascontiguousarray would keep negative strides of sides of length 1


def _decode(picture, data):
    """Pillow decodes all of it, since it raises where OpenCV would give a picture half gray; OpenCV decodes 16 bit."""
    bits = _bits(picture, data)
    if picture.format == 'PNG':
        _check_png(data)
    picture.load()
    if bits == 16:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if array is None or array.dtype != np.uint16:
            raise ValueError('a 16-bit layout that OpenCV cannot decode; convert it to a 16-bit PNG')
        if array.ndim == 3:
            array = array[:, :, [2, 1, 0, 3][:array.shape[2]]]
        if picture.format == 'PNG' and data[25] == 4:  # OpenCV repeats the gray of gray and alpha
            array = array[:, :, [0, 3]]
    else:
        palette = 'RGBA' if 'transparency' in picture.info else 'RGB'
        array = np.array(picture.convert(palette if picture.mode == 'P' else _MODES.get(picture.mode, 'RGB')))
    key = picture.info.get('transparency')
    if key is None or picture.mode == 'P' or array.shape[2:] == (4,):
        return array
    if bits < 8 and picture.mode in ('1', 'L'):  # stored in the file's bits, while Pillow stretches the pixels to 8
        key = 255 * bool(key) if bits == 1 else key * (255 // (2 ** bits - 1))
    opaque = (array.reshape(array.shape[:2] + (-1,)) != key).any(axis=2)
    return np.dstack([array, opaque * array.dtype.type(np.iinfo(array.dtype).max)])


def _bits(picture, data):
    """Bits per channel: 1, 2, 4, 8 or 16; ValueError for others."""
    bits, unsigned = 8, True
    if picture.format == 'PNG':
        bits = data[24]
    elif picture.format == 'TIFF':
        tags = picture.tag_v2
        bits = max(tags.get(258, (1,)))
        unsigned = set(tags.get(339, (1,))) == {1}
        planes = tags.get(284, 1) == 2 and tags.get(277, 1) > 1
        if bits == 16 and (planes or 1 in tags.get(338, ()) or tags.get(262) not in (1, 2)):
            raise ValueError('a 16-bit TIFF in separate planes, with premultiplied alpha, or neither gray (black is '
                             'zero) nor RGB: OpenCV would mix up its pixels; convert it to a 16-bit PNG')
    if bits not in (1, 2, 4, 8, 16) or not unsigned:
        raise ValueError(f'{bits} bits per channel{"" if unsigned else ", signed or float"}; '
                         f'unsigned 8 and 16 bit are read')
    return bits


def _rgb8(array):
    """[H,W,3] uint8 of what `read` gives."""
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    color = array[:, :, :3] if array.shape[2] > 2 else np.repeat(array[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(color)


def _replace(path, data):
    """Put `data` at `path` at once or not at all."""
    place = Path(files.destination(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.parent / f'.{uuid.uuid4().hex}.partial'
    try:
        with files.naming(path):
            beside.write_bytes(data)
            os.replace(str(beside), str(place))
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        raise
