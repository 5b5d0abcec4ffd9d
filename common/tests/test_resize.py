"""common.resize against MATLAB's own pictures, against exact fractions, and its laws."""
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import slow_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.images import read
from common.resize import imresize, mod_crop

SET5 = Path(__file__).resolve().parents[3] / 'shared' / 'benchmark' / 'Set5'
FACTORS = [Fraction(1, n) for n in (2, 3, 4, 5, 6, 8)] + [Fraction(n) for n in (2, 3, 4, 8)]
FACTORS += [Fraction(2, 3), Fraction(3, 4), Fraction(3, 2), Fraction(5, 3), Fraction(7, 5)]
pictures = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(np.uint8, shape))


@pytest.fixture(scope='module')
def golden():
    with np.load(str(slow_reference.GOLDEN)) as file:
        return dict(file)


@pytest.mark.skipif(not SET5.is_dir(), reason='the benchmark pictures are not beside this checkout')
@pytest.mark.parametrize('factor', [2, 3, 4])
@pytest.mark.parametrize('name', ['baby', 'bird', 'butterfly', 'head', 'woman'])
def test_set5_is_matlabs_bit_for_bit(name, factor):
    hr = mod_crop(read(SET5 / 'HR' / f'{name}.png', channels=3), factor)
    lr, = (SET5 / 'LR_bicubic' / f'X{factor}').glob(f'{name}*.png')
    np.testing.assert_array_equal(imresize(hr, 1 / factor), read(lr, channels=3))


@pytest.mark.parametrize('name', sorted(slow_reference.SCALES))
def test_golden_crop(golden, name):
    scale = slow_reference.SCALES[name]
    source = golden['hr'][:24, :16] if scale > 1 else golden['hr']
    np.testing.assert_array_equal(imresize(source, float(scale)), golden[name])
    result = imresize(golden['hr16'], float(scale))
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, golden[name + '_16'])


@settings(deadline=None, max_examples=60)
@given(pictures, st.sampled_from(FACTORS))
def test_equals_exact_fractions(picture, scale):
    np.testing.assert_array_equal(imresize(picture, float(scale)), slow_reference.imresize(picture, scale))


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-12), (np.float32, 2e-6)])
@pytest.mark.parametrize('scale', [Fraction(1, 3), Fraction(5, 2)])
def test_floats_are_neither_rounded_nor_clamped(dtype, tolerance, scale):
    picture = np.random.default_rng(0).choice([-2.5, 0.1, 300.0], size=(9, 7, 2)).astype(dtype)
    result = imresize(picture, float(scale))
    assert result.dtype == dtype
    assert result.min() < -2.5 or result.max() > 300 or scale < 1  # overshoot stays
    np.testing.assert_allclose(result, slow_reference.imresize(picture, scale), rtol=0, atol=300 * tolerance)


def test_exact_halves_round_up():
    # Weights of n/4096 (x4) times 64 end in halves often; the order of the sum must not decide them.
    picture = np.random.default_rng(1).integers(0, 2, (64, 48)).astype(np.uint8) * np.uint8(64)
    for scale in (Fraction(1, 2), Fraction(1, 4), Fraction(1, 6)):
        np.testing.assert_array_equal(imresize(picture, float(scale)), slow_reference.imresize(picture, scale))


@settings(deadline=None, max_examples=60)
@given(pictures, st.sampled_from([2, 3, 4, 6]), st.booleans())
def test_mirroring_commutes(picture, factor, enlarge):
    picture = picture if enlarge else np.kron(picture, np.ones((factor, factor), np.uint8)) // 3
    scale = factor if enlarge else 1 / factor
    expected = imresize(picture, scale)
    np.testing.assert_array_equal(imresize(picture[::-1], scale)[::-1], expected)
    np.testing.assert_array_equal(imresize(picture[:, ::-1], scale)[:, ::-1], expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 255), st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 6))
def test_constant_stays_constant(value, height, width, scale):
    result = imresize(np.full((height, width, 3), value, np.uint8), scale)
    assert (result == value).all()


def test_channels_are_independent_and_blocks_leave_no_seam():
    picture = np.random.default_rng(2).integers(0, 256, (40, 9000, 2)).astype(np.uint8)  # wider than one block
    whole = imresize(picture, 1 / 4)
    np.testing.assert_array_equal(whole[:, :, 1], imresize(picture[:, :, 1], 1 / 4))
    np.testing.assert_array_equal(whole[:, 1000:1250], imresize(picture[:, 3600:5400], 1 / 4)[:, 100:350])


def test_output_size_is_the_ceiling_without_rounding_noise():
    for factor in (3, 6, 7, 10, 49):
        for length in range(factor, 2000, 11 * factor):
            picture = np.zeros((length, length + 1), np.uint8)
            assert imresize(picture, 1 / factor).shape == (length // factor, length // factor + 1)


def test_scale_one_is_the_picture_and_the_input_is_untouched():
    picture = np.random.default_rng(3).integers(0, 256, (13, 17, 3)).astype(np.uint8)
    before = picture.copy()
    result = imresize(picture, 1)
    np.testing.assert_array_equal(result, before)
    result[:] = 0
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize('scale', [0, -1, float('nan'), float('inf'), 1e-9])
def test_impossible_scale(scale):
    with pytest.raises(ValueError, match='scale'):
        imresize(np.zeros((8, 8), np.uint8), scale)


@pytest.mark.parametrize('image', [np.zeros((4, 4), bool), np.zeros((4, 4), np.int64), np.zeros((4, 4), np.float16),
                                   np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8), np.zeros((2, 2, 2, 2), np.uint8)])
def test_impossible_image(image):
    with pytest.raises(ValueError, match=r'expected.*\bu?int8|\[H,W\]'):
        imresize(image, 0.5)


def test_mod_crop():
    picture = np.arange(11 * 14).reshape(11, 14)
    np.testing.assert_array_equal(mod_crop(picture, 4), picture[:8, :12])
    assert mod_crop(np.zeros((9, 9, 3)), 3).shape == (9, 9, 3)
    for scale in (0, -2, 1.5):
        with pytest.raises(ValueError, match='positive integer'):
            mod_crop(picture, scale)
    with pytest.raises(ValueError, match='smaller than the scale of 12'):
        mod_crop(picture, 12)
