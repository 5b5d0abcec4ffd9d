"""The authors' chop: their own numbers (golden/), a recursion written as they describe it, pictures too small."""
import json

import numpy as np
import pytest
from test_model import GOLDEN, made

from common import tiles
from src.chop import LARGE, chopped, part_of, parts
from src.CSNLN import SCALES
from upscaler import Upscaler


@pytest.fixture(scope='module', params=SCALES)
def golden(request):
    """({name: array} of a run of the authors' code, Upscaler of its weights), by the kernels of 'auto'."""
    arrays = {}
    for kind in ('authors', 'chop'):
        with np.load(GOLDEN / f'{kind}_x{request.param}.npz') as file:
            arrays.update(file)
    return arrays, Upscaler(made(dict(arrays, meta=json.loads(str(arrays['meta']))), 'auto'))


def assert_near(upscale, lr, expected):
    """upscale, of pictures in 0..255, gives what the authors' code does of [1,3,H,W] in 0..1."""
    sr = upscale(lr[0].transpose(1, 2, 0) * 255) / 255
    np.testing.assert_allclose(sr.transpose(2, 0, 1), expected[0], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_authors_numbers(golden):
    """Parts, and the mean over 8 flips and turns."""
    arrays, upscaler = golden
    lr, size = arrays['chop_input'], arrays['chop_input'].shape[2:]
    upscale, by_parts = upscaler.planned([size], chop=True)
    assert by_parts
    assert_near(upscale, lr, arrays['chop_output'])
    with pytest.raises(AssertionError):  # the test can tell parts from the whole
        assert_near(upscaler.planned([size])[0], lr, arrays['chop_output'])
    ensemble, _ = upscaler.planned([arrays['input'].shape[2:]], ensemble=True)
    assert_near(ensemble, arrays['input'][:1], arrays['output_x8'])


class Marking:
    """An upscale function: pixels enlarged, and a mark by which every part and every place in it differ."""

    def __init__(self, scale):
        self.scale, self.seen = scale, []

    def __call__(self, lr):
        self.seen.append(lr.shape[:2])
        sr = np.kron(lr, np.ones((self.scale, self.scale, 1), np.float32))
        return (sr + lr.sum() % 64 + np.arange(sr.size).reshape(sr.shape) % 97).astype(np.float32)


def by_quarters(upscale, lr, scale):
    """The authors' description, word for word, for pictures that are large enough for it."""
    height, width = lr.shape[:2]
    sides = [side // 2 + 10 for side in (height, width)]
    down, right = (side + scale - side % scale for side in sides)
    quarters = {}
    for v, rows in (('top', slice(0, down)), ('bottom', slice(height - down, height))):
        for h, columns in (('left', slice(0, right)), ('right', slice(width - right, width))):
            part = lr[rows, columns]
            quarters[v, h] = upscale(part) if down * right < 3600 else by_quarters(upscale, part, scale)
    up, back = scale * (height // 2), scale * (width // 2)
    rest = scale * height - up, scale * width - back
    upper = np.concatenate([quarters['top', 'left'][:up, :back], quarters['top', 'right'][:up, -rest[1]:]], 1)
    lower = np.concatenate([quarters['bottom', 'left'][-rest[0]:, :back],
                            quarters['bottom', 'right'][-rest[0]:, -rest[1]:]], 1)
    return np.concatenate([upper, lower])


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('size', [(43, 35), (60, 60), (100, 150), (113, 113), (301, 200)], ids=str)
def test_quarters_of_quarters(size, scale):
    lr = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    upscale, expected = Marking(scale), Marking(scale)
    assert np.array_equal(chopped(upscale, scale)(lr), by_quarters(expected, lr, scale))
    assert sorted(upscale.seen) == sorted(expected.seen) and len(set(upscale.seen)) == 1


@pytest.mark.parametrize('scale', SCALES)
def test_pictures_too_small_for_quarters(scale):
    """The authors' code reads beyond them; ours takes the side whole, and still every pixel comes from one part."""
    for size in [(1, 1), (3, 5), (22, 22), (23, 31), (28, 28), (1, 5000), (400, 27)]:
        lr = np.random.default_rng(1).uniform(0, 255, (*size, 3)).astype(np.float32)
        seen = []

        def upscale(part, seen=seen):
            seen.append(part.shape[:2])
            return np.kron(part, np.ones((scale, scale, 1), np.float32))
        assert np.array_equal(chopped(upscale, scale)(lr), upscale(lr))
        height, width = part_of(*size, scale)
        assert set(seen[:-1]) == {(height, width)} and height * width < LARGE
    assert parts(1, 1, scale) == ([(0, 1, 0, 1)], [(0, 1, 0, 1)])


def test_each_part_is_reported_and_checked():
    lr, told = np.zeros((60, 60, 3), np.float32), []
    with tiles.watched(lambda done, total: told.append((done, total))):
        chopped(Marking(2), 2)(lr)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match='is it for scale 2'):
        chopped(Marking(3), 2)(lr)
    with pytest.raises(ValueError, match='NaN'):
        chopped(lambda part: Marking(2)(part) * np.nan, 2)(lr)
