"""common.images: every kind of picture is read as stored, a damaged one never, and writing is all or nothing."""
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import FULL, chunk, exif, interlaced, picture, pillow, png, smooth, tiff
from PIL import Image

from common import encoders, images
from common.images import EXTENSIONS, list_pictures, read, size, to_uint8, write

pytestmark = pytest.mark.filterwarnings('ignore:Corrupt EXIF', 'ignore:Truncated File')  # Pillow's, of TIFF

# What each orientation value asks for, as (row, column) of the stored picture shown at (i, j) of the upright one.
ORIENTATIONS = {
    1: lambda i, j, h, w: (i, j), 2: lambda i, j, h, w: (i, w - 1 - j),
    3: lambda i, j, h, w: (h - 1 - i, w - 1 - j), 4: lambda i, j, h, w: (h - 1 - i, j),
    5: lambda i, j, h, w: (j, i), 6: lambda i, j, h, w: (h - 1 - j, i),
    7: lambda i, j, h, w: (h - 1 - j, w - 1 - i), 8: lambda i, j, h, w: (j, w - 1 - i),
}


def upright(stored, orientation):
    h, w = stored.shape[:2]
    shape = (w, h) if orientation > 4 else (h, w)
    return np.array([[stored[ORIENTATIONS[orientation](i, j, h, w)] for j in range(shape[1])]
                     for i in range(shape[0])])


@pytest.fixture
def put(tmp_path):
    def put(data, name='Bild ü 图.png'):
        path = tmp_path / name
        path.write_bytes(data)
        return path
    return put


def check(path, expected):
    result = read(path)
    assert result.dtype == expected.dtype and result.flags.c_contiguous and result.flags.writeable
    assert min(result.strides) > 0  # torch.from_numpy refuses others
    np.testing.assert_array_equal(result, expected)
    assert size(path) == expected.shape[:2]
    color = read(path, channels=3)
    assert color.shape == expected.shape[:2] + (3,) and color.dtype == np.uint8
    wide = expected.reshape(expected.shape[:2] + (-1,))
    wide = wide[:, :, :3] if wide.shape[2] > 2 else wide[:, :, [0, 0, 0]]
    np.testing.assert_array_equal(color, wide if expected.dtype == np.uint8 else np.rint(wide / 257))


@pytest.mark.parametrize('extension, held', [(extension, held) for extension, (_, held) in encoders.WRITERS.items()])
def test_what_is_written_is_read_back(tmp_path, extension, held):
    for bits in (8, 16):
        for channels in (1, 2, 3, 4):
            path, array = tmp_path / 'new' / 'Bild ü' / f'{bits}{channels}{extension}', picture(bits, channels)
            if (bits, channels) not in held:
                with pytest.raises(ValueError, match=f'does not hold {channels} channel.* {bits} bit; .png'):
                    write(path, array)
            elif extension in ('.jpg', '.jpeg'):
                array = smooth() if channels == 3 else smooth()[:, :, 0]
                write(path, array)
                assert np.abs(read(path).astype(int) - array).max() <= 2 and size(path) == array.shape[:2]
            else:
                write(str(path), array)
                check(path, array)


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('color, channels', [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_kinds(put, bits, color, channels):
    array = picture(bits, channels)
    check(put(png(array, color, bits)), array)


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_png_of_few_bits(put, bits):
    array = np.random.default_rng(0).integers(0, 2 ** bits, (11, 13)).astype(np.uint8)
    gray = array * np.uint8(255 // (2 ** bits - 1))
    check(put(png(array, 0, bits)), gray)
    clear = chunk(b'tRNS', struct.pack('>H', 1))
    check(put(png(array, 0, bits, clear)), np.dstack([gray, np.where(array == 1, 0, 255).astype(np.uint8)]))


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('color, channels', [(0, 1), (2, 3)])
def test_png_transparent_color_becomes_alpha(put, bits, color, channels):
    array = picture(bits, channels)
    array[5, :7] = array[2, 3]
    opaque = (array.reshape(19, 23, -1) != array[2, 3]).any(axis=2)
    clear = chunk(b'tRNS', np.atleast_1d(array[2, 3]).astype('>u2').tobytes())
    check(put(png(array, color, bits, clear)), np.dstack([array, (opaque * FULL[bits]).astype(array.dtype)]))


@pytest.mark.parametrize('alpha', [None, b'\x00', b'\x80\xff\x07'])
def test_palette_becomes_rgb_or_rgba(put, alpha):
    colors = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    index = picture(8, 1) % 8
    extra = chunk(b'PLTE', colors.tobytes()) + (chunk(b'tRNS', alpha) if alpha else b'')
    levels = np.frombuffer((alpha or b'').ljust(256, b'\xff'), np.uint8)
    check(put(png(index, 3, 8, extra)), np.dstack([colors[index], levels[index]]) if alpha else colors[index])


@pytest.mark.parametrize('bits', [8, 16])
def test_interlaced_png(put, bits):
    array = picture(bits, 3)
    check(put(interlaced(array)), array)


def test_other_kinds(put):
    array = picture(8, 3)
    check(put(pillow(array, 'BMP'), 'named.png'), array)  # what is inside counts, not the name
    check(put(pillow(array, 'TIFF', compression='tiff_deflate')), array)
    check(put(pillow(array, 'PNG')[:-12] + chunk(b'tEXt', b'note\0kept') + chunk(b'IEND', b'')), array)
    bright = array[:, :, 0] > 127
    check(put(pillow(Image.fromarray(bright), 'TIFF')), np.where(bright, 255, 0).astype(np.uint8))
    first, second = Image.fromarray(array), Image.fromarray(array[::-1].copy())
    for form in ('TIFF', 'PNG'):
        check(put(pillow(first, form, save_all=True, append_images=[second])), array)
    moving = put(pillow(first, 'WEBP', save_all=True, append_images=[second], lossless=True))
    np.testing.assert_array_equal(read(moving, channels=3), array)


def test_cmyk_jpeg_becomes_rgb(put):
    path = put(pillow(Image.fromarray(smooth()).convert('CMYK'), 'JPEG', quality=100, subsampling=0))
    assert np.abs(read(path).astype(int) - smooth()).max() <= 4


@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation(put, orientation):
    array, deep = picture(8, 3), picture(16, 3)
    tag = chunk(b'eXIf', exif(orientation)[6:])
    check(put(png(array, 2, 8, extra=tag)), upright(array, orientation))
    check(put(png(deep, 2, 16, after=tag)), upright(deep, orientation))
    check(put(png(array[:, :1].copy(), 2, 8, extra=tag)), upright(array[:, :1], orientation))
    check(put(pillow(array, 'WEBP', lossless=True, exif=exif(orientation))), upright(array, orientation))
    for stored in (array, deep, array[:, :, 0].copy(), deep[:, :, 0].copy()):
        check(put(tiff(stored, orientation)), upright(stored, orientation))
    path = put(pillow(smooth(), 'JPEG', quality=95, subsampling=0, exif=exif(orientation)))
    want = upright(smooth(), orientation)
    assert size(path) == want.shape[:2]
    assert np.abs(read(path).astype(int) - want).max() <= 2


def test_unreadable_exif_leaves_the_picture_as_it_is(put):
    for body in (b'junk', exif(6)[6:16], exif(6)[6:].replace(struct.pack('>H', 6), struct.pack('>H', 77))):
        check(put(png(picture(8, 3), 2, 8, chunk(b'eXIf', body))), picture(8, 3))


WHOLE = {
    'png': png(picture(8, 3), 2, 8), 'png 16': png(picture(16, 3), 2, 16), 'tiff': tiff(picture(8, 3)),
    'tiff 16': tiff(picture(16, 3)), 'bmp': pillow(picture(8, 3), 'BMP'), 'jpeg': pillow(picture(8, 3), 'JPEG'),
    'webp': pillow(picture(8, 3), 'WEBP'), 'lzw': pillow(picture(8, 3), 'TIFF', compression='tiff_lzw'),
    'progressive': pillow(picture(8, 3), 'JPEG', progressive=True),
    'tiff 16 lzw': cv2.imencode('.tiff', picture(16, 3))[1].tobytes(),
}


@pytest.mark.parametrize('name', sorted(WHOLE))
def test_cut_short_raises_with_the_name(put, name):
    data = WHOLE[name]
    assert read(put(data)).shape == (19, 23, 3)
    for part in (0, 1, 7, len(data) // 10, len(data) // 3, len(data) // 2, len(data) * 9 // 10, len(data) - 20):
        path = put(data[:part], 'gekürzt.png')
        with pytest.raises(ValueError, match='gekürzt.png: cannot be read'):
            read(path)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6))
def test_damage_is_a_value_error_and_nothing_else(tmp_path_factory, name, changes):
    data = bytearray(WHOLE[name])
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / 'damaged.png'
    path.write_bytes(bytes(data))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's remarks on odd TIFF tags
        try:
            result = read(path, pixel_limit=10 ** 6)
        except ValueError as error:
            assert 'damaged.png: ' in str(error)
        else:
            assert result.dtype in (np.uint8, np.uint16) and result.shape[0] * result.shape[1] <= 10 ** 6


def test_pixel_limit_is_ours(put):
    path = put(png(picture(8, 3), 2, 8))
    assert read(path, pixel_limit=19 * 23).shape == (19, 23, 3)
    with pytest.raises(ValueError, match='23 x 19 pixels are more than the limit of 436'):
        read(path, pixel_limit=19 * 23 - 1)
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', 20000, 10000, 1, 0, 0, 0, 0))
    bomb = b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(2501 * 10000), 1)) + chunk(b'IEND', b'')
    path = put(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # Pillow would warn from 89 and refuse from 179 million pixels
        assert size(path) == (10000, 20000)
        assert read(path).shape == (10000, 20000)
        with pytest.raises(ValueError, match='limit of 199999999'):
            read(path, pixel_limit=199_999_999)


@pytest.mark.parametrize('array, sample_format, message', [
    (np.zeros((4, 5), np.float32), 3, '32 bits per channel, signed or float; unsigned 8 and 16 bit are read'),
    (np.zeros((4, 5), np.uint32), 1, '32 bits per channel'), (np.zeros((4, 5), np.int16), 2, 'signed'),
    (np.zeros((4, 5, 3), np.float32), 3, 'cannot be read')])
def test_depths_that_are_not_read(put, array, sample_format, message):
    with pytest.raises(ValueError, match=message):
        read(put(tiff(array, sample_format=sample_format)))


def test_16_bit_tiff_that_opencv_would_mix_up_is_refused(put):
    data = tiff(picture(16, 3), planar=2)
    with pytest.raises(ValueError, match='separate planes'):
        read(put(data))
    with pytest.raises(ValueError, match='cannot be read'):
        read(put(tiff(picture(16, 3), photometric=6)))


def test_what_is_no_picture(tmp_path, put):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'missing.png')
    with pytest.raises(FileNotFoundError):
        size(tmp_path / 'missing.png')
    for function in (read, size):
        with pytest.raises(ValueError, match='it is a folder'):
            function(tmp_path)
        with pytest.raises(ValueError, match='the file is empty'):
            function(put(b''))
        with pytest.raises(ValueError, match='Bild ü 图.png: .*not a PNG, JPEG, BMP, TIFF, WebP or GIF'):
            function(put(b'%PDF-1.4' + bytes(50)))
        with pytest.raises(ValueError, match='Bild ü 图.png: cannot be read'):
            function(put(b'GIF89a' + bytes(50)))
    with pytest.raises(ValueError, match='channels=1'):
        read(put(WHOLE['png']), channels=1)


def test_size_reads_the_header_only(put):
    for name in ('png', 'jpeg', 'bmp'):
        assert size(put(WHOLE[name][:-40])) == (19, 23)


def test_write_refuses_what_it_cannot_hold(tmp_path):
    good = picture(8, 3)
    for array in (good.astype(np.float32), good > 3, good[None], good[:0], np.zeros((4, 4, 5), np.uint8), np.uint8(3)):
        with pytest.raises(ValueError, match='x.png: cannot write'):
            write(tmp_path / 'x.png', array)
    for name in ('x.gif', 'x'):
        with pytest.raises(ValueError, match='none of .png'):
            write(tmp_path / name, good)
    with pytest.raises(ValueError, match='x.webp: cannot be written'):
        write(tmp_path / 'x.webp', np.zeros((1, 20000, 3), np.uint8))  # WebP ends at 16383
    assert os.listdir(str(tmp_path)) == []


def test_write_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'x.PNG'
    write(path, picture(8, 3)[:, :, :1])
    np.testing.assert_array_equal(read(path), picture(8, 3)[:, :, 0])
    before = path.read_bytes()

    def refuse(source, target):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(images.os, 'replace', refuse)
        with pytest.raises(KeyboardInterrupt):
            write(path, picture(8, 4))
    assert path.read_bytes() == before and os.listdir(str(tmp_path)) == ['x.PNG']
    write(path, picture(8, 4)[::2, ::-1])  # replaced whole, from an array that is not contiguous
    np.testing.assert_array_equal(read(path), picture(8, 4)[::2, ::-1])


def test_write_keeps_links_and_spares_what_is_no_file(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'link.png').symlink_to(tmp_path / 'disk' / 'real.dat')
    write(tmp_path / 'link.png', picture(8, 3))
    assert (tmp_path / 'link.png').is_symlink() and os.listdir(str(tmp_path / 'disk')) == ['real.dat']
    np.testing.assert_array_equal(read(tmp_path / 'link.png'), picture(8, 3))
    os.mkfifo(str(tmp_path / 'pipe.png'))
    with pytest.raises(ValueError, match='pipe.png: is a pipe'):
        write(tmp_path / 'pipe.png', picture(8, 3))
    assert (tmp_path / 'pipe.png').is_fifo()


def test_a_full_disk_names_the_picture(tmp_path):
    program = ('import resource, sys\nimport numpy as np\nfrom common import cli, images\n'
               'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
               'noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)\n'
               'cli.run(lambda: images.write(sys.argv[1], noise))\n')
    done = subprocess.run([sys.executable, '-c', program, str(tmp_path / 'x.png')], stderr=subprocess.PIPE, text=True,
                          env=dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[2])), timeout=60)
    assert (done.returncode, done.stderr) == (2, f'error: {tmp_path / "x.png"}: File too large\n')
    assert os.listdir(str(tmp_path)) == []


def test_png_is_valid_for_other_readers(tmp_path):
    for bits, channels in ((8, 1), (8, 3), (8, 4), (16, 1), (16, 3), (16, 4)):
        array = picture(bits, channels)
        write(tmp_path / 'x.png', array)
        theirs = cv2.imread(str(tmp_path / 'x.png'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(theirs if channels == 1 else theirs[:, :, [2, 1, 0, 3][:channels]], array)
    with Image.open(str(tmp_path / 'x.png')) as opened:
        opened.verify()


def test_list_pictures(tmp_path):
    for name in ('b.PNG', 'a.jpeg', 'c.TIF', '.hidden.png', 'notes.txt', 'ü.webp'):
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'folder.png').mkdir()
    assert [path.name for path in list_pictures(str(tmp_path))] == ['a.jpeg', 'b.PNG', 'c.TIF', 'ü.webp']
    assert {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp'} == set(EXTENSIONS) == set(encoders.WRITERS)


def test_to_uint8():
    values = np.array([[-3.2, -0.5, 0.5, 1.5, 2.5, 254.49, 254.51, 255.5, 1e9]], np.float32)
    result = to_uint8(values)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, [[0, 0, 0, 2, 2, 254, 255, 255, 255]])
