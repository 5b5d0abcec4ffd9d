"""common.metrics against the authors' published scores, against a window-by-window reference, and its laws."""
import json
from pathlib import Path

import numpy as np
import pytest
import slow_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from common.images import read
from common.metrics import luma, psnr, ssim
from common.resize import mod_crop

SHARED = Path(__file__).resolve().parents[3] / 'shared'
SET5 = SHARED / 'benchmark' / 'Set5'
NAMES = ['baby', 'bird', 'butterfly', 'head', 'woman']
beside = pytest.mark.skipif(not SET5.is_dir(), reason='the benchmark pictures are not beside this checkout')


def expected(file, key):
    return json.loads((SHARED / 'golden' / 'metrics' / file).read_text())[key]


def set5_pair(name, scale):
    sr = read(SET5 / 'SR_RCAN' / f'X{scale}' / f'{name}.png', channels=3)
    return sr, mod_crop(read(SET5 / 'HR' / f'{name}.png', channels=3), scale)


@pytest.fixture(scope='module')
def golden():
    with np.load(str(slow_reference.GOLDEN)) as file:
        return dict(file)


@beside
def test_published_set5_scores():
    scores = expected('rcan_set5_expected.json', 'RCAN')
    assert set(scores) >= {'x2', 'x3'}
    for factor, images in scores.items():
        scale = int(factor[1:])
        for name in NAMES:
            sr, hr = set5_pair(name, scale)
            want = images[name]['psnr'], images[name]['ssim']
            got = psnr(sr, hr, crop_border=scale, channel='y'), ssim(sr, hr, crop_border=scale, channel='y')
            assert got == pytest.approx(want, abs=1e-6, rel=0), (factor, name)


@beside
def test_released_port_protocol():
    for factor, images in expected('rcan_port_protocol_expected.json', 'SR_RCAN').items():
        scale = int(factor[1:])
        for name in NAMES:
            sr, hr = set5_pair(name, scale)
            protocol = {'crop_border': scale + 6, 'channel': 'y'}
            got = psnr(sr, hr, **protocol), ssim(sr, hr, sample_covariance=True, **protocol)
            want = images[name]['psnr'], images[name]['ssim']
            assert got == pytest.approx(want, abs=1e-6, rel=0), (factor, name)


@pytest.mark.parametrize('channel', ['y', 'rgb'])
def test_golden_crop(golden, channel):
    sr, hr = golden['sr'], golden['hr']
    protocol = {'crop_border': 3, 'channel': channel}
    got = psnr(sr, hr, **protocol), ssim(sr, hr, **protocol), ssim(sr, hr, sample_covariance=True, **protocol)
    want = [float(golden[key + channel + tail]) for key, tail in (('psnr_', ''), ('ssim_', ''), ('ssim_', '_sample'))]
    assert got == pytest.approx(want, abs=1e-9, rel=0)
    assert got[1] != pytest.approx(got[2], abs=1e-5)


def test_luma_is_bt601_studio_swing():
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    want = [[16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966]]
    assert luma(rgb).dtype == np.float64
    np.testing.assert_allclose(luma(rgb), want, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(luma(rgb.astype(np.float32)), luma(rgb))
    with pytest.raises(ValueError, match=r'\[H,W,3\]'):
        luma(rgb[0])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2 ** 32 - 1), st.integers(0, 4), st.booleans(), st.booleans())
def test_equals_the_reference_on_random_pictures(seed, border, gray, sample):
    rng = np.random.default_rng(seed)
    shape = (11 + 2 * border + rng.integers(0, 4), 11 + 2 * border + rng.integers(0, 4)) + (() if gray else (3,))
    hr = rng.uniform(0, 255, shape)
    sr = np.clip(hr + rng.normal(0, 30, shape), 0, 255)
    for channel in ('y', 'rgb'):
        protocol = {'crop_border': border, 'channel': channel}
        assert psnr(sr, hr, **protocol) == pytest.approx(slow_reference.psnr(sr, hr, border, channel), abs=1e-9)
        want = slow_reference.ssim(sr, hr, border, channel, sample)
        assert ssim(sr, hr, sample_covariance=sample, **protocol) == pytest.approx(want, abs=1e-9)


def test_equal_pictures_and_symmetry(golden):
    sr, hr = golden['sr'], golden['hr']
    for channel in ('y', 'rgb'):
        protocol = {'crop_border': 2, 'channel': channel}
        assert psnr(hr, hr, **protocol) == float('inf')
        assert ssim(hr, hr, **protocol) == pytest.approx(1, abs=1e-12)
        assert psnr(sr, hr, **protocol) == psnr(hr, sr, **protocol)
        assert ssim(sr, hr, **protocol) == pytest.approx(ssim(hr, sr, **protocol), abs=1e-12)


def test_one_level_off_is_48_decibels_and_the_border_does_not_count():
    hr = np.full((32, 40, 3), 100, np.uint8)
    sr = hr + np.uint8(1)
    sr[:4] = sr[-4:] = 255
    sr[:, :4] = sr[:, -4:] = 255
    assert psnr(sr, hr, crop_border=4, channel='rgb') == pytest.approx(20 * np.log10(255), abs=1e-12)
    assert psnr(sr, hr, crop_border=3, channel='rgb') < 30


def test_tall_pictures_are_scored_without_seams():
    rng = np.random.default_rng(0)
    hr = rng.uniform(0, 255, (150, 14))
    sr = hr + rng.normal(0, 9, hr.shape)
    want = slow_reference.ssim(sr, hr, 0, 'y')
    assert ssim(sr, hr, crop_border=0, channel='y') == pytest.approx(want, abs=1e-9)


def test_protocol_has_no_default():
    picture = np.zeros((16, 16))
    for score in (psnr, ssim):
        for arguments in ({}, {'crop_border': 2}, {'channel': 'y'}):
            with pytest.raises(TypeError):
                score(picture, picture, **arguments)
        with pytest.raises(TypeError):
            score(picture, picture, 2, 'y')


@pytest.mark.parametrize('score', [psnr, ssim])
def test_wrong_arguments_are_named(score):
    good = np.zeros((16, 18, 3), np.uint8)
    cases = [
        (good[:15], good, 2, 'y', r'\(15, 18, 3\).*\(16, 18, 3\)'),
        (good[..., :1], good[..., :1], 2, 'y', r'\(16, 18, 1\)'),
        (good.astype(np.uint16), good, 2, 'y', 'uint16'),
        (good, good, 2, 'Y', "'Y'; known"),
        (good, good, -1, 'y', '-1'),
        (good, good, 1.5, 'y', '1.5'),
        (good, good, 8, 'y', '16x18.*border of 8.*0x2'),
    ]
    for sr, hr, border, channel, message in cases:
        with pytest.raises(ValueError, match=message):
            score(sr, hr, crop_border=border, channel=channel)


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match='10x18.*11x11'):
        ssim(np.zeros((10, 18)), np.zeros((10, 18)), crop_border=0, channel='y')
    assert psnr(np.zeros((1, 1)), np.ones((1, 1)), crop_border=0, channel='y') == pytest.approx(20 * np.log10(255))
