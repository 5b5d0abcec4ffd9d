"""common.images: ICC colour profiles go from file to file, where they fit the colours of the pixels."""
import io

import numpy as np
import pytest
from picture_files import picture, pillow, smooth
from PIL import Image

from common import encoders, images


def icc(colours):
    """A header like that of an ICC profile, with 100 kB behind it: JPEG must cut it in two."""
    return bytes(16) + colours + bytes(108) + np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize('extension, bits, channels', [
    (extension, *kind) for extension, (_, held) in encoders.WRITERS.items() for kind in held])
def test_colour_profiles_are_kept(tmp_path, extension, bits, channels):
    path, array = tmp_path / ('x' + extension), picture(bits, channels)
    own, other = (icc(b'GRAY'), icc(b'RGB '))[::1 if channels < 3 else -1]
    images.write(path, array, own)
    holds = extension != '.bmp' and not (bits == 16 and extension.startswith('.tif'))
    assert images.profile(path) == (own if holds else None)
    assert images.read(path).shape == array.shape[:2] + ((channels,) if channels > 1 else ())
    images.write(path, array, other)  # of other colours than the pixels
    assert images.profile(path) is None
    images.write(path, array)
    assert images.profile(path) is None


def test_the_profile_of_cmyk_is_not_for_the_rgb_made_of_it(tmp_path):
    path = tmp_path / 'x.jpg'
    path.write_bytes(pillow(smooth(), 'JPEG', icc_profile=icc(b'CMYK')))
    assert images.profile(path) is None
    stream = io.BytesIO()
    Image.fromarray(smooth()).convert('CMYK').save(stream, 'JPEG', icc_profile=icc(b'RGB '))
    path.write_bytes(stream.getvalue())
    assert images.profile(path) is None
